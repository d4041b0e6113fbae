"""Plan of a merge: checks that datasets fit together, and maps their labels to those of the merged dataset."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import pydantic

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
      replacements: by task, label values and the label values of the first dataset with the task that replace them.
      shards: shards of each stripe and split; None for the largest number of the datasets.
      name: name of the merged dataset; None to join those of the datasets.
    """

    layout: Layout
    missing: Missing = "unknown"
    on_conflict: OnConflict = "first"
    replacements: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
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
                "layout must be aurora for missing: negative, got rainbow, which has no absent labels; remove missing"
            )
        if self.shards is not None and not 1 <= self.shards <= 99_999:
            raise FlowloomError(f"shards must be between 1 and 99,999, got {self.shards:,}")


@dataclasses.dataclass(frozen=True)
class WeavePlan:
    """Plan of a merge, for its workers.

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
      FlowloomError: if views, flow definitions, identities, keys or tasks differ, or a rule names a label value that no
        dataset has.
    """
    names = dataset_names(cards)
    for name, card in zip(names, cards, strict=True):
        if card.views != ("flows",):
            raise FlowloomError(
                f"dataset {name!r}: views must be flows, got {', '.join(card.views)}; build it with views: [flows]"
            )
        _check_same("flow definitions", _definition(cards[0]), _definition(card), (names[0], name))
        first, other = ({"identity": each.identity, "key_id": each.key_id} for each in (cards[0], card))
        _check_same("identities", first, other, (names[0], name))
    _check_flow_ids(names, cards)
    _check_flow_columns(names, cards)
    tasks: dict[str, tuple[str, Task]] = {}
    for name, card in zip(names, cards, strict=True):
        for task in card.tasks:
            owner, known = tasks.setdefault(task.name, (name, task))
            _check_task(known, task, (owner, name), recoded=task.name in rules.replacements)
    merged = {name: task for name, (_, task) in tasks.items()}
    _check_replacements(rules.replacements, merged, cards)
    recodings = tuple(
        {
            task.name: _recoding(merged[task.name], task, rules.replacements.get(task.name, {}), name)
            for task in card.tasks
        }
        for name, card in zip(names, cards, strict=True)
    )
    shards = rules.shards or max((shards_of(card) for card in cards), default=1)
    output = Output(shards=shards, row_group_rows=_row_group_rows(cards))
    published = frozenset(entry.view for card in cards for entry in card.published)
    stored = StoredViews(cards[0].identity, published, flow_columns=cards[0].flow_columns)
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
      FlowloomError: if stripes or splits have different numbers of shards.
    """
    counts = sorted({shard_place(shard.path)[1] for shard in card.shards})
    if len(counts) > 1:
        raise FlowloomError(
            f"dataset {card.name!r}: all stripes and splits must have the same number of shards, got "
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
                f"{what} of merged datasets must agree, got {field} {_shown(value)} in {names[0]!r} and "
                f"{_shown(other[field])} in {names[1]!r}; build both with the same value"
            )


def _check_flow_ids(names: Sequence[str], cards: Sequence[DatasetCard]) -> None:
    """Checks that flows of captures have ids by one rule, so that equal flows have equal ids."""
    captured = [(name, card) for name, card in zip(names, cards, strict=True) if card.accounting.captures]
    for name, card in captured:
        if card.flow_ids != captured[0][1].flow_ids:
            older = min(captured, key=lambda each: each[1].flow_ids)[0]
            raise FlowloomError(
                f"flow ids of merged datasets must follow one rule, got version {captured[0][1].flow_ids} in "
                f"{captured[0][0]!r} and {card.flow_ids} in {name!r}; build {older!r} again from its captures"
            )


def _check_flow_columns(names: Sequence[str], cards: Sequence[DatasetCard]) -> None:
    older = min(zip(names, cards, strict=True), key=lambda each: each[1].flow_columns)[0]
    for name, card in zip(names, cards, strict=True):
        if card.flow_columns != cards[0].flow_columns:
            raise FlowloomError(
                f"merged datasets must have the same columns of flows, got version {cards[0].flow_columns} in "
                f"{names[0]!r} and {card.flow_columns} in {name!r}; build {older!r} again"
            )


def _shown(value: object) -> str:
    """Returns a field of a card as a message shows it."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump_json(exclude_none=True)
    return "none" if value is None else str(value)


def _check_task(one: Task, other: Task, names: tuple[str, str], *, recoded: bool) -> None:
    """Checks that a task is the same in two datasets, except for label values that a rule replaces."""
    for field in ("kind", "quantity", "dividers"):
        mine, theirs = ({field: getattr(task, field)} for task in (one, other))
        _check_same(f"tasks {one.name!r}", mine, theirs, names)
    if one.vocabulary == other.vocabulary or (recoded and one.kind != "auto"):
        return
    added = [value for value in other.vocabulary if value not in one.vocabulary]
    removed = [value for value in one.vocabulary if value not in other.vocabulary]
    parts = [f"added: {', '.join(added)}"] * bool(added) + [f"removed: {', '.join(removed)}"] * bool(removed)
    change = "; ".join(parts) or f"another order: {', '.join(other.vocabulary)} after {', '.join(one.vocabulary)}"
    example = (added or list(other.vocabulary))[0]
    raise FlowloomError(
        f"task {one.name!r}: {names[0]!r} and {names[1]!r} must have the same label values, got {change}; build them "
        f"with the same vocabulary, or replace label values, as in --word {one.name}.{example}={one.vocabulary[0]}"
    )


def _check_replacements(
    by_task: Mapping[str, Mapping[str, str]], tasks: Mapping[str, Task], cards: Sequence[DatasetCard]
) -> None:
    """Checks that the label values which rules replace, and their replacements, exist."""
    for name, replacements in by_task.items():
        if name not in tasks:
            raise FlowloomError(
                f"--word: task must be one of {', '.join(tasks)}, got {name!r}{did_you_mean(name, tasks)}"
            )
        if tasks[name].kind == "auto":
            raise FlowloomError(
                f"--word: task must not be of kind auto, got {name!r}, whose label values name the ranges between its "
                "class boundaries; remove its --word options"
            )
        used = {value for card in cards for task in card.tasks if task.name == name for value in task.vocabulary}
        for value, replacement in replacements.items():
            for each, known in ((value, sorted(used)), (replacement, tasks[name].vocabulary)):
                if each not in known:
                    raise FlowloomError(
                        f"--word {name}.{value}={replacement}: label value must be one of {', '.join(known)}, got "
                        f"{each!r}{did_you_mean(each, known)}"
                    )


def _recoding(merged: Task, task: Task, replacements: Mapping[str, str], dataset: str) -> np.ndarray:
    """Returns the new label number of each label value of a task, int32 [values]."""
    codes = []
    for value in task.vocabulary:
        replacement = replacements.get(value, value)
        if replacement not in merged.vocabulary:
            raise FlowloomError(
                f"dataset {dataset!r}: label value of task {task.name!r} must be one of "
                f"{', '.join(merged.vocabulary)}, got {value!r}; replace it with --word {task.name}.{value}=..."
            )
        codes.append(merged.vocabulary.index(replacement))
    return np.array(codes, np.int32)


def _row_group_rows(cards: Sequence[DatasetCard]) -> int:
    """Returns the number of rows of a full row group, known only from shards with several row groups."""
    full = [shard.row_groups[0] for card in cards for shard in card.shards if len(shard.row_groups) > 1]
    return max(full, default=Output().row_group_rows)
