"""Drafts of manifests: they build as they are, label flows by folders, names and tables, and list faults."""

import datetime as dt
import itertools
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.demo_corpus import CORPUS
from flowloom.pipelines.draft.draft_manifest import draft_manifest
from flowloom.pipelines.draft.guess_groups import rotated_sets
from flowloom.pipelines.draft.guess_labels import guess_labels, label_paths
from flowloom.pipelines.flows import FlowsOptions, meter_captures
from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError

pytestmark = pytest.mark.timeout(240)

DEVICES = [
    f"{device}/Setup-{person}-{run}-STA.pcap" for device in ("Aria", "Hue") for person in "AC" for run in (1, 2, 10)
]
APPS = [f"v{version}/android{version}_{app}_cache{run:02d}.pcap" for version in (71, 81) for app in ("cp", "reddit")
        for run in range(3)]  # fmt: skip
NESTED = [f"{app}/{tunnel}-{run:02d}.pcap.zst" for app in ("web/nginx", "web/http3", "mail/smtp")
          for tunnel in ("plain", "vpn") for run in range(3)]  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (DEVICES, {DEVICES[0]: {"folder": "Aria"}, DEVICES[-1]: {"folder": "Hue"}}),
        (APPS, {APPS[0]: {"folder": "v71", "name": "cp"}, APPS[-1]: {"folder": "v81", "name": "reddit"}}),
        (NESTED, {NESTED[0]: {"folder1": "web", "folder2": "nginx", "name": "plain"}}),
        ([path.rpartition("/")[2] for path in APPS],
         {"android71_cp_cache00.pcap": {"name1": "android71", "name2": "cp"}}),
        (["web1.pcap", "web2.pcap", "ssh1.pcap", "ssh2.pcap"],
         {"web1.pcap": {"name": "web"}, "ssh2.pcap": {"name": "ssh"}}),
        (["skype.pcapng.gz", "ssh.pcap"], {"skype.pcapng.gz": {"name": "skype"}, "ssh.pcap": {"name": "ssh"}}),
        (["lab/a/1.pcap", "lab/b/1.pcap", "2.pcap"], {"lab/a/1.pcap": {"folder": "a"}, "2.pcap": {}}),
    ],
)  # fmt: skip
def test_labels_are_in_folders_and_in_parts_of_names_that_repeat(paths, labels):
    guess = guess_labels(paths)
    found = label_paths(guess.label_from, paths)
    assert {path: found[path] for path in labels} == labels
    assert set(guess.reasons) == {task for each in found.values() for task in each}


@pytest.mark.parametrize("paths", [["a.pcap"], ["trace-1.pcap", "trace-2.pcap"]])
def test_paths_without_classes_name_no_labels(paths):
    assert guess_labels(paths) is None


@pytest.mark.parametrize(
    ("paths", "sets"),
    [
        (["gw/t.pcap", "gw/t.pcap1", "gw/t.pcap02"], {"gw/t*": 3}),
        (["gw/t_00001_20260131235959.pcapng", "gw/t_00002_20260131235959.pcapng", "x.pcap"], {"gw/t*": 2}),
        (["gw/t-2026-01-31_10.pcap", "gw/t-2026-01-31_11.pcap"], {"gw/t*": 2}),
        (["gw/t-01.pcap", "gw/t-02.pcap"], {}),
    ],
)
def test_files_of_one_recording_have_the_names_of_known_tools(paths, sets):
    assert rotated_sets(paths) == sets


def built(folder: Path, text: str, out: Path) -> DatasetCard:
    out.with_suffix(".yaml").write_text(text)
    return build(BuildOptions(out.with_suffix(".yaml"), out, workers=1, data=folder))


def rows_by(out: Path, card: DatasetCard, *columns: str) -> pl.DataFrame:
    frames = [pl.from_arrow(pq.ParquetFile(out / shard.path).read([*columns])) for shard in card.shards]
    return pl.concat(frames)


