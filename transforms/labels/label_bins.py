"""Label bins: class boundaries of a measured quantity, found on the train split in exact arithmetic."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pydantic

from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, SPLITS
from flowloom.schemas.corpus.tasks import Dividers, Quantity, Task
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import view
from flowloom.transforms.arrays.quantile_sketch import OrderSketch, cut_by_shares, merge_sketches, sketch_order
from flowloom.transforms.labels.flow_quantities import quantity

_MANTISSA = 53
_UNIT = 1126
"""Sums are in units of 2^-1126: the last binary digit of a 53-bit mantissa in the smallest double."""
_HALF = 27
"""Bits in the lower part of a mantissa; an int64 can sum 2^36 such parts."""


@dataclasses.dataclass(frozen=True)
class ClassSums:
    """Rows and exact sums of a quantity for each class of a reference task; they add up in any order."""

    counts: tuple[int, ...]
    totals: tuple[int, ...]
    """Exact sums in units of 2^-1126."""

    def __add__(self, other: "ClassSums") -> "ClassSums":
        return ClassSums(
            tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
            tuple(a + b for a, b in zip(self.totals, other.totals, strict=True)),
        )

    def means(self) -> tuple[float | None, ...]:
        """Returns the mean of each class, rounded once from its exact sum; None for a class without rows."""
        return tuple(
            total / (count << _UNIT) if count else None for count, total in zip(self.counts, self.totals, strict=True)
        )


def sum_classes(flows: pa.RecordBatch, task: Task, reference: Task) -> ClassSums:
    """Sums a task's quantity by the classes of its reference over labelled rows of the train split."""
    labels = view(pc.fill_null(flows[label_column(reference.name)], -1))
    values = quantity(flows, _quantity(task))
    counted = _training(flows) & (labels >= 0) & np.isfinite(values)
    by_class = [values[counted & (labels == code)] for code in range(len(reference.vocabulary))]
    return ClassSums(tuple(map(len, by_class)), tuple(map(exact_sum, by_class)))


def merge_sums(parts: Iterable[ClassSums], reference: Task) -> ClassSums:
    """Adds up the sums of several batches."""
    none = (0,) * len(reference.vocabulary)
    return sum(parts, ClassSums(none, none))


def sketch_quantity(flows: pa.RecordBatch, task: Task) -> OrderSketch:
    """Sketches the order of a task's quantity over rows of the train split."""
    values = quantity(flows, _quantity(task))
    known = values[_training(flows) & np.isfinite(values)] + 0.0  # turns -0 into 0
    return sketch_order(known.view(np.int64))  # the bits of non-negative doubles sort like their values


def midpoints(means: Iterable[float], task: str = "") -> tuple[float, ...]:
    """Returns the midpoints between neighbouring means.

    Source: Rezaei and Liu, "Multitask Learning for Network Traffic Classification".

    Raises:
      FlowloomError: if there are fewer than two means, or two are equal.
    """
    ordered = sorted(means)
    if len(ordered) < 2:
        raise FlowloomError(
            f"{_place(task)}class boundaries need labelled train rows of at least 2 classes, got {len(ordered)}; label "
            "more rows, or write dividers: {method: given, at: [...]}"
        )
    for one, other in itertools.pairwise(ordered):
        if not one < one + (other - one) / 2 < other:
            raise FlowloomError(
                f"{_place(task)}class means must differ to have a boundary between them, got {one:g} twice; choose "
                "another reference, write method: quantiles, or write dividers: {method: given, at: [...]}"
            )
    return tuple(one + (other - one) / 2 for one, other in itertools.pairwise(ordered))


def bin_by_means(task: Task, sums: ClassSums) -> Task:
    """Returns a task of method `class-means` with its label bins.

    The class boundaries are the midpoints between the means of the reference's classes with rows.

    Raises:
      FlowloomError: if fewer than two classes have rows, two means are equal, or the vocabulary has another size.
    """
    return _with_bins(task, midpoints((mean for mean in sums.means() if mean is not None), task.name))


def bin_by_quantiles(task: Task, sketch: OrderSketch) -> Task:
    """Returns a task of method `quantiles` with its label bins.

    Each class boundary is the lowest value of the class above it.

    Raises:
      FlowloomError: if there are too few distinct values for the number of classes.
    """
    classes = bin_rule(task).classes or 2
    cuts = cut_by_shares(sketch, [1 / classes] * classes)
    lowest = (sketch.bins << sketch.shift).tolist()
    if len(set(cuts)) < len(cuts) or not set(cuts) <= set(lowest[1:]):
        raise FlowloomError(
            f"{_place(task.name)}the boundaries of {classes} classes must differ, got equal ones of {task.quantity}, "
            f"with {len(sketch.bins):,} distinct values in {sketch.counts.sum():,} train rows; write fewer "
            "classes, or write dividers: {method: given, at: [...]}"
        )
    return _with_bins(task, np.array(cuts, np.int64).view(np.float64).tolist())


