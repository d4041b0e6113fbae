"""Label bins: class boundaries come from the train split alone, equal to the bit for any batches."""

import decimal
import fractions
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import column
from flowloom.transforms.arrays.quantile_sketch import merge_sketches
from flowloom.transforms.labels.flow_quantities import quantity
from flowloom.transforms.labels.label_bins import (
    bin_by_means,
    bin_by_quantiles,
    exact_sum,
    label_quantities,
    merge_sums,
    midpoints,
    sketch_quantity,
    sum_classes,
)

APP = Task(name="app", kind="multiclass", vocabulary=("doc", "drive", "music", "search", "youtube"))
doubles = st.floats(0, allow_infinity=False, allow_nan=False)
labels = st.none() | st.integers(0, 4)
NS = 10**9


def automatic(**dividers) -> Task:
    return Task.model_validate({"name": "length", "kind": "auto", "quantity": "duration", "dividers": dividers})


BY_MEANS = automatic(method="class-means", reference="app")
BY_QUANTILES = automatic(method="quantiles", classes=4)


def flows_of(cells: list[tuple[int, int | None, int]]) -> pa.RecordBatch:
    """Returns flows of (duration in ns, label, split)."""
    flows = synthetic_flows(len(cells))
    durations, codes, splits = ([cell[at] for cell in cells] for at in range(3))
    at = FLOWS.get_field_index("duration_ns")
    flows = flows.set_column(at, FLOWS.field(at), column(np.array(durations, np.int64), pa.int64()))
    flows = flows.append_column(pa.field("label_app", pa.int32()), pa.array(codes, pa.int32()))
    return flows.append_column(pa.field(SPLIT_COLUMN, pa.int8(), nullable=False), pa.array(splits, pa.int8()))


cells = st.lists(st.tuples(st.integers(0, 10**13), labels, st.integers(0, 2)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=25)
@given(st.lists(doubles | doubles.map(lambda x: -x), max_size=30))
def test_sums_are_exact(values):
    exact = sum(map(fractions.Fraction, values), fractions.Fraction())
    assert fractions.Fraction(exact_sum(np.array(values, np.float64)), 1 << 1126) == exact


@settings(deadline=None, max_examples=25)
@given(cells, st.lists(st.integers(0, 60), max_size=4))
def test_any_batches_in_any_order_give_the_same_bits(rows, edges):
    flows = flows_of(rows)
    cuts = sorted({0, len(rows), *(min(edge, len(rows)) for edge in edges)})
    parts = [flows.slice(a, b - a) for a, b in itertools.pairwise(cuts)][::-1]
    whole = sum_classes(flows, BY_MEANS, APP)
    assert merge_sums([sum_classes(part, BY_MEANS, APP) for part in parts], APP) == whole
    sketch = merge_sketches([sketch_quantity(part, BY_QUANTILES) for part in parts])
    assert np.array_equal(sketch.bins, sketch_quantity(flows, BY_QUANTILES).bins)
    for code, mean in enumerate(whole.means()):
        seconds = [fractions.Fraction(row[0] / 1e9) for row in rows if row[1:] == (code, 0)]
        assert mean == (float(sum(seconds) / len(seconds)) if seconds else None)


def test_midpoints_are_the_published_dividers():
    found = midpoints([32.08, 2.77, 114.10, 9.83, 56.44])
    # the paper rounds 20.955 half up; the nearest double lies just below
    rounded = [decimal.Decimal(repr(each)).quantize(decimal.Decimal("0.01"), decimal.ROUND_HALF_UP) for each in found]
    assert [str(each) for each in rounded] == ["6.30", "20.96", "44.26", "85.27"]


def test_classes_lie_between_the_means_of_the_reference():
    means = {0: 2, 1: 10, 3: 40, 4: 100}  # no row has the label music
    rows = [(seconds * NS + delta, code, 0) for code, seconds in means.items() for delta in (-NS, NS)]
    task = bin_by_means(BY_MEANS, sum_classes(flows_of(rows), BY_MEANS, APP))
    assert task.dividers is not None
    assert task.dividers.at == (6, 25, 70)
    assert task.vocabulary == ("below 6 s", "6 to 25 s", "25 to 70 s", "from 70 s")
    flows = flows_of([(seconds * NS, None, 2) for seconds in (0, 6, 7, 25, 26, 71)])
    assert label_quantities(flows, [APP, task])["label_length"].to_pylist() == [0, 1, 1, 2, 2, 3]


@settings(deadline=None, max_examples=25)
@given(cells, st.data())
def test_only_the_train_split_is_used(rows, data):
    """Changes in rows outside the train split do not change the class boundaries."""
    changed = [(data.draw(st.integers(0, 10**13)), data.draw(labels), row[2]) if row[2] else row for row in rows]
    assert sum_classes(flows_of(changed), BY_MEANS, APP) == sum_classes(flows_of(rows), BY_MEANS, APP)
    one, other = (sketch_quantity(flows_of(each), BY_QUANTILES) for each in (rows, changed))
    assert np.array_equal(one.bins, other.bins)
    assert np.array_equal(one.counts, other.counts)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 10**13), min_size=4, max_size=80, unique=True))
def test_quantiles_make_classes_of_equal_size(durations):
    flows = flows_of([(duration, None, 0) for duration in durations])
    task = bin_by_quantiles(BY_QUANTILES, sketch_quantity(flows, BY_QUANTILES))
    codes = label_quantities(flows, [task])["label_length"].to_pylist()
    counts = np.bincount(codes, minlength=4)
    assert counts.max() - counts.min() <= 1
    assert np.all(np.diff(np.array(codes)[np.argsort(durations)]) >= 0)


def test_unknown_quantities_have_no_label():
    task = Task.model_validate(
        {"name": "pace", "kind": "auto", "quantity": "bandwidth", "dividers": {"method": "given", "at": [1.0]}}
    )
    flows = flows_of([(0, None, 0), (NS, None, 0)])
    assert np.isnan(quantity(flows, "bandwidth")[0])
    assert label_quantities(flows, [task])["label_pace"].to_pylist() == [None, 1]


def test_impossible_bins_are_explained():
    with pytest.raises(FlowloomError, match=r"task 'length': class means must differ .*, got 3 twice"):
        bin_by_means(BY_MEANS, sum_classes(flows_of([(3 * NS, 0, 0), (3 * NS, 1, 0)]), BY_MEANS, APP))
    with pytest.raises(FlowloomError, match="need labelled train rows of at least 2 classes, got 1"):
        bin_by_means(BY_MEANS, sum_classes(flows_of([(3, 0, 0), (3, 1, 1), (3, None, 0)]), BY_MEANS, APP))
    for rows in ([], [(5, 0, 0)] * 100, [(5, 0, 0)] * 99 + [(6, 0, 0)]):
        flows = flows_of([*rows, (9, 0, 2)])
        with pytest.raises(
            FlowloomError, match=r"task 'length': the boundaries of 4 classes must differ, .*; write fewer classes"
        ):
            bin_by_quantiles(BY_QUANTILES, sketch_quantity(flows, BY_QUANTILES))
    named = BY_MEANS.model_copy(update={"vocabulary": ("short", "mid", "long")})
    with pytest.raises(FlowloomError, match=r"label bins at 2 do not fit: .* must have 2 label values"):
        bin_by_means(named, sum_classes(flows_of([(NS, 0, 0), (3 * NS, 1, 0)]), named, APP))
    with pytest.raises(ValueError, match="must be of kind auto"):
        sketch_quantity(flows_of([(1, 0, 0)]), APP)