def test_a_draft_builds_as_it_is_and_its_estimates_are_the_flows_of_the_build(corpus, tmp_path):
    folder = tmp_path / "office"
    for name in ("web", "ssh", "attack"):
        shutil.copytree(corpus / name, folder / name)
    (folder / "web" / "notes.txt").write_text("no capture")
    (folder / "DATASET" / "flows").mkdir(parents=True)
    (folder / "DATASET" / "dataset.json").write_text("{}")
    (folder / "DATASET" / "flows" / "part.parquet").write_text("a shard is no label table")
    for number in range(7):
        (folder / f"notes-{number}.csv").write_text("a,b\n1,2\n")
    draft = draft_manifest(folder)
    assert draft.findings == ()
    assert "DATASET" not in draft.text
    assert draft.text.count("not used, because no column seems to be a start time or a label; columns: a, b") == 5
    assert "# 2 more tables: not used" in draft.text
    card = built(folder, draft.text, tmp_path / "dataset")
    assert (draft.captures, card.accounting.captures) == (18, 18)
    totals = {
        name: sum(split.classes["folder"][name] for split in card.splits.values()) for name in ("attack", "ssh", "web")
    }
    assert {each.label: each.flows for each in draft.classes} == totals
    assert {each.label: each.captures for each in draft.classes} == {"web": 5, "ssh": 6, "attack": 7}
    assert card.split_rule.by == "capture"
    assert card.accounting.rejects == 0


def test_a_draft_of_the_embedded_corpus_names_its_levels():
    draft = draft_manifest(CORPUS / "captures")
    manifest = parse_manifest(yaml.safe_load(draft.text), "draft.yaml")
    assert [task.name for task in manifest.tasks] == ["folder1", "folder2", "name"]
    labels = {task: {each.label for each in draft.classes if each.task == task} for task in ("folder2", "name")}
    assert {"nginx", "ssh", "syn_flood"} <= labels["folder2"]
    assert labels["name"] == {"plain", "openvpn", "wireguard", "attack", "benign"}
    assert all(line.count("#") for line in draft.text.splitlines() if "label_from" in line or "glob" in line)


