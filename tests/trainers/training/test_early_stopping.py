"""The kept epoch and the end of a training, by histories written by hand."""

import pytest

from flowloom.trainers.training.early_stopping import best_epoch, score, stalled, total_loss


def history(scores, losses=None):
    losses = losses or [1.0] * len(scores)
    return [
        {"epoch": epoch, "score": value, "validation_total_loss": loss, "validation_auc": {"a": value}}
        for epoch, (value, loss) in enumerate(zip(scores, losses, strict=True), start=1)
    ]


def test_the_highest_score_wins_and_the_loss_breaks_ties():
    assert best_epoch(history([0.5, 0.9, 0.7])) == 2
    assert best_epoch(history([0.5, 1.0, 1.0, 1.0], [4, 3, 1, 2])) == 3
    assert best_epoch(history([0.9, 0.9])) == 1


def test_without_scores_the_last_epoch_is_kept_and_nothing_stalls():
    nothing = history([None, None, None])
    assert best_epoch(nothing) == 3
    assert not stalled(nothing, 1)


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.6, 0.6], 2, False),
        ([0.5, 0.6, 0.6, 0.1], 2, True),
    ],
)
def test_patience_counts_epochs_without_a_better_score(scores, patience, expected):
    assert stalled(history(scores), patience) is expected


def test_the_score_is_a_mean_over_the_tasks_where_it_is_defined():
    record = {"validation_auc": {"a": 0.5, "b": None, "c": 0.7}, "validation_total_loss": 2.0}
    assert score(record, "auc") == pytest.approx(0.6)
    assert score(record, "loss") == -2
    assert score({"validation_auc": {"a": None}}, "auc") is None
    assert score({"validation_total_loss": None}, "loss") is None


def test_the_total_loss_weighs_tasks_as_training_does():
    losses = {"a": 1.0, "b": None, "c": 3.0}
    assert total_loss(losses, {}) == 4
    assert total_loss(losses, {"a": 6, "b": 2, "c": 0.5}) == 7.5
    assert total_loss({"b": None}, {}) is None
