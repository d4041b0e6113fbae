"""Byte rules: comparison with a plain loop, and examples of bytes that leak and that do not."""

import collections

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.splits.byte_rules import HEADER_BYTES, byte_rule, count_bytes

TASK = Task(name="tunnel", kind="multiclass", vocabulary=("plain", "vpn", "tor"))


def rows(of: list[tuple[bytes, int | None]], width: int = 4) -> pa.RecordBatch:
    content = pa.array([row.ljust(width, b"\0") for row, _ in of], pa.binary(width))
    return pa.RecordBatch.from_arrays(
        [content, pa.array([code for _, code in of], pa.int32())], ["bytes", "label_tunnel"]
    )


labelled = st.tuples(st.binary(max_size=4), st.one_of(st.none(), st.integers(0, 2)))


@settings(deadline=None)  # the kernel may have to be compiled first
@given(st.lists(labelled, max_size=30), st.integers(0, 30))
def test_the_rule_equals_that_of_a_plain_loop(of, cut):
    batch = rows(of)
    counts = sum_by_key([count_bytes(batch.slice(0, cut), [TASK]), count_bytes(batch.slice(cut), [TASK])])["tunnel"]
    rule = byte_rule("tunnel", counts)
    known = [(row.ljust(4, b"\0"), code) for row, code in of if code is not None]
    if not known:
        assert rule is None
        return
    right = []
    for at in range(4):
        by_value = collections.defaultdict(collections.Counter)
        for row, code in known:
            by_value[row[at]][code] += 1
        right.append(sum(max(codes.values()) for codes in by_value.values()) / len(known))
    assert (rule.rows, rule.position, rule.right) == (len(known), int(np.argmax(right)), max(right))
    assert all(right[at] >= 0.95 for at in rule.leaking)


def rule_of(of: list[tuple[bytes, int | None]], width: int = 4):
    return byte_rule("tunnel", count_bytes(rows(of, width), [TASK])["tunnel"])


def test_a_byte_that_nearly_determines_the_label_leaks_and_a_rare_class_does_not():
    assert rule_of([(b"\x01\x07", 0)] * 60 + [(b"\x65\x07", 1)] * 40).leaking == (0,)
    assert rule_of([(b"\x01", 0)] * 98 + [(b"\x01", 1)] * 2).leaking == ()
    assert rule_of([(b"\x01", 0)] * 98 + [(b"\x65", 1)] * 2).leaking == (0,)


def test_bytes_after_headers_are_not_counted():
    of = [(bytes(HEADER_BYTES) + bytes([code]), code) for code in (0, 1)] * 10
    assert rule_of(of, HEADER_BYTES + 1).leaking == ()


def test_rows_of_any_length_are_counted_in_buffers_that_are_longer_than_their_rows():
    for width in (1, 5, 8, 13):
        content = [bytes([row] * width) for row in range(5)]
        padded = pa.py_buffer(b"".join(content) + bytes(7))
        column = pa.Array.from_buffers(pa.binary(width), 3, [None, padded], offset=1)
        batch = pa.RecordBatch.from_arrays([column, pa.array([0, 1, 2], pa.int32())], ["bytes", "label_tunnel"])
        counts = count_bytes(batch, [TASK])["tunnel"]
        assert counts.sum() == 3 * width
        assert all(counts[at, row + 1, row] == 1 for at in range(width) for row in range(3))
