"""Rows of tables by the flows that they match: counts equal those of a loop over all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from window_tables import KEY, Row, columns_of, fits, flow_rows, flows_of, window_rows, windows_of

from flowloom.schemas.arrow.label_windows import WINDOW_KEY
from flowloom.transforms.windows.table_rows import count_table, forget_samples, table_writer, touch_table
from flowloom.transforms.windows.window_files import forget_indexes
from flowloom.transforms.windows.window_index import index_windows
from flowloom.transforms.windows.window_rows import RowCounts, count_rows, touch_rows


def counted(windows: list[Row], flows: list[Row], spans: list[tuple[int, int]], tolerance: int) -> RowCounts:
    """Returns the counts from all pairs of rows and flows."""
    found = {"matched": 0, "several": 0, "unmatched": 0, "outside": 0}
    for row in windows:
        hits = sum(
            fits(row, flow, columns_of(row, WINDOW_KEY))
            and row["first"] - flow["last"] <= tolerance
            and flow["first"] - row["last"] <= tolerance
            for flow in flows
        )
        inside = any(first - tolerance <= row["last"] and row["first"] - tolerance <= last for first, last in spans)
        found["matched" if hits == 1 else "several" if hits else "unmatched" if inside else "outside"] += 1
    return RowCounts(**found)


spans_of_time = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 9)).map(lambda t: (t[0], t[0] + t[1])), max_size=4
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(window_rows, max_size=25), st.lists(flow_rows, max_size=14), st.integers(0, 4), spans_of_time,
    st.integers(1, 5), st.integers(1, 30),
)  # fmt: skip
def test_rows_are_counted_as_by_a_loop(windows, flows, tolerance, spans, size, rows):
    index = index_windows(windows_of(windows), counted=True)
    batches = [flows[at : at + size] for at in range(0, len(flows), size)]
    hits = [touch_rows(flows_of(batch), index, tolerance) for batch in batches]
    spans_ns = np.array(spans, np.int64).reshape(-1, 2)
    counts = count_rows(index, lambda: reversed(hits), spans_ns, tolerance, rows)
    assert counts == counted(windows, flows, spans, tolerance)
    assert sum(vars(counts).values()) == len(windows), "every row is in one count"


def test_rows_that_hold_at_any_time_match_every_flow_of_their_key():
    row = KEY | {"first": 0, "last": np.iinfo(np.int64).max, "code": 1}
    index = index_windows(windows_of([row]), counted=True)
    flows = flows_of([KEY | {"first": 5, "last": 9}, KEY | {"first": 10**18, "last": 2 * 10**18}])
    hits = touch_rows(flows, index, 10**18)
    spans = np.array([[5, 9]], np.int64)
    assert count_rows(index, lambda: [hits], spans, 10**18) == RowCounts(several=1)
    assert count_rows(index, list, spans, 0) == RowCounts(unmatched=1)


MINUTE = 60_000_000_000
NOON = 28_000_000 * MINUTE


def flow(port: int, **changed: int) -> Row:
    return KEY | {"src_port": port, "first": NOON + port * MINUTE, "last": NOON + port * MINUTE + 1} | changed


@pytest.mark.parametrize(
    ("change", "kind", "offset_s"),
    [
        (
            lambda row: row | {"first": row["first"] - 180 * MINUTE, "last": row["last"] - 180 * MINUTE},
            "clock",
            -10_800,
        ),
        (lambda row: row | {"first": row["first"] + 330 * MINUTE, "last": row["last"] + 330 * MINUTE}, "clock", 19_800),
        (lambda row: row | {"first": row["first"] + MINUTE // 4, "last": row["last"] + MINUTE // 4}, "tolerance", 0),
        (lambda row: row | {"protocol": 17}, "protocol", 0),
        (lambda row: row | {"src_port": row["dst_port"], "dst_port": row["src_port"]}, "ports", 0),
        (lambda row: row | {"src_ip": 77}, "hosts", 0),
    ],
)
def test_causes_of_rows_without_a_flow(tmp_path, change, kind, offset_s):
    flows = [flow(port) for port in range(1, 90)]
    rows = [change(row) | {"code": 0} for row in flows] + [flow(200 + at) | {"code": 1} for at in range(3)]
    path = str(tmp_path / "table")
    with table_writer(path) as write:
        write(windows_of(rows[:40]))
        write(windows_of(rows[40:]))
    hits = [touch_table(flows_of(flows[at : at + 30]), path, 1000) for at in (60, 0, 30)]
    counts, causes = count_table(path, hits, np.array([[NOON, NOON + 400 * MINUTE]], np.int64), 1000)
    assert counts.matched + counts.several <= 1, "one row has equal ports"
    best = causes[0]
    assert (best.kind, best.offset_s) == (kind, offset_s)
    assert best.of <= 32, "few rows of one pair of hosts are tried"
    assert best.rows > best.of / 2
    forget_indexes()
    forget_samples()


def test_rows_that_all_match_have_no_causes(tmp_path):
    flows = [flow(port) for port in range(1, 9)]
    path = str(tmp_path / "table")
    with table_writer(path) as write:
        write(windows_of([row | {"code": 0} for row in flows]))
    hits = [touch_table(flows_of(flows), path, 0)]
    assert count_table(path, hits, np.array([[0, 1]], np.int64), 0) == (RowCounts(matched=8), ())
    forget_indexes()
    forget_samples()


def test_a_table_without_rows_is_counted(tmp_path):
    path = str(tmp_path / "table")
    with table_writer(path):
        pass
    hits = [touch_table(flows_of([flow(1)]), path, 0)]
    assert count_table(path, hits, np.empty((0, 2), np.int64), 0) == (RowCounts(), ())
    forget_indexes()
    forget_samples()
