"""Rows that go through spill files come back as they were, in files of a bounded size."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.transforms.io.io_ptransforms import ReadSpilled, SpillBatches
from flowloom.transforms.io.spill import (
    SpillBuffer,
    clear,
    read_batches,
    read_spilled,
    spill_batches,
    spill_bytes,
)

ROWS = synthetic_flows(100)


def files(tmp_path):
    return sorted(tmp_path.glob("spill/*"))


def test_batches_come_back_from_their_places(tmp_path):
    first = spill_batches([ROWS.slice(0, 30), ROWS.slice(30, 40)], str(tmp_path))
    second = spill_batches([ROWS.slice(70)], str(tmp_path))
    assert len(files(tmp_path)) == 2
    assert read_spilled([first[1]]).equals(ROWS.slice(30, 40))
    assert [batch.num_rows for batch in read_batches(reversed(first))] == [30, 40]
    found = pa.table(read_spilled([second[0], first[1], first[0]]))
    assert found.sort_by("flow_id").equals(pa.table(ROWS).sort_by("flow_id"))


def test_clear_removes_spill_files_and_unfinished_ones(tmp_path):
    spill_batches([ROWS], str(tmp_path))
    spill_bytes(b"content", str(tmp_path))
    (tmp_path / ".shard.1234.writing").touch()
    (tmp_path / "shard").touch()
    clear(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


@settings(deadline=None, max_examples=50)
@given(
    adds=st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=4), max_size=8),
    limit=st.sampled_from([1, 500, 4_000, 1 << 30]),
    joined=st.booleans(),
)
def test_a_buffer_returns_every_row_at_its_key(tmp_path_factory, adds, limit, joined):
    """Keys 0 and 1 have one schema, 2 and 3 another."""
    folder = str(tmp_path_factory.mktemp("job"))
    schemas = [pa.schema([(name, pa.int64())]) for name in ("a", "a", "b", "b")]
    buffer = SpillBuffer[int](folder, limit, joined=joined)
    expected: dict[int, list[int]] = {}
    found: dict[int, list[int]] = {}
    number = held = 0
    for parts in adds:
        rows = []
        for key, count in parts:
            values = list(range(number, number + count))
            number += count
            expected.setdefault(key, []).extend(values)
            rows.append((key, pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=schemas[key])))
        held += sum(batch.nbytes for _, batch in rows)
        places = buffer.add(iter(rows))
        assert bool(places) == (held >= limit)
        held = 0 if places else held
        _collect(places, found, joined)
    _collect(buffer.flush(), found, joined)
    assert {key: values for key, values in found.items() if values} == {
        key: values for key, values in expected.items() if values
    }
    assert buffer.flush() == []


def _collect(places, found, joined):
    assert len({place.path for _, place in places}) <= 2, "one file for each schema"
    keys = [key for key, _ in places]
    assert not joined or len(keys) == len(set(keys))
    for key, place in places:
        found.setdefault(key, []).extend(read_spilled([place])[0].to_pylist())


@pytest.mark.parametrize("limit", [1, 1 << 30])
def test_unjoined_batches_stay_apart(tmp_path, limit):
    batches = [ROWS.slice(0, 30), ROWS.slice(30, 40), ROWS.slice(70)]
    buffer = SpillBuffer[None](str(tmp_path), limit, joined=False)
    places = [place for batch in batches for _, place in buffer.add([(None, batch)])]
    places += [place for _, place in buffer.flush()]
    assert [read_spilled([place]).num_rows for place in places] == [30, 40, 30]
    assert len(files(tmp_path)) == (3 if limit == 1 else 1)


def test_spilled_batches_are_read_back_one_for_one(tmp_path):
    batches = [ROWS.slice(0, 30), ROWS.slice(30, 40), ROWS.slice(70)]
    places = batches | SpillBatches(str(tmp_path))
    expected = spill_batches(batches, str(tmp_path))
    assert [place.batch for place in places] == [place.batch for place in expected]
    found = places | ReadSpilled()
    assert sorted(found, key=lambda batch: batch["flow_id"][0].as_py()) == sorted(
        (read_spilled([place]) for place in expected), key=lambda batch: batch["flow_id"][0].as_py()
    )
