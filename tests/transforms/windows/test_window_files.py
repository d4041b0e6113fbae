"""Files of label windows: an index that was sorted in many pieces equals one that was made in memory."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from window_tables import KEY, flows_of, window_rows, windows_of

from flowloom.transforms.windows.window_files import forget_indexes, load_index, window_writer, write_windows
from flowloom.transforms.windows.window_index import WindowIndex, index_windows
from flowloom.transforms.windows.window_match import NO_WINDOW, match_windows


def same(one: WindowIndex, other: WindowIndex) -> bool:
    fields = [field.name for field in dataclasses.fields(WindowIndex)]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in fields)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(window_rows, max_size=40), st.integers(0, 9), st.integers(1, 5))
def test_an_index_of_many_pieces_is_that_of_one(tmp_path_factory, windows, rows, size):
    path = str(tmp_path_factory.mktemp("windows") / "table")
    with window_writer(path, rows) as write:
        for at in range(0, len(windows), size):
            write(windows_of(windows[at : at + size]))
    assert same(load_index(path), index_windows(windows_of(windows), counted=True))
    forget_indexes()


def test_many_windows_of_few_keys_are_spread_again(tmp_path):
    rng = np.random.default_rng(3)
    rows = [KEY | {"src_port": int(port), "first": at, "last": at + 2, "code": at % 3}
            for at, port in enumerate(rng.integers(0, 200, 3000))]  # fmt: skip
    with window_writer(str(tmp_path / "table"), 7) as write:
        write(windows_of(rows))
    assert same(load_index(str(tmp_path / "table")), index_windows(windows_of(rows), counted=True))
    assert [path.name for path in tmp_path.iterdir()] == ["table"]
    forget_indexes()


def test_a_writer_that_fails_leaves_no_file(tmp_path):
    def stop() -> None:
        with window_writer(str(tmp_path / "table")) as write:
            write(windows_of([KEY | {"first": 0, "last": 9, "code": 1}]))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stop()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_mapped_once_per_process_until_indexes_are_freed(tmp_path):
    windows = windows_of([KEY | {"first": 0, "last": 9, "code": 1}])
    path = str(tmp_path / "windows")
    write_windows(path, windows, "time")
    first = load_index(path)
    assert same(first, index_windows(windows))
    assert load_index(path) is first
    forget_indexes()
    assert load_index(path) is not first
    write_windows(path, windows_of([]), "time")
    forget_indexes()
    flow: pa.RecordBatch = flows_of([KEY | {"first": 0, "last": 1}])
    assert match_windows(flow, load_index(path)).codes.tolist() == [NO_WINDOW]
