"""Findings follow from the counts of a card alone, whatever version wrote it."""

import json

import pytest

from flowloom.schemas.dataset.dataset_card import CARD, DatasetCard, read_card
from flowloom.schemas.dataset.dataset_findings import find_problems, require_usable
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import SEAL

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def whole(synthetic) -> DatasetCard:
    return read_card(synthetic())


def with_counts(card: DatasetCard, **counts: dict[str, int]) -> DatasetCard:
    """Returns a card with other counts of its first task's classes, by split or for `every` split."""
    splits = {}
    for split, known in card.splits.items():
        classes = {**known.classes[card.tasks[0].name], **counts.get("every", {}), **counts.get(split, {})}
        splits[split] = known.model_copy(update={"classes": {**known.classes, card.tasks[0].name: classes}})
    return card.model_copy(update={"splits": splits})


def test_a_whole_dataset_has_no_fault(whole):
    assert find_problems(whole) == ()
    require_usable(whole)


def test_an_empty_split_is_an_error_unless_its_share_is_0(whole):
    splits = {**whole.splits, "test": whole.splits["test"].model_copy(update={"rows": 0})}
    empty = whole.model_copy(update={"splits": splits})
    (found,) = [each for each in find_problems(empty) if each.severity == "error"]
    assert (found.kind, found.split) == ("empty-split", "test")
    rule = whole.split_rule.model_copy(update={"shares": (0.8, 0.2, 0.0)})
    assert find_problems(empty.model_copy(update={"split_rule": rule})) == ()


def test_a_class_without_rows_is_an_error_and_one_that_a_split_lacks_a_warning(whole):
    (found,) = find_problems(with_counts(whole, every={"voip": 0}))
    assert (found.kind, found.severity, found.task) == ("empty-class", "error", "app")
    assert "no flow has the label voip; correct the glob" in found.text
    (found,) = find_problems(with_counts(whole, test={"voip": 0}))
    assert (found.kind, found.severity, found.split) == ("class-not-in-split", "warning", "test")
    with pytest.raises(
        FlowloomError, match=r"no flow has the label voip; .*; to build the dataset anyway, add --allow-e"
    ):
        require_usable(with_counts(whole, every={"voip": 0}))


def test_an_empty_range_of_a_measured_task_is_a_warning(synthetic, whole):
    measured = whole.tasks[0].model_copy(update={"kind": "auto"})
    card = with_counts(whole, every={"voip": 0}).model_copy(update={"tasks": (measured, *whole.tasks[1:])})
    (found,) = find_problems(card)
    assert (found.severity, found.text.endswith("choose other dividers")) == ("warning", True)


def test_a_task_without_labels_is_one_error(whole):
    (found,) = find_problems(with_counts(whole, every=dict.fromkeys(whole.tasks[0].vocabulary, 0)))
    assert (found.kind, found.severity) == ("unlabelled-task", "error")
    assert "no entry of captures labels it" in found.text


def test_tasks_that_were_removed_have_no_findings(whole):
    card = with_counts(whole, every={"voip": 0}).model_copy(update={"tasks": whole.tasks[1:]})
    assert find_problems(card) == ()


def test_a_card_without_findings_opens_and_shows_them(whole, synthetic, tmp_path):
    document = json.loads((synthetic() / CARD).read_text())
    document.pop(SEAL, None)
    for field in ("findings", "unlabelled"):
        document.pop(field, None)
    document["splits"]["test"]["classes"]["app"]["voip"] = 0
    (tmp_path / CARD).write_text(json.dumps(document))
    card = read_card(tmp_path)
    assert card.findings == ()
    assert [finding.kind for finding in find_problems(card)] == ["class-not-in-split"]


def test_a_task_of_a_dataset_has_a_vocabulary(whole, synthetic, tmp_path):
    document = json.loads((synthetic() / CARD).read_text())
    document.pop(SEAL, None)
    document["tasks"][0]["vocabulary"] = []
    (tmp_path / CARD).write_text(json.dumps(document))
    with pytest.raises(
        FlowloomError, match="damaged at tasks: task 'app' of a dataset must have a vocabulary, got none"
    ):
        read_card(tmp_path)
