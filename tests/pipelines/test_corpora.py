"""The manifests in docs/corpora/ build what their authors published, and the cards tell what is wrong with the sets."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.verify import verify
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, DatasetCard, read_card

CORPORA = Path(__file__).resolve().parents[2] / "docs" / "corpora"

pytestmark = pytest.mark.timeout(600)


def built_subset(name: str, data: Path, captures: list[str], tmp_path: Path) -> DatasetCard:
    """Builds a manifest that lies elsewhere from some of its captures."""
    subset = tmp_path / "subset"
    for capture in captures:
        (subset / capture).parent.mkdir(parents=True, exist_ok=True)
        (subset / capture).symlink_to(data / capture)
    card = build(BuildOptions(CORPORA / f"{name}.yaml", tmp_path / "dataset", data=subset, allow_empty=True))
    assert verify(tmp_path / "dataset").content_hash == card.content_hash
    return card


def labels_of(folder: Path, tasks: tuple[str, ...]) -> dict[str, set[tuple]]:
    """Returns the labels of the rows of each capture by its path."""
    card = read_card(folder)
    captures = pq.read_table(folder / CAPTURES_TABLE).to_pylist()
    paths = {row["group"]: row["uri"] for row in captures}
    words = {task.name: task.vocabulary for task in card.tasks}
    found: dict[str, set[tuple]] = {}
    for shard in (shard for shard in card.shards if shard.view == "flows"):
        for row in pq.ParquetFile(folder / shard.path).read().to_pylist():
            found.setdefault(paths[row["group"]], set()).add(tuple(words[task][row[f"label_{task}"]] for task in tasks))
    return found


def test_iot_sentinel_is_labelled_by_folder_and_map(real_data, tmp_path):
    folders = ("Aria", "EdimaxCam1", "EdimaxCam2", "HueBridge", "WeMoSwitch2")
    captures = [
        str(path.relative_to(real_data / "iot-sentinel"))
        for folder in folders
        for path in sorted((real_data / "iot-sentinel" / folder).glob("*.pcap"))[:3]
    ]
    card = built_subset("iot-sentinel", real_data / "iot-sentinel", captures, tmp_path)
    assert card.accounting.captures == len(captures)
    expected = {
        "Aria": ("Aria", "Fitbit", "scale"),
        "EdimaxCam1": ("EdimaxCam", "Edimax", "camera"),
        "EdimaxCam2": ("EdimaxCam", "Edimax", "camera"),
        "HueBridge": ("HueBridge", "Philips", "hub"),
        "WeMoSwitch2": ("WeMoSwitch", "Belkin", "switch"),
    }
    found = labels_of(tmp_path / "dataset", ("device", "vendor", "category"))
    assert found == {capture: {expected[Path(capture).parent.name]} for capture in captures}


def test_ja3s_apps_are_labelled_by_a_pattern(real_data, tmp_path):
    data = real_data / "ja3s-apps"
    captures = [str(path.relative_to(data)) for path in sorted(data.glob("ma3/*/*cache0[03].pcap"))]
    built_subset("ja3s-apps", data, captures, tmp_path)
    found = labels_of(tmp_path / "dataset", ("android", "app"))
    for capture in captures:
        android, app, _ = Path(capture).stem.split("_")
        assert found[capture] == {({"android71": "7.1", "android81": "8.1"}[android], app)}


@pytest.fixture
def make(real_data, tmp_path):
    """Returns a function that builds one of the manifests, with a part of its text replaced."""

    def built(name: str, old: str = "", new: str = "") -> DatasetCard:
        for folder in real_data.iterdir():
            (tmp_path / folder.name).symlink_to(folder)
        text = (CORPORA / f"{name}.yaml").read_text()
        assert old in text
        (tmp_path / f"{name}.yaml").write_text(text.replace(old, new))
        # the captures of kitsune-mirai are all of one class
        card = build(BuildOptions(tmp_path / f"{name}.yaml", tmp_path / "dataset", allow_empty=True))
        assert verify(tmp_path / "dataset").content_hash == card.content_hash
        return card

    return built


def totals(card: DatasetCard, task: str) -> dict[str, int]:
    words = next(known.vocabulary for known in card.tasks if known.name == task)
    return {word: sum(split.classes[task][word] for split in card.splits.values()) for word in words}


def test_certta(make):
    card = make("certta")
    assert [entry.rows for entry in card.published] == [600, 600, 480, 480]
    assert card.accounting.flows == 2_160
    assert totals(card, "attack") == {"negative": 600 + 480, "positive": 600 + 480}
    assert totals(card, "traffic")["bruteforce-http"] == 160
    determined = next(each for each in card.overlap if each.split == "train" and each.tasks == ("traffic", "attack"))
    assert determined.cramers_v == pytest.approx(1.0)


@pytest.mark.slow
def test_quic_and_its_confound(make):
    card = make("quic-ucdavis")
    assert set(totals(card, "service").values()) == {30}
    assert card.split_rule.by == "capture"
    confounded = {(each.split, each.tasks): each for each in card.overlap}["train", ("service", "bandwidth")]
    assert confounded.cramers_v > 0.7
    assert confounded.determined > 3 * confounded.commonest


@pytest.mark.slow
def test_kitsune(make):
    card = make("kitsune-mirai")
    assert totals(card, "attack") == {"negative": card.accounting.flows, "positive": 0}
    assert card.published[0].set_aside == {"bad-row": 1, "no-flow-key": 3_069}


@pytest.mark.slow
@pytest.mark.parametrize("header", ["strip", "keep"])
def test_iscx_and_the_bytes_that_leak(make, header):
    card = make("iscx-wang2017", "header: strip", f"header: {header}")
    assert totals(card, "tunnel") == {"plain": 24_229, "vpn": 11_272}
    rules = {rule.task: rule for rule in card.byte_rules}
    assert (23 in rules["tunnel"].leaking) == (header == "keep")
    assert not rules["traffic"].leaking
    if header == "keep":
        assert rules["tunnel"].right > 0.99


@pytest.mark.slow
def test_cicids(make):
    card = make("cicids2017")
    assert totals(card, "family")["benign"] == totals(card, "attack")["negative"] == 60_155
    assert card.published[0].rows == 68_910
    assert card.published[0].set_aside == {"not-finite": 67, "other-format": 1}
    assert card.published[0].repeated > 1_015


@pytest.mark.slow
def test_nfstream_labels_by_dpi(make):
    pytest.importorskip("nfstream", reason="needs NFStream (pip install flowloom[dpi])")
    card = make("nfstream-tests")
    assert card.accounting.captures >= 215
    found = totals(card, "category")
    assert sum(found.values()) > 800
    assert max(found, key=found.__getitem__) in ("Web", "Network")
