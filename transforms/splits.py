"""Splits: which rows train, validate and test; by capture group where every class has enough of them, else by flow."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.card import SplitRule
from flowloom.schemas.manifest import SPLIT_COLUMN, SPLITS, Splits
from flowloom.schemas.tasks import Task
from flowloom.transforms.columns import column
from flowloom.transforms.digests import keyed_hash
from flowloom.transforms.labels import GroupLabels

ClassKey = tuple[int, int]
"""Position of a task and of a word in its vocabulary."""


@dataclasses.dataclass(frozen=True)
class Division:
    """The rule that divides rows, and by capture the split of each group as a position in `SPLITS`."""

    rule: SplitRule
    of_group: Mapping[str, int]


def quotas(count: int, shares: Sequence[float]) -> list[int]:
    """Return how many of `count` things each share gets, by largest remainder.

    A share above 0 gets at least one as soon as there are enough things for all of them.
    """
    exact = [count * share for share in shares]
    parts = [int(part + 1e-9) for part in exact]
    by_remainder = sorted(range(len(shares)), key=lambda at: (parts[at] - exact[at], at))
    for at in by_remainder[: count - sum(parts)]:
        parts[at] += 1
    wanted = [at for at, share in enumerate(shares) if share > 0]
    if count >= len(wanted):
        for at in wanted:
            if not parts[at]:
                parts[parts.index(max(parts))] -= 1
                parts[at] += 1
    return parts


def divide_groups(labels: Iterable[GroupLabels], tasks: Sequence[Task], splits: Splits) -> Division:
    """Decide how a corpus is divided, from the labels and ids of its groups and the seed alone.

    Groups without records have no say. `by: auto` divides by capture when every class that occurs has at least 3 groups
    and all of them can reach train, validation and test together. Classes of a task that a source labels flow by flow
    are not known before the flows are, so with such a task it divides by flow.
    """
    labels = list(labels)
    by_flow = sorted({source.task for label in labels if label.has_records for source in label.sources})
    known = {label.group: label.codes for label in labels if label.has_records}
    counts: dict[ClassKey, int] = {}
    for codes in known.values():
        for key in _classes(codes):
            counts[key] = counts.get(key, 0) + 1
    if splits.by == "flow":
        return Division(_rule("flow", "asked for by the manifest", splits), {})
    of_group = _spread(known, splits)
    missed = _missed(known, of_group, counts, splits)
    if splits.by == "capture":
        reason = "asked for by the manifest"
        if missed:
            reason += f"; not in every split: {_named(missed, tasks, counts)}"
        if by_flow:
            reason += f"; not balanced, as their labels differ within a group: {', '.join(by_flow)}"
        return Division(_rule("capture", reason, splits), of_group)
    if by_flow:
        reason = (
            f"a split by capture needs labels that are the same for all flows of a group; not so: {', '.join(by_flow)}"
        )
        return Division(_rule("flow", reason, splits), {})
    few = [key for key in sorted(counts) if counts[key] < len(SPLITS)]
    if few:
        reason = f"a split by capture needs 3 capture groups of every class; fewer have {_named(few, tasks, counts)}"
        return Division(_rule("flow", reason, splits), {})
    if missed:
        reason = f"no split by capture puts into train, validation and test {_named(missed, tasks, counts)}"
        return Division(_rule("flow", reason, splits), {})
    reason = "every class of every task has at least 3 capture groups"
    return Division(_rule("capture", reason, splits), of_group)


def assign_splits(flows: pa.RecordBatch, division: Division) -> pa.RecordBatch:
    """Append the split of each flow: int8 position in `SPLITS`, by its group or by a hash of its id and the seed."""
    rule = division.rule
    if rule.by == "capture":
        at = pc.index_in(flows["group"], pa.array(list(division.of_group), pa.string()))
        # groups that seemed to have no records are in no division; should one have flows after all, they train
        split = pc.fill_null(pa.array(list(division.of_group.values()), pa.int8()).take(at), 0)
    else:
        uniform = (keyed_hash(flows["flow_id"], f"split {rule.seed}") >> np.uint64(11)) * 2.0**-53
        edges = np.round(np.cumsum(rule.shares[:-1]), 12)
        split = column(np.searchsorted(edges, uniform, side="right").astype(np.int8), pa.int8())
    return flows.append_column(pa.field(SPLIT_COLUMN, pa.int8(), nullable=False), split)


def _rule(by: Any, reason: str, splits: Splits) -> SplitRule:
    return SplitRule(by=by, reason=reason, seed=splits.seed, shares=splits.shares)


def _classes(codes: Sequence[int | None]) -> list[ClassKey]:
    return [(task, code) for task, code in enumerate(codes) if code is not None]


def _named(keys: Iterable[ClassKey], tasks: Sequence[Task], counts: Mapping[ClassKey, int]) -> str:
    return ", ".join(f"{tasks[task].name}={tasks[task].vocabulary[code]} ({counts[task, code]})" for task, code in keys)


def _spread(known: Mapping[str, Sequence[int | None]], splits: Splits) -> dict[str, int]:
    """Place groups so that each class is shared out by its quotas, rarest class first.

    The greedy order is iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011) on whole-number
    quotas; afterwards groups move where a class would miss a split and no other class loses its last group by it.
    """
    order = sorted(known, key=lambda group: hashlib.sha256(f"split {splits.seed} {group}".encode()).digest())
    members: dict[ClassKey, list[str]] = {}
    for group in order:
        for key in _classes(known[group]):
            members.setdefault(key, []).append(group)
    open_splits = [at for at, share in enumerate(splits.shares) if share > 0]
    wanted = {key: quotas(len(groups), splits.shares) for key, groups in members.items()}
    overall = quotas(len(order), splits.shares)
    placed: dict[str, int] = {}

    def place(group: str, first: list[int]) -> None:
        keys = _classes(known[group])
        placed[group] = split = max(
            open_splits, key=lambda at: (first[at], sum(wanted[key][at] for key in keys), overall[at], -at)
        )
        for counts in [*(wanted[key] for key in keys), overall]:
            counts[split] -= 1

    for key in sorted(members, key=lambda key: (len(members[key]), key)):
        for group in members[key]:
            if group not in placed:
                place(group, wanted[key])
    for group in order:
        if group not in placed:
            place(group, overall)
    _repair(known, members, placed, open_splits)
    return {group: placed[group] for group in sorted(placed)}


def _repair(
    known: Mapping[str, Sequence[int | None]],
    members: Mapping[ClassKey, list[str]],
    placed: dict[str, int],
    open_splits: list[int],
) -> None:
    """Move groups into splits that a class with enough of them misses, where that takes no class's last group away."""
    held = {key: [0] * len(SPLITS) for key in members}
    for key, groups in members.items():
        for group in groups:
            held[key][placed[group]] += 1
    for key in sorted(members, key=lambda key: (len(members[key]), key)):
        for split in open_splits:
            if held[key][split] or len(members[key]) < len(open_splits):
                continue
            spare = (g for g in members[key] if all(held[other][placed[g]] > 1 for other in _classes(known[g])))
            moved = max(spare, key=lambda g: held[key][placed[g]], default=None)
            if moved is not None:
                for other in _classes(known[moved]):
                    held[other][placed[moved]] -= 1
                    held[other][split] += 1
                placed[moved] = split


