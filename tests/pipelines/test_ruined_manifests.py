"""Manifests that would ruin a dataset: each stops the build or leaves a warning, in the words of its fault."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.pipelines.build import BuildOptions, build
from flowloom.schemas.dataset.dataset_card import DatasetCard, read_card
from flowloom.schemas.dataset.dataset_findings import find_problems
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.training.train import TrainOptions, train

NS = 1_700_000_000_000_000_000
WEB = {"glob": "web/*.pcap", "labels": {"app": "web"}}
SSH = {"glob": "ssh/*.pcap", "labels": {"app": "ssh"}}
APP = {"app": {"kind": "multiclass", "vocabulary": ["web", "ssh"]}}
OPEN = {"app": {"kind": "multiclass"}}
FLOW = {"by": "flow"}
DAY_LATE = """src,dst,time,label
10.0.0.1,10.250.0.1,2023-11-15 22:13:20,web
10.1.0.1,10.250.0.1,2023-11-15 22:13:20,ssh
"""
TABLE = {
    "path": "late.csv", "task": "app", "time_format": "%Y-%m-%d %H:%M:%S",
    "columns": {"src_ip": "src", "dst_ip": "dst", "start": "time", "label": "label"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory) -> Path:
    """The small corpus, and captures that are unusual."""
    folder = tmp_path_factory.mktemp("ruined")
    for name in ("web", "ssh", "attack"):
        (folder / name).symlink_to(corpus / name)
    made = {
        "rare": [("10.9.0.1", 1000)],
        "lan": [(f"10.8.1.{host}", port) for host in range(40) for port in range(2000, 2008)],
    }
    for name, ends in made.items():
        frames = [(NS + at, ethernet(ipv4(udp(bytes(9), port, 53), host, "10.8.0.2", 17)))
                  for at, (host, port) in enumerate(ends)]  # fmt: skip
        (folder / name).mkdir()
        (folder / name / "1.pcap").write_bytes(pcap(frames))
    (folder / "parts").mkdir()
    for name, part in (("t.pcap", "web/1.pcap"), ("t.pcap1", "web/2.pcap")):
        (folder / "parts" / name).write_bytes((corpus / part).read_bytes())
    (folder / "late.csv").write_text(DAY_LATE)
    return folder


@dataclasses.dataclass(frozen=True)
class Ruin:
    """A manifest with a fault.

    Attributes:
      captures, keys: entries and other keys of the manifest.
      words: parts of the error, or of the warning if it is none.
      data: the folder of relative paths, below that of the manifest.
    """

    captures: list[dict]
    words: tuple[str, ...]
    stops: bool = True
    keys: dict = dataclasses.field(default_factory=dict)
    data: str = ""


RUINS = {
    "a class lost by a misspelt glob": Ruin(
        [WEB, {**SSH, "glob": "shs/*.pcap"}],
        ("must match a file", "captures.1 'shs/*.pcap' (did you mean 'ssh'?)", "--data", "--allow-empty"),
    ),
    "an empty split": Ruin(
        [{**WEB, "glob": "web/0.pcap"}, {**SSH, "glob": "ssh/0.pcap"}],
        ("the test split has no row, although its share is 0.2 (by: capture", "add captures, or choose other splits"),
        keys={"splits": {"by": "capture"}},
    ),
    "an entry without a label": Ruin(
        [WEB, SSH, {"glob": "attack/*.pcap"}],
        ("attack/*.pcap: 84 flows of 7 capture groups have no label of any task; give the entry labels",),
        stops=False,
    ),
    "a capture under two labels": Ruin(
        [WEB, SSH, {"glob": "web/0.pcap", "labels": {"app": "ssh"}}],
        ("task 'app': web/0.pcap labels 12 flows otherwise than an earlier source, and they keep the first label",),
        stops=False,
    ),
    "a recording under two labels": Ruin(
        [
            {**WEB, "glob": "parts/t.pcap", "group": "rotated"},
            {**SSH, "glob": "parts/t.pcap1", "group": "rotated"},
            SSH,
        ],
        ("task 'app': parts/t.pcap1 labels 24 flows otherwise than an earlier source",),
        stops=False,
    ),
    "one file alone": Ruin(
        [{"glob": "web/0.pcap", "label_from": {"app": "parent-folder"}}],
        ("task 'app' must have at least 2 label values, got only 'web'", "label captures of another class"),
        keys={"tasks": OPEN},
    ),
    "a class with one flow": Ruin(
        [WEB, SSH, {"glob": "rare/*.pcap", "labels": {"app": "rare"}}],
        ("task 'app': the train split has no row of rare (1 row in all)",),
        stops=False,
        keys={"tasks": OPEN, "splits": {**FLOW, "seed": 4}},
    ),
    "an unknown folder": Ruin(
        [{"glob": "[!p]*/*.pcap", "label_from": {"app": "parent-folder"}}],
        ("label_map.app must have a row for every label value, got none for lan, rare; add them, with null",),
        keys={
            "tasks": {**OPEN, "attack": {"kind": "binary"}},
            "label_map": {"app": {name: {"attack": name == "attack"} for name in ("web", "ssh", "attack")}},
        },
    ),
    "a wrong folder of the data": Ruin(
        [WEB, SSH], ("the folder of the data must exist, got", "nowhere; correct --data"), data="nowhere"
    ),
    "a split that shares its hosts": Ruin(
        [{"glob": "lan/*.pcap", "labels": {"app": "web"}}, {**SSH, "glob": "ssh/0.pcap"}],
        ("% of the ", "host pairs of the test split are also in train", "write splits: {by: host_pair}"),
        stops=False,
        keys={"splits": FLOW},
    ),
    "labels that match nothing": Ruin(
        [{"glob": "*/*.pcap", "label_table": TABLE}],
        ("task 'app': no flow has a label (late.csv labels 0 of ", "check its addresses and its clock: clock_offset_s"),
    ),
}


def built(folder: Path, ruin: Ruin, out: Path, *, allow_empty: bool = False) -> DatasetCard:
    """Builds a manifest that lies elsewhere than its captures."""
    document = {"name": "ruined", "captures": ruin.captures, "tasks": APP, "output": {"shards": 1}, **ruin.keys}
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(document))
    data = folder / ruin.data
    return build(BuildOptions(path, out, workers=1, data=data, allow_empty=allow_empty))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("ruin", RUINS.values(), ids=RUINS)
def test_a_ruin_stops_or_warns_in_the_words_of_its_fault(folder, tmp_path, ruin):
    out = tmp_path / "dataset"
    if ruin.stops:
        with pytest.raises(FlowloomError) as caught:
            built(folder, ruin, out)
        said = str(caught.value)
        assert not out.exists()
    else:
        card = built(folder, ruin, out)
        said = "\n".join(finding.text for finding in card.findings)
        assert card.findings == find_problems(card) == read_card(out).findings
        assert {finding.severity for finding in card.findings} == {"warning"}
    for words in ruin.words:
        assert words in said


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["an empty split", "labels that match nothing", "a class lost by a misspelt glob"])
def test_the_card_states_what_was_insisted_on(folder, tmp_path, name):
    card = built(folder, RUINS[name], tmp_path / "dataset", allow_empty=True)
    errors = [finding for finding in card.findings if finding.severity == "error"]
    kinds = {"an empty split": "empty-split", "labels that match nothing": "unlabelled-task"}
    assert kinds.get(name, "empty-class") in {finding.kind for finding in errors}
    with pytest.raises(FlowloomError, match=r"must have rows|must have at least|must have rows of at least"):
        train(TrainOptions(tmp_path / "dataset", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_wrong_path_of_a_dataset_is_named(tmp_path):
    with pytest.raises(
        FlowloomError, match=r"nothing is not a dataset: dataset.json is missing \(there is no such dir"
    ):
        train(TrainOptions(tmp_path / "nothing", tmp_path / "run"))