def label_quantities(flows: pa.RecordBatch, tasks: Sequence[Task]) -> pa.RecordBatch:
    """Appends the label column of each automatic task: the class of its quantity, null where unknown."""
    for task in tasks:
        if task.kind == "auto":
            values = quantity(flows, _quantity(task))
            codes = np.searchsorted(bin_rule(task).at, values, side="right").astype(np.int32)
            known = np.packbits(np.isfinite(values), bitorder="little")
            labels = pa.Array.from_buffers(pa.int32(), len(codes), [pa.py_buffer(known), pa.py_buffer(codes)])
            flows = flows.append_column(pa.field(label_column(task.name), pa.int32()), labels)
    return flows


def exact_sum(values: np.ndarray) -> int:
    """Returns the exact sum of finite doubles in units of 2^-1126, whatever their order."""
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, _MANTISSA).astype(np.int64)
    total = 0
    for exponent in np.unique(exponents):
        some = whole[exponents == exponent]
        high, low = int((some >> _HALF).sum()), int((some & ((1 << _HALF) - 1)).sum())
        total += ((high << _HALF) + low) << (int(exponent) - _MANTISSA + _UNIT)
    return total


def _training(flows: pa.RecordBatch) -> np.ndarray:
    return view(flows[SPLIT_COLUMN]) == SPLITS.index("train")


def _quantity(task: Task) -> Quantity:
    if task.quantity is None:
        raise ValueError(f"task {task.name!r} must be of kind auto to be measured, got {task.kind}")
    return task.quantity


def bin_rule(task: Task) -> Dividers:
    """Returns the rule for the class boundaries of an automatic task.

    Raises:
      ValueError: if the task is of another kind.
    """
    if task.dividers is None:
        raise ValueError(f"task {task.name!r} must be of kind auto to have label bins, got {task.kind}")
    return task.dividers


def _with_bins(task: Task, at: Sequence[float]) -> Task:
    try:
        return task.with_bins(at)
    except pydantic.ValidationError as error:
        shown = ", ".join(f"{each:g}" for each in at)
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise FlowloomError(f"{_place(task.name)}label bins at {shown} do not fit: {why}") from None


def _place(task: str) -> str:
    return f"task {task!r}: " if task else ""


@dataclasses.dataclass(frozen=True)
class LabelBins:
    """All tasks of a manifest; measured tasks have label bins, or `fault` says why they do not."""

    tasks: tuple[Task, ...]
    fault: str | None = None


def find_label_bins(flows: Sequence[pa.RecordBatch], tasks: Sequence[Task]) -> LabelBins:
    """Finds the label bins of measured tasks from all labelled and split flows."""
    named = {task.name: task for task in tasks}
    found: list[ClassSums | OrderSketch] = []
    for task in filter(has_measured_bins, tasks):
        if reference := named.get(bin_rule(task).reference or ""):
            found.append(merge_sums((sum_classes(batch, task, reference) for batch in flows), reference))
        else:
            found.append(merge_sketches(sketch_quantity(batch, task) for batch in flows))
    return set_label_bins(tasks, *found)


def set_label_bins(tasks: Sequence[Task], *found: ClassSums | OrderSketch) -> LabelBins:
    """Sets the label bins of measured tasks from their sums or sketches, in the order of these tasks.

    If the bins of a task cannot be set, the task gets a placeholder, and the fault fails the build.
    """
    binned, rest, fault = [], iter(found), None
    for task in tasks:
        if has_measured_bins(task):
            try:
                known = next(rest)
                task = bin_by_means(task, known) if isinstance(known, ClassSums) else bin_by_quantiles(task, known)
            except FlowloomError as error:
                fault = fault or str(error)
                task = Task(name=task.name, kind="auto", quantity=task.quantity, dividers=_PLACEHOLDER)
        binned.append(task)
    return LabelBins(tuple(binned), fault)


def has_measured_bins(task: Task) -> bool:
    """Returns whether the label bins of a task are found from the flows."""
    return task.dividers is not None and task.dividers.method != "given"


_PLACEHOLDER = Dividers(method="given", at=(0.0,))