def _missed(
    known: Mapping[str, Sequence[int | None]],
    of_group: Mapping[str, int],
    counts: Mapping[ClassKey, int],
    splits: Splits,
) -> list[ClassKey]:
    """Return the classes that do not reach every split with a share."""
    reached: dict[ClassKey, set[int]] = {key: set() for key in counts}
    for group, codes in known.items():
        for key in _classes(codes):
            reached[key].add(of_group[group])
    wanted = {at for at, share in enumerate(splits.shares) if share > 0}
    return [key for key in sorted(counts) if not wanted <= reached[key]]


@dataclasses.dataclass
class DivideGroups(beam.PTransform):
    """`divide_groups` over the one tuple of labels that `LabelGroups` gives."""

    tasks: tuple[Task, ...]
    splits: Splits

    def expand(self, labels: Any) -> Any:
        """Return one `Division` from one tuple of `GroupLabels`."""
        return labels | beam.Map(divide_groups, self.tasks, self.splits).with_output_types(Division)


@dataclasses.dataclass
class AssignSplits(beam.PTransform):
    """`assign_splits` over a PCollection of flow batches; `division` is the output of `DivideGroups`."""

    division: Any

    def expand(self, flows: Any) -> Any:
        """Return batches with a split column."""
        division = beam.pvalue.AsSingleton(self.division)
        return flows | beam.Map(assign_splits, division).with_output_types(pa.RecordBatch)
