"""The manifests in docs/corpora/ build what their authors published, and the cards tell what is wrong with the sets."""

from pathlib import Path

import pytest

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.verify import verify
from flowloom.schemas.dataset.dataset_card import DatasetCard

CORPORA = Path(__file__).resolve().parents[2] / "docs" / "corpora"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def make(real_data, tmp_path):
    """Returns a function that builds one of the manifests, with a part of its text replaced."""

    def built(name: str, old: str = "", new: str = "") -> DatasetCard:
        for folder in real_data.iterdir():
            (tmp_path / folder.name).symlink_to(folder)
        text = (CORPORA / f"{name}.yaml").read_text()
        assert old in text
        (tmp_path / f"{name}.yaml").write_text(text.replace(old, new))
        card = build(BuildOptions(tmp_path / f"{name}.yaml", tmp_path / "dataset"))
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
