"""Dataset sketch: statistics are exact or within their stated error of NumPy's, for any parts of the rows."""

import ipaddress
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import SEQUENCES, label_column
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_statistics import LEVELS, ColumnStatistics, DatasetStatistics
from flowloom.transforms.inspection.column_sketch import (
    DISTINCT_EXACT,
    QUANTILE_ERROR,
    TOP_BUCKETS,
    TOP_VALUES,
    ColumnSketch,
)
from flowloom.transforms.inspection.dataset_sketch import PROFILE_PACKETS, DatasetSketch, bin_sizes, size_bins

TASKS = (
    Task(name="app", kind="multiclass", vocabulary=("web", "ssh", "dns")),
    Task(name="attack", kind="binary"),
)
ROWS = 3000


def labelled_flows(rows: int = ROWS, seed: int = 0) -> pa.RecordBatch:
    flows = synthetic_flows(rows, seed)
    rng = np.random.default_rng(seed)
    for task in TASKS:
        codes = rng.integers(-1, len(task.vocabulary), rows)
        column = pa.array([None if code < 0 else code for code in codes.tolist()], pa.int32())
        flows = flows.append_column(label_column(task.name), column)
    return flows


def described(parts: list[tuple[str, pa.RecordBatch]], cuts: int = 1) -> DatasetStatistics:
    """Sketches each part of the rows, and merges the sketches."""
    merged = DatasetSketch(TASKS, 60)
    for at in range(cuts):
        sketch = DatasetSketch(TASKS, 60)
        for split, rows in parts[at::cuts]:
            sketch.add(split, rows)
        sketch.compact()
        merged.merge(sketch)
    return merged.statistics("00")


