"""Check of a dataset before a training: splits and tasks that cannot be used."""

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.dataset import Dataset

FEWEST_CLASSES = 2
"""Classes with rows that a task needs, to be learned in train, and to be judged in validation."""


def require_trainable(dataset: Dataset, view: View) -> None:
    """Checks that each task can be learned from the train split, and some task be judged on the validation split.

    Args:
      dataset: a dataset with the trained tasks alone.
      view: the view whose rows are read.

    Raises:
      FlowloomError: naming the split or the task that cannot be used.
    """
    card = dataset.card
    splits = card.view_splits.get(view, card.splits)
    for split in ("train", "validation"):
        if split not in splits or not splits[split].rows:
            raise FlowloomError(
                f"dataset {dataset.root}: the {split} split must have rows to train a model, got none; build the "
                "dataset with more captures or other splits"
            )
    for task in card.tasks:
        present = _present(dataset, view, "train", task.name)
        if len(present) < FEWEST_CLASSES:
            others = ", ".join(each.name for each in card.tasks if each is not task)
            omit = f", or train the other tasks with --set tasks=[{others}]" if others else ""
            raise FlowloomError(
                f"dataset {dataset.root}: task {task.name!r} must have rows of at least {FEWEST_CLASSES} classes in "
                f"the train split, got {f'only {present[0]}' if present else 'none'}; build the dataset with captures "
                f"of the other classes{omit}"
            )
    if not any(len(_present(dataset, view, "validation", task.name)) >= FEWEST_CLASSES for task in card.tasks):
        raise FlowloomError(
            f"dataset {dataset.root}: the validation split must have rows of at least {FEWEST_CLASSES} classes of a "
            "task, by which the best epoch is chosen, got none; build the dataset with more captures or other splits"
        )


def _present(dataset: Dataset, view: View, split: str, task: str) -> list[str]:
    """Returns the classes of a task with rows in a split."""
    counts = dataset.card.view_splits.get(view, dataset.card.splits)[split]
    return [label for label, rows in counts.classes.get(task, {}).items() if rows]
