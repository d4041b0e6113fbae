"""Assignment of rows to train, validation and test: by capture group, flow, host pair or time."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pydantic

from flowloom.schemas.arrow.feature_tables import feature_rows
from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, SPLITS, Splits
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import SplitRule
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.transforms.arrays.apportion import quotas
from flowloom.transforms.arrays.columns import array, column, text_column, view
from flowloom.transforms.arrays.digests import keyed_hash, row_digests
from flowloom.transforms.arrays.quantile_sketch import OrderSketch, cut_by_shares, merge_sketches, sketch_order
from flowloom.transforms.labels.label_bins import LabelBins, label_quantities
from flowloom.transforms.labels.label_flows import GroupLabels
from flowloom.transforms.splits.host_pairs import (
    PairClasses,
    PairSplits,
    merge_pairs,
    missed_classes,
    pair_classes,
    pair_hashes,
    place_pairs,
)

ClassKey = tuple[int, int]
"""Position of a task and of a label value in its vocabulary."""

NEED_LABELS = ("auto", "capture", "host_pair")
"""Units of splits that look at the labels of rows."""

_CHOSEN = "chosen explicitly"


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """Rule that assigns splits, and the split of each capture group or host pair, as a position in `SPLITS`."""

    rule: SplitRule
    of_group: Mapping[str, int]
    of_pair: PairSplits | None = None


def splits_of(by: str, shares: Sequence[float], seed: int) -> Splits:
    """Returns the rule of splits of flows, from its parts.

    Raises:
      FlowloomError: if there is no such unit, or the shares do not add up to 1.
    """
    units = ("auto", "capture", "host_pair", "time", "flow")
    if by not in units:
        raise FlowloomError(f"splits by must be one of {', '.join(units)}, got {by!r}{did_you_mean(by, units)}")
    if len(shares) != len(SPLITS):
        raise FlowloomError(f"shares must be those of train, validation and test, got {len(shares)} of them")
    try:
        return Splits.model_validate({"by": by, "seed": seed, **dict(zip(SPLITS, shares, strict=True))})
    except pydantic.ValidationError as error:
        raise FlowloomError(f"shares: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def plan_splits(labels: Iterable[GroupLabels], tasks: Sequence[Task], splits: Splits) -> SplitPlan:
    """Returns the split plan of a corpus, from the labels and ids of its groups and the seed alone.

    Plans by host pair and by time are completed from the flows: see `plan_pair_splits` and `plan_time_splits`.
    Groups without records do not count. `by: auto` splits by capture if every class that occurs has at least 3 groups
    and all classes can be in train, validation and test at once; otherwise by flow. It also splits by flow if a source
    labels single flows of a task, because the classes of that task are known only after metering.
    """
    labels = list(labels)
    by_flow = sorted({source.task for label in labels if label.has_records for source in label.sources})
    known = {label.group: label.codes for label in labels if label.has_records}
    counts: dict[ClassKey, int] = {}
    for codes in known.values():
        for key in _classes(codes):
            counts[key] = counts.get(key, 0) + 1
    if splits.by == "packet":
        reason = f"{_CHOSEN}; it leaks: a model can recognise flows in test by their packets in train"
        return SplitPlan(_rule("packet", reason, splits), {})
    if splits.by in ("flow", "host_pair", "time"):
        return SplitPlan(_rule(splits.by, _CHOSEN, splits), {})
    of_group = _spread(known, splits)
    missed = _missed(known, of_group, counts, splits)
    if splits.by == "capture":
        reason = _CHOSEN
        if missed:
            reason += f"; not in every split: {_named(missed, tasks, counts)}"
        if by_flow:
            reason += f"; not balanced, as their labels differ within a group: {', '.join(by_flow)}"
        return SplitPlan(_rule("capture", reason, splits), of_group)
    if by_flow:
        reason = (
            "a split by capture needs labels that are the same for all flows of a group, got different ones of: "
            f"{', '.join(by_flow)}"
        )
        return SplitPlan(_rule("flow", reason, splits), {})
    few = [key for key in sorted(counts) if counts[key] < len(SPLITS)]
    if few:
        reason = f"a split by capture needs 3 capture groups of every class, got fewer: {_named(few, tasks, counts)}"
        return SplitPlan(_rule("flow", reason, splits), {})
    if missed:
        reason = (
            f"no split by capture has every class in train, validation and test; not: {_named(missed, tasks, counts)}"
        )
        return SplitPlan(_rule("flow", reason, splits), {})
    reason = "every class of every task has at least 3 capture groups"
    return SplitPlan(_rule("capture", reason, splits), of_group)


def sketch_starts(flows: pa.RecordBatch) -> OrderSketch:
    """Sketches the starts of flows in ns since the epoch."""
    return sketch_order(view(flows["start"]))


def plan_time_splits(split_plan: SplitPlan, sketch: OrderSketch) -> SplitPlan:
    """Sets the cuts of a split by time from the starts of all flows."""
    cuts = cut_by_shares(sketch, split_plan.rule.shares)
    return dataclasses.replace(split_plan, rule=split_plan.rule.model_copy(update={"cuts_ns": cuts}))


def plan_pair_splits(split_plan: SplitPlan, pairs: PairClasses, tasks: Sequence[Task]) -> SplitPlan:
    """Assigns all host pairs, and names classes with too few pairs for every split in the reason."""
    rule = split_plan.rule
    placed = place_pairs(pairs, rule.shares)
    classes = [(task, code) for task, known in enumerate(tasks) for code in range(len(known.vocabulary))]
    wanted = [at for at, share in enumerate(rule.shares) if share > 0]
    missed = {classes[at]: count for at, count in missed_classes(pairs, placed, wanted)}
    if missed:
        reason = f"{rule.reason}; not in every split: {_named(missed, tasks, missed)}"
        rule = rule.model_copy(update={"reason": reason})
    return dataclasses.replace(split_plan, rule=rule, of_pair=placed)


def assign_splits(flows: pa.RecordBatch, split_plan: SplitPlan, view_name: View = "flows") -> pa.RecordBatch:
    """Appends the split of each row, int8 position in `SPLITS`, by group, hosts, start or a hash of the id.

    The hash of a row of feature tables is over its features, so that equal rows get the same split. Under `by: packet`
    the hash is over flow id and record, so that packets of one flow get different splits.

    Raises:
      ValueError: if a plan by time or host pair was not completed from the flows.
    """
    rule = split_plan.rule
    if rule.by == "capture":
        at = pc.index_in(flows["group"], text_column(list(split_plan.of_group)))
        # the plan lacks groups that seemed to have no records; if one has flows after all, they go to train
        split = pc.fill_null(array(list(split_plan.of_group.values()), pa.int8()).take(at), 0)
    elif rule.by == "time":
        if rule.cuts_ns is None:
            raise ValueError("a split by time needs cuts from plan_time_splits, got None")
        split = column(np.searchsorted(rule.cuts_ns, view(flows["start"]), side="right").astype(np.int8), pa.int8())
    elif rule.by == "host_pair":
        if split_plan.of_pair is None:
            raise ValueError("a split by host pair needs places from plan_pair_splits, got None")
        split = column(split_plan.of_pair.of(pair_hashes(flows, rule.seed)), pa.int8())
    else:
        uniform = (keyed_hash(_hashed_ids(flows, rule.by, view_name), f"split {rule.seed}") >> np.uint64(11)) * 2.0**-53
        edges = np.round(np.cumsum(rule.shares[:-1]), 12)
        split = column(np.searchsorted(edges, uniform, side="right").astype(np.int8), pa.int8())
    return flows.append_column(pa.field(SPLIT_COLUMN, pa.int8(), nullable=False), split)


def complete_split_plan(
    split_plan: SplitPlan, flows: Iterable[pa.RecordBatch], tasks: Sequence[Task], splits: Splits
) -> SplitPlan:
    """Completes a split plan by time or host pair from all labelled flows."""
    if splits.by == "time":
        return plan_time_splits(split_plan, merge_sketches(map(sketch_starts, flows)))
    pairs = (pair_classes(batch, tasks, splits.seed) for batch in flows)
    return plan_pair_splits(split_plan, merge_pairs(pairs), tasks)


def assign_splits_and_bins(
    flows: pa.RecordBatch, split_plan: SplitPlan | None, label_bins: LabelBins | None
) -> pa.RecordBatch:
    """Appends the split and the labels of measured tasks to labelled flows.

    Args:
      split_plan: a complete plan; None for flows without a split, whose packets get splits one by one.
      label_bins: all tasks, with the label bins of measured ones; None without measured tasks.
    """
    if split_plan is not None:
        flows = assign_splits(flows, split_plan)
    return flows if label_bins is None else label_quantities(flows, label_bins.tasks)


def _hashed_ids(rows: pa.RecordBatch, by: str, view_name: View) -> pa.Array:
    if view_name == "tables":
        return column(row_digests(feature_rows(rows), ""), pa.binary(16))
    if by == "packet":
        return column(row_digests(rows.select(["flow_id", "record"]), ""), pa.binary(16))
    return rows["flow_id"]


def _rule(by: Any, reason: str, splits: Splits) -> SplitRule:
    return SplitRule(by=by, reason=reason, seed=splits.seed, shares=splits.shares)


def _classes(codes: Sequence[int | None]) -> list[ClassKey]:
    return [(task, code) for task, code in enumerate(codes) if code is not None]


def _named(keys: Iterable[ClassKey], tasks: Sequence[Task], counts: Mapping[ClassKey, int]) -> str:
    return ", ".join(f"{tasks[task].name}={tasks[task].vocabulary[code]} ({counts[task, code]})" for task, code in keys)


def _spread(known: Mapping[str, Sequence[int | None]], splits: Splits) -> dict[str, int]:
    """Assigns groups to splits by the quotas of each class, the rarest class first.

    This is iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011) with integer quotas. Afterwards
    groups move to splits that a class misses, if no other class loses its last group there.
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
    """Moves groups to splits that their class misses, unless a class would lose its last group in a split."""
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
    """Returns the classes that do not reach every split with a share."""
    reached: dict[ClassKey, set[int]] = {key: set() for key in counts}
    for group, codes in known.items():
        for key in _classes(codes):
            reached[key].add(of_group[group])
    wanted = {at for at, share in enumerate(splits.shares) if share > 0}
    return [key for key in sorted(counts) if not wanted <= reached[key]]
