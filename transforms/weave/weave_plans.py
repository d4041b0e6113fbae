"""Plan of a merge: checks that datasets fit together, and maps their labels to those of the merged dataset."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from flowloom.schemas.corpus.manifest import Output
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import DatasetCard, shard_place
from flowloom.schemas.dataset.views import StoredViews
from flowloom.schemas.errors import FlowloomError, did_you_mean

Layout = Literal["aurora", "rainbow"]
Missing = Literal["unknown", "negative"]
OnConflict = Literal["first", "error", "unknown"]

UNKNOWN = -1
"""The label number that stands for unknown outside of Arrow columns."""


@dataclasses.dataclass(frozen=True)
class WeaveRules:
    """Rules of a merge.

    Attributes:
      layout: fused (Aurora) or striped (Rainbow).
      missing: treatment of labels that no dataset has, under Aurora: unknown, or the first label value of the task.
      on_conflict: treatment of labels that differ between datasets: that of the first one, an error, or unknown.
      words: by task, label values that mean another one of the first dataset with the task.
      shards: shards of each stripe and split; None for the largest number of the datasets.
      name: name of the merged dataset; None to join those of the datasets.
    """

    layout: Layout
    missing: Missing = "unknown"
    on_conflict: OnConflict = "first"
    words: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    shards: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for name, kind in (("layout", Layout), ("missing", Missing), ("on_conflict", OnConflict)):
            value = getattr(self, name)
            if value not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise FlowloomError(
                    f"{name} must be one of {known}, got {value!r}{did_you_mean(value, get_args(kind))}"
                )
        if self.missing == "negative" and self.layout == "rainbow":
            raise FlowloomError(
                "missing: negative is for layout aurora, got rainbow, which has no absent labels; remove it"
            )
        if self.shards is not None and not 1 <= self.shards <= 99_999:
            raise FlowloomError(f"shards must be between 1 and 99,999, got {self.shards}")


@dataclasses.dataclass(frozen=True)
class WeavePlan:
    """Plan of a merge, as its workers need it.

    Attributes:
      datasets: unique names, in order of precedence.
      recodings: for each dataset, by task the new label number of each old one, below 0 for unknown.
      stored: the columns of the rows.
    """

    rules: WeaveRules
    datasets: tuple[str, ...]
    tasks: tuple[Task, ...]
    recodings: tuple[Mapping[str, np.ndarray], ...]
    stored: StoredViews
    output: Output

    def fills(self, task: Task) -> bool:
        """Returns whether absent labels of a task become its first label value; measured tasks are never filled."""
        return self.rules.missing == "negative" and task.kind != "auto"


def plan_weave(cards: Sequence[DatasetCard], rules: WeaveRules) -> WeavePlan:
    """Plans the merge of datasets.

    Raises:
      FlowloomError: naming the first property that differs and must not (views, flow definition, identities, key or
        tasks), or a rule about label values that no dataset has.
    """
    names = dataset_names(cards)
    for name, card in zip(names, cards, strict=True):
        if card.views != ("flows",):
            raise FlowloomError(f"weave takes datasets of the view flows, got {', '.join(card.views)} in {name!r}")
        _check_same("flow definitions", _definition(cards[0]), _definition(card), (names[0], name))
        first, other = ({"identity": each.identity, "key_id": each.key_id} for each in (cards[0], card))
        _check_same("identities", first, other, (names[0], name))
    tasks: dict[str, tuple[str, Task]] = {}
    for name, card in zip(names, cards, strict=True):
        for task in card.tasks:
            owner, known = tasks.setdefault(task.name, (name, task))
            _check_task(known, task, (owner, name), recoded=task.name in rules.words)
    merged = {name: task for name, (_, task) in tasks.items()}
    _check_words(rules.words, merged, cards)
    recodings = tuple(
        {task.name: _recoding(merged[task.name], task, rules.words.get(task.name, {}), name) for task in card.tasks}
        for name, card in zip(names, cards, strict=True)
    )
    shards = rules.shards or max((shards_of(card) for card in cards), default=1)
    output = Output(shards=shards, row_group_rows=_row_group_rows(cards))
    published = frozenset(entry.view for card in cards for entry in card.published)
    stored = StoredViews(cards[0].identity, published)
    return WeavePlan(rules, names, tuple(merged.values()), recodings, stored, output)


def dataset_names(cards: Sequence[DatasetCard]) -> tuple[str, ...]:
    """Returns a unique name for each dataset: its own, with its content hash and number where needed."""
    names = [card.name for card in cards]
    names = [
        f"{name} {card.content_hash[:8]}" if names.count(name) > 1 else name
        for name, card in zip(names, cards, strict=True)
    ]
    return tuple(f"{name} ({at + 1})" if names.count(name) > 1 else name for at, name in enumerate(names))


def shards_of(card: DatasetCard) -> int:
    """Returns the number of shards of each stripe and split of a dataset.

    Raises:
      FlowloomError: if they do not have the same number.
    """
    counts = sorted({shard_place(shard.path)[1] for shard in card.shards})
    if len(counts) > 1:
        raise FlowloomError(
            f"dataset {card.name!r} should have one number of shards in all stripes and splits, got "
            f"{', '.join(map(str, counts))}; build it again"
        )
    return counts[0] if counts else 1


def _definition(card: DatasetCard) -> dict[str, object]:
    """Returns the fields of a flow definition without the name of its preset."""
    return card.definition.model_dump(exclude={"preset"})


def _check_same(what: str, one: Mapping[str, object], other: Mapping[str, object], names: tuple[str, str]) -> None:
    for field, value in one.items():
        if other[field] != value:
            raise FlowloomError(
                f"{what} of merged datasets must agree, got {field} {value!r} in {names[0]!r} and "
                f"{other[field]!r} in {names[1]!r}; build them alike"
            )


def _check_task(one: Task, other: Task, names: tuple[str, str], *, recoded: bool) -> None:
    """Checks that a task is the same in two datasets, except for label values that a rule translates."""
    for field in ("kind", "quantity", "dividers"):
        mine, theirs = ({field: getattr(task, field)} for task in (one, other))
        _check_same(f"tasks {one.name!r}", mine, theirs, names)
    if one.vocabulary == other.vocabulary or (recoded and one.kind != "auto"):
        return
    new = [word for word in other.vocabulary if word not in one.vocabulary]
    lost = [word for word in one.vocabulary if word not in other.vocabulary]
    parts = [f"new: {', '.join(new)}"] * bool(new) + [f"gone: {', '.join(lost)}"] * bool(lost)
    said = "; ".join(parts) or f"another order: {', '.join(other.vocabulary)} after {', '.join(one.vocabulary)}"
    word = (new or list(other.vocabulary))[0]
    raise FlowloomError(
        f"the vocabulary of task {one.name!r} changed between {names[0]!r} and {names[1]!r} ({said}); build them with "
        f"the same words, or say what each means, as in --word {one.name}.{word}={one.vocabulary[0]}"
    )


def _check_words(
    words: Mapping[str, Mapping[str, str]], tasks: Mapping[str, Task], cards: Sequence[DatasetCard]
) -> None:
    for name, meanings in words.items():
        if name not in tasks:
            raise FlowloomError(
                f"words are given for the task {name!r}; tasks are {', '.join(tasks)}{did_you_mean(name, tasks)}"
            )
        if tasks[name].kind == "auto":
            raise FlowloomError(f"words of task {name!r} are those of its dividers; leave out what they should mean")
        said = {word for card in cards for task in card.tasks if task.name == name for word in task.vocabulary}
        for word, meaning in meanings.items():
            for each, known in ((word, sorted(said)), (meaning, tasks[name].vocabulary)):
                if each not in known:
                    raise FlowloomError(
                        f"word {word!r} of task {name!r} cannot mean {meaning!r}: {each!r} is none of "
                        f"{', '.join(known)}{did_you_mean(each, known)}"
                    )


def _recoding(merged: Task, task: Task, meanings: Mapping[str, str], dataset: str) -> np.ndarray:
    """Returns the new label number of each label value of a task, int32 [values]."""
    codes = []
    for word in task.vocabulary:
        meaning = meanings.get(word, word)
        if meaning not in merged.vocabulary:
            raise FlowloomError(
                f"word {word!r} of task {task.name!r} in {dataset!r} is new, expected one of "
                f"{', '.join(merged.vocabulary)}; say what it means: --word {task.name}.{word}=..."
            )
        codes.append(merged.vocabulary.index(meaning))
    return np.array(codes, np.int32)


def _row_group_rows(cards: Sequence[DatasetCard]) -> int:
    """Returns the rows of full row groups, which only a shard with several groups shows."""
    full = [shard.row_groups[0] for card in cards for shard in card.shards if len(shard.row_groups) > 1]
    return max(full, default=Output().row_group_rows)
