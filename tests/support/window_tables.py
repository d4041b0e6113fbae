"""Label windows and flows as rows of a few values, and their join as a slow and obvious loop."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.arrow.label_windows import UNKNOWN_LABEL, WINDOW_KEY
from flowloom.transforms.arrays.columns import column
from flowloom.transforms.windows.window_index import window_batch
from flowloom.transforms.windows.window_match import NO_WINDOW

Row = dict[str, Any]


def address(host: int) -> list[int]:
    return [host * 7, host]


def key_columns(rows: list[Row], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    kinds = {"src_port": np.uint16, "dst_port": np.uint16, "protocol": np.uint8}
    return {
        name: np.array([row[name] for row in rows], kinds[name])
        if name in kinds
        else np.array([address(row[name]) for row in rows], np.uint64).reshape(-1, 2)
        for name in names
    }


def windows_of(rows: list[Row], names: tuple[str, ...] = WINDOW_KEY) -> pa.RecordBatch:
    times = (np.array([row[name] for row in rows], np.int64) for name in ("first", "last"))
    masks = np.array([mask_of(columns_of(row, names)) for row in rows], np.uint8)
    return window_batch(
        key_columns(rows, names), *times, np.array([row["code"] for row in rows], np.int32), None, masks
    )


def columns_of(row: Row, names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the key columns that count in a row: all of the table but those that it leaves empty."""
    return tuple(name for name in names if name not in row.get("empty", ()))


def mask_of(names: tuple[str, ...]) -> int:
    return sum(1 << at for at, name in enumerate(WINDOW_KEY) if name in names)


def flows_of(rows: list[Row]) -> pa.RecordBatch:
    flows = synthetic_flows(len(rows))
    values = key_columns(rows, WINDOW_KEY)
    values["start"] = np.array([row["first"] for row in rows], np.int64)
    values["duration_ns"] = np.array([row["last"] - row["first"] for row in rows], np.int64)
    for name, held in values.items():
        at = flows.schema.get_field_index(name)
        flows = flows.set_column(at, flows.schema.field(at), column(held, flows.schema.field(at).type))
    return flows


OTHER_END = {"src_ip": "dst_ip", "dst_ip": "src_ip", "src_port": "dst_port", "dst_port": "src_port"}


def turned(row: Row) -> Row:
    """Returns a row with its ends exchanged, the columns that it leaves empty included."""
    empty = {"empty": tuple(OTHER_END.get(name, name) for name in row["empty"])} if "empty" in row else {}
    return row | {name: row[other] for name, other in OTHER_END.items()} | empty


def fits(window: Row, flow: Row, names: tuple[str, ...]) -> bool:
    return any(all(window[name] == side[name] for name in names) for side in (flow, turned(flow)))


def canonical(window: Row, names: tuple[str, ...]) -> str:
    """Returns the key of a window; if both ends have the same columns, they are sorted."""
    ends = [[window[f"{end}_{what}"] for what in ("ip", "port") if f"{end}_{what}" in names] for end in ("src", "dst")]
    if all((f"src_{what}" in names) == (f"dst_{what}" in names) for what in ("ip", "port")):
        ends.sort()
    return str((names, ends, window["protocol"] if "protocol" in names else None))


def oracle(windows: list[Row], flow: Row, tolerance: int, names: tuple[str, ...]) -> tuple[int, bool]:
    """Returns the label of a flow, and whether others match too, from all windows one by one."""
    shares: dict[int, list[int]] = {}
    episodes = itertools.groupby(
        sorted(
            (canonical(w, own), w["code"], w["first"], w["last"])
            for w in windows
            if fits(w, flow, own := columns_of(w, names))
        ),
        key=lambda window: window[:2],
    )
    for (_, code), rows in episodes:
        covered = set()
        distance = None
        for _, _, first, last in rows:
            touches = first <= flow["last"] and last >= flow["first"]
            apart = 0 if touches else max(first - flow["last"], flow["first"] - last)
            distance = apart if distance is None else min(distance, apart)
            covered |= set(range(max(first, flow["first"]), min(last, flow["last"])))
        if distance <= tolerance:
            shares.setdefault(code, []).append(len(covered) if distance == 0 else -distance)
    if not shares:
        return NO_WINDOW, False
    best = max(shares, key=lambda code: (max(shares[code]), -code))
    return best, len(shares) > 1


times = st.tuples(st.integers(0, 30), st.integers(0, 12)).map(lambda t: {"first": t[0], "last": t[0] + t[1]})
ends = st.fixed_dictionaries(
    {
        "src_ip": st.integers(0, 1), "dst_ip": st.integers(0, 1), "src_port": st.integers(0, 1),
        "dst_port": st.integers(0, 1), "protocol": st.sampled_from([6, 17]),
    }
)  # fmt: skip
flow_rows = st.builds(lambda key, time: key | time, ends, times)
window_rows = st.builds(
    lambda row, code, empty: row | {"code": code, "empty": empty},
    flow_rows,
    st.integers(UNKNOWN_LABEL, 2),
    st.just(()) | st.sets(st.sampled_from(WINDOW_KEY)).map(tuple),
)
named = st.sets(st.sampled_from(WINDOW_KEY)).map(lambda names: tuple(n for n in WINDOW_KEY if n in names))

KEY = {"src_ip": 1, "dst_ip": 2, "src_port": 3, "dst_port": 4, "protocol": 6}