@pytest.fixture(scope="module")
def tabled(corpus, tmp_path_factory) -> Path:
    """A folder with captures, a table of their flows on a clock 3 hours ahead, and other files."""
    folder = tmp_path_factory.mktemp("tabled")
    for number, capture in enumerate(sorted(corpus.glob("web/*.pcap"))):
        shutil.copy(capture, folder / f"day-{number}.pcap")
    meter_captures(FlowsOptions((str(folder / "*.pcap"),), folder / "flows.parquet"))
    flows = pq.read_table(folder / "flows.parquet").to_pylist()
    (folder / "flows.parquet").unlink()
    lines = ["Src IP,Dst IP, Source Port,Destination Port,Protocol,Timestamp,Flow Duration,Label"]
    for at, row in enumerate(flows):
        ends = [".".join(map(str, row[f"{side}_ip"][12:])) for side in ("dst", "src")]  # the other direction
        time = dt.datetime.fromtimestamp(row["start"].value // 10**9 + 3 * 3600, dt.UTC)
        ports = f"{row['dst_port']},{row['src_port']},{row['protocol']}"
        rest = f"{time:%d/%m/%Y %H:%M:%S},{row['duration_ns'] // 1000},{'DoS' if at % 3 == 0 else 'BENIGN'}"
        lines.append(f"{','.join(ends)},{ports},{rest}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "conn.log.labeled").write_text("#separator \\x09\n")
    (folder / "names.csv").write_text("device,mac\na,b\n")
    return folder


def test_a_label_table_is_found_with_its_columns_and_clock(tabled, tmp_path):
    draft = draft_manifest(tabled)
    manifest = parse_manifest(yaml.safe_load(draft.text), "draft.yaml")
    (table,) = itertools.chain(*(entry.label_tables for entry in manifest.captures))
    assert table.columns.model_dump(exclude_none=True) == {
        "src_ip": "Src IP", "dst_ip": "Dst IP", "src_port": "Source Port", "dst_port": "Destination Port",
        "protocol": "Protocol", "start": "Timestamp", "duration_us": "Flow Duration", "label": "Label",
    }  # fmt: skip
    assert (table.clock_offset_s, table.time_format) == (10_800, "%d/%m/%Y %H:%M:%S")
    assert table.words == {"BENIGN": "negative", "DoS": "positive"}
    assert "conn.log.labeled: not used, because the table cannot be read (the header of a log of Zeek" in draft.text
    assert (
        "names.csv: not used, because no column seems to be a start time or a label; columns: device, mac" in draft.text
    )
    card = built(tabled, draft.text, tmp_path / "dataset")
    counts = rows_by(tmp_path / "dataset", card, "label_label")["label_label"].value_counts()
    rows = dict(counts.iter_rows())
    assert rows[1] == -(-sum(rows.values()) // 3), (
        "every third flow of the table is an attack, and all flows are labelled"
    )
    assert None not in rows


def test_a_folder_without_classes_says_so_in_the_draft_and_cannot_be_built(corpus, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(corpus / "web/0.pcap", tmp_path / "one" / "trace.pcap")
    (tmp_path / "one" / "bad.pcap").write_text("no capture at all")
    draft = draft_manifest(tmp_path / "one")
    assert "give entries labels, such as labels: {label: a}" in draft.text
    assert draft.findings[0].startswith("bad.pcap: expected pcap, pcapng or snoop")
    assert draft.findings[1].startswith("no class was found in folders, names or tables")
    with pytest.raises(FlowloomError, match="task 'label': no flow has a label; no entry of captures labels it"):
        built(tmp_path / "one", draft.text, tmp_path / "dataset")


def test_few_captures_and_missing_labels_are_findings(corpus, tmp_path):
    folder = tmp_path / "few"
    for source, target in (("web/0", "a/1"), ("web/1", "a/2"), ("ssh/0", "b/1"), ("ssh/1", "loose")):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(corpus / f"{source}.pcap", folder / f"{target}.pcap")
    assert draft_manifest(folder).findings == (
        "captures without a label: 1, such as loose.pcap",
        "task 'folder': fewer than 3 captures of a, b, so that flows of one capture will be in train and test",
    )


def test_a_folder_without_captures_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(FlowloomError, match="the folder must have captures, got none in 1 files"):
        draft_manifest(tmp_path)
    with pytest.raises(FlowloomError, match="the folder of captures must exist; check the path"):
        draft_manifest(tmp_path / "none")


def test_a_table_with_a_row_for_each_record_is_a_packet_table(corpus, tmp_path):
    folder = tmp_path / "packets"
    folder.mkdir()
    shutil.copy(corpus / "web/0.pcap", folder / "trace.pcap")
    meter_captures(FlowsOptions((str(folder / "trace.pcap"),), tmp_path / "f.parquet"))
    records = meter_captures(FlowsOptions((str(folder / "trace.pcap"),), tmp_path / "f.parquet")).captures[0]["records"]
    (folder / "marks.csv").write_text("".join(f"{at},{int(at > records // 2)}\n" for at in range(records)))
    draft = draft_manifest(folder)
    manifest = parse_manifest(yaml.safe_load(draft.text), "draft.yaml")
    (table,) = [entry.packet_table for entry in manifest.captures if entry.packet_table]
    assert (table.path, table.header, table.words) == ("marks.csv", False, {"0": "negative", "1": "positive"})
    card = built(
        folder, draft.text.replace("by: auto", "by: flow, train: 0.4, validation: 0.3, test: 0.3"), tmp_path / "dataset"
    )
    (coverage,) = [entry for entry in card.coverage if entry.kind == "packets"]
    assert coverage.labelled == coverage.flows == card.accounting.flows


def test_the_glob_names_folders_that_all_captures_share(corpus, tmp_path):
    for name in ("results/web.pcap", "pcaps/web/1.pcap", "pcaps/ssh/1.pcap"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("id,application\n")
    for name in ("web", "ssh"):
        shutil.copy(corpus / f"{name}/0.pcap", tmp_path / f"pcaps/{name}/1.pcap")
    manifest = parse_manifest(yaml.safe_load(draft_manifest(tmp_path).text), "draft.yaml")
    assert [entry.glob for entry in manifest.captures] == ["pcaps/*/*.pcap"]