def column(values: pa.Array, cuts: int = 1, name: str = "x") -> ColumnStatistics:
    merged = ColumnSketch(pa.field(name, values.type))
    step = -(-max(len(values), 1) // cuts)
    for at in range(cuts):
        sketch = ColumnSketch(pa.field(name, values.type))
        sketch.add(values.slice(at * step, step))
        sketch.compact()
        merged.merge(sketch)
    return merged.statistics()


def assert_ranks(quantiles: tuple[float, ...], values: np.ndarray, error: float = QUANTILE_ERROR) -> None:
    """Checks that each level lies between the shares of values below its quantile, and at or below it."""
    ordered = np.sort(values.astype(np.float64))
    for level, quantile in zip(LEVELS, quantiles, strict=True):
        below, upto = (np.searchsorted(ordered, quantile, side) / len(ordered) for side in ("left", "right"))
        assert below - error - 1 / len(ordered) <= level <= upto + error + 1 / len(ordered)


@pytest.fixture(scope="module")
def flows() -> pa.RecordBatch:
    return labelled_flows()


@pytest.fixture(scope="module")
def statistics(flows) -> DatasetStatistics:
    splits = ("train", "validation", "test")
    return described([(splits[at % 3], flows.slice(at * 100, 100)) for at in range(ROWS // 100)], cuts=4)


def rows_of(flows: pa.RecordBatch, split: int) -> pa.Table:
    return pa.Table.from_batches([flows.slice(at * 100, 100) for at in range(ROWS // 100) if at % 3 == split])


def test_numbers_equal_those_of_numpy(flows, statistics):
    rows = rows_of(flows, 0)
    for name in ("duration_ns", "src_port", "packets_fwd", "protocol", *SEQUENCES):
        found = statistics.columns["train"][name]
        values = rows[name].combine_chunks()
        values = (values.flatten() if name in SEQUENCES else values).to_numpy()
        assert found.numbers is not None
        assert (found.count, found.nulls) == (len(values), 0)
        assert (found.numbers.minimum, found.numbers.maximum) == (values.min(), values.max())
        assert found.numbers.mean == pytest.approx(values.mean())
        assert found.numbers.std == pytest.approx(values.std())
        assert_ranks(found.numbers.quantiles, values)


def test_lists_also_have_statistics_of_lengths(flows, statistics):
    lengths = np.array([len(sizes) for sizes in rows_of(flows, 2)["pkt_size"].to_pylist()])
    found = statistics.columns["test"]["pkt_size"].lengths
    assert found is not None
    assert (found.minimum, found.maximum, found.mean) == (lengths.min(), lengths.max(), pytest.approx(lengths.mean()))
    assert_ranks(found.quantiles, lengths)
    assert statistics.columns["test"]["duration_ns"].lengths is None


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.integers(1, 20_000), st.sampled_from(["zipf", "uniform", "constant"]), st.integers(0, 99))
def test_sketches_stay_within_their_stated_error(cuts, rows, shape, seed):
    rng = np.random.default_rng(seed)
    drawn = {"zipf": rng.zipf(1.4, rows), "uniform": rng.integers(0, 1 << 50, rows), "constant": np.full(rows, 7)}
    values = np.minimum(drawn[shape], 1 << 50)
    found = column(pa.array(values, pa.int64()), cuts)
    assert found.numbers is not None
    assert_ranks(found.numbers.quantiles, values)
    true = dict(zip(*(each.tolist() for each in np.unique(values, return_counts=True)), strict=True))
    if len(true) < DISTINCT_EXACT:
        assert found.distinct == len(true)
    else:
        assert found.distinct == pytest.approx(len(true), rel=0.1)  # six standard errors
    for top in found.top:
        assert top.at_least <= true[int(top.value)] <= top.at_most <= true[int(top.value)] + rows // TOP_BUCKETS
    if len(true) <= TOP_BUCKETS:
        most = sorted(true.values(), reverse=True)[:TOP_VALUES]
        assert [top.at_most for top in found.top] == [top.at_least for top in found.top] == most
    listed = {int(top.value) for top in found.top}
    if len(listed) < TOP_VALUES:
        assert {value for value, count in true.items() if count > 2 * (rows // TOP_BUCKETS)} <= listed


def test_exact_statistics_are_equal_to_the_bit_in_any_order(flows):
    parts = [("train" if at % 3 else "test", flows.slice(at * 100, 100)) for at in range(ROWS // 100)]
    whole, other = described(parts), described(parts[::-1], cuts=7)
    approximate = {"columns"}
    assert whole.model_dump(exclude=approximate) == other.model_dump(exclude=approximate)
    for split, columns in whole.columns.items():
        for name, found in columns.items():
            again = other.columns[split][name]
            assert (found.count, found.nulls, found.distinct) == (again.count, again.nulls, again.distinct)
            for one, two in ((found.numbers, again.numbers), (found.lengths, again.lengths)):
                if one and two:
                    assert one.model_dump(exclude={"quantiles"}) == two.model_dump(exclude={"quantiles"})
    assert described(parts) == whole, "the same order gives the same sketches"


def test_labels_are_counted_alone_and_by_pairs(flows, statistics):
    app, attack = (flows[label_column(task.name)].to_pylist() for task in TASKS)
    (table,) = statistics.contingencies
    assert table.tasks == ("app", "attack")
    for one, code in enumerate((0, 1, 2, None)):
        for other, second in enumerate((0, 1, None)):
            assert table.counts[one][other] == sum((code, second) == pair for pair in zip(app, attack, strict=True))
    train = rows_of(flows, 0)[label_column("app")].to_pylist()
    assert statistics.classes["train"]["app"] == {"web": train.count(0), "ssh": train.count(1), "dns": train.count(2)}
    assert statistics.unknown["train"]["app"] == train.count(None)
    assert statistics.rows == {"train": ROWS // 3, "validation": ROWS // 3, "test": ROWS // 3}


def test_profiles_are_quartiles_of_size_times_direction_in_the_train_split(flows, statistics):
    rows = [row for row in rows_of(flows, 0).to_pylist() if row["label_app"] == 1]
    profile = next(each for each in statistics.profiles if (each.task, each.word) == ("app", "ssh"))
    assert len(profile.flows) == min(PROFILE_PACKETS, max(len(row["pkt_size"]) for row in rows))
    for at, flows_there in enumerate(profile.flows):
        sizes = [row["pkt_size"][at] * row["pkt_dir"][at] for row in rows if len(row["pkt_size"]) > at]
        assert flows_there == len(sizes)
        for share, found in ((0.25, profile.lower), (0.5, profile.median), (0.75, profile.upper)):
            assert found[at] == pytest.approx(np.quantile(sizes, share, method="inverted_cdf"), abs=2)


@given(st.lists(st.tuples(st.integers(0, 65_535), st.sampled_from([-1, 1])), min_size=1))
def test_bins_keep_sizes_and_directions(packets):
    sizes = np.array([size for size, _ in packets], np.uint16)
    directions = np.array([direction for _, direction in packets], np.int8)
    middles = bin_sizes()[size_bins(sizes, directions)]
    wide = sizes.astype(np.int64)
    assert (np.sign(middles) == directions).all()
    assert (np.abs(np.abs(middles) - wide) <= np.where(wide < 2048, 2, 128)).all()


def test_texts_bytes_and_addresses_are_shown_as_people_write_them():
    assert column(pa.array(["a", "b", "a"])).top[0].value == "a"
    assert column(pa.array([b"\xff" * 16], pa.binary(16))).top[0].value == "ff" * 16
    address = ipaddress.IPv6Address("::ffff:192.0.2.1").packed
    assert column(pa.array([address], pa.binary(16)), name="src_ip").top[0].value == "192.0.2.1"


def test_nulls_are_counted_and_empty_columns_have_no_statistics():
    found = column(pa.array([1, None, 3, None], pa.int32()))
    assert (found.count, found.nulls, found.distinct) == (2, 2, 2)
    empty = column(pa.array([], pa.int64()))
    assert empty == ColumnStatistics(count=0, nulls=0, distinct=0, top=(), numbers=None, lengths=None)


def test_stripes_count_only_their_own_task(flows):
    found = described([("train", flows.drop_columns([label_column("attack")]))])
    assert found.contingencies == ()
    assert sum(found.classes["train"]["attack"].values()) + found.unknown["train"]["attack"] == 0
    assert {profile.task for profile in found.profiles} == {"app"}


def test_sketches_do_not_grow_with_rows():
    def size(batches: int) -> int:
        sketch = ColumnSketch(pa.field("x", pa.int64()))
        for seed in range(batches):
            sketch.add(pa.array(np.random.default_rng(seed).integers(0, 1 << 50, 50_000)))
        sketch.compact()
        return len(pickle.dumps(sketch))

    assert size(20) < 1.3 * size(4)


def test_the_sketches_do_not_need_tensorflow():
    code = "import sys; from tfx_bsl import sketches; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
