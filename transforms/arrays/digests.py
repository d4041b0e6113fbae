"""128-bit digests of rows, and a hash of a dataset that is the same for any order, batches and shards."""

import hashlib
from collections.abc import Iterable

import numba
import numpy as np
import pyarrow as pa

from flowloom.transforms.arrays.kernels import u64

DIGEST_BYTES = 16

_NULL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
"""Absorbed instead of a length for a null cell; no cell has this length."""


def row_digests(rows: pa.RecordBatch, context: str) -> np.ndarray:
    """Digests each row: its cells in schema order, their column names and types, and a context such as the split.

    A cell is absorbed as its length in bytes and its bytes, so that bytes cannot move between neighbouring cells
    unnoticed; the bytes behind a null do not count. Arrow's buffers are little-endian, and so are the words.

    Args:
      rows: columns of fixed width, strings, binaries, and lists of fixed-width items without nulls.
      context: further meaning of a row, for example its view, stripe and split.

    Returns:
      uint64 [rows, 2].

    Raises:
      TypeError: if a column is of another type.
    """
    if not rows.num_rows:
        return np.empty((0, 2), np.uint64)
    state = np.tile(np.frombuffer(hashlib.sha256(context.encode()).digest()[:DIGEST_BYTES], "<u8"), (rows.num_rows, 1))
    for field, column in zip(rows.schema, rows.columns, strict=True):
        salt = np.frombuffer(hashlib.sha256(f"{field.name}:{field.type}".encode()).digest()[:8], "<u8")[0]
        content, starts, stops = _cells(field, column)
        validity, offset = _bytes(column.buffers()[0]), column.offset
        _absorb_column(state, content, starts, stops, validity, offset, salt)
    _finish(state)
    return state


def sort_digests(digests: Iterable[np.ndarray]) -> np.ndarray:
    """Returns digests of several batches as one array [rows, 2] in ascending order."""
    rows = np.concatenate([np.empty((0, 2), np.uint64), *digests])
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


def content_hash(digests: Iterable[np.ndarray], meaning: str) -> str:
    """Returns the SHA-256 in hex over a dataset's meaning (its tasks, vocabularies) and all its sorted row digests."""
    digest = hashlib.sha256(meaning.encode())
    parts = list(digests)
    for highest in range(
        16
    ):  # by the highest bits, so that only a sixteenth of the rows is copied and sorted at a time
        rows = sort_digests(part[part[:, 0] >> np.uint64(60) == highest] for part in parts)
        digest.update(np.ascontiguousarray(rows, "<u8").tobytes())
    return digest.hexdigest()


def keyed_hash(ids: pa.FixedSizeBinaryArray, key: str) -> np.ndarray:
    """Hashes 16-byte ids under a key, so that hashes under different keys are independent.

    Returns:
      uint64 [rows], uniform over all values.
    """
    words = np.frombuffer(_bytes(ids.buffers()[1]), "<u8").reshape(-1, 2)[ids.offset : ids.offset + len(ids)]
    salt = np.frombuffer(hashlib.sha256(key.encode()).digest()[:8], "<u8")[0]
    return _mixed(_mixed(words[:, 0] ^ salt) ^ words[:, 1])


def _bytes(buffer: pa.Buffer | None) -> np.ndarray:
    return np.frombuffer(b"" if buffer is None else buffer, np.uint8)


def _cells(field: pa.Field, column: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a column's bytes and the start and stop of each cell in them, int64 [rows]."""
    kind = column.type
    if pa.types.is_list(kind) and column.values.null_count == 0:
        items = column.values
        width = items.type.bit_width // 8
        edges = np.frombuffer(column.offsets.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
        edges = (edges.astype(np.int64) + items.offset) * width
        return _bytes(items.buffers()[1]), edges[:-1], edges[1:]
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        edges = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
        edges = edges.astype(np.int64)
        return _bytes(column.buffers()[2]), edges[:-1], edges[1:]
    if (pa.types.is_primitive(kind) or pa.types.is_fixed_size_binary(kind)) and kind.bit_width % 8 == 0:
        width = kind.bit_width // 8
        edges = np.arange(column.offset, column.offset + len(column) + 1, dtype=np.int64) * width
        return _bytes(column.buffers()[1]), edges[:-1], edges[1:]
    raise TypeError(
        f"column {field.name!r} must be of fixed width, a string, or a list of such without nulls, got {field.type}"
    )


def _mixed(words: np.ndarray) -> np.ndarray:
    """Returns words after the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return words ^ (words >> np.uint64(31))


@numba.njit(inline="always")
def _rotated(word, bits):
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))


@numba.njit(inline="always")
def _absorbed(a, b, word):
    """Returns both halves of a row's state after one more word, by the round of MurmurHash3 x64 128 (A. Appleby)."""
    c1, c2 = np.uint64(0x87C3_7B91_1142_53D5), np.uint64(0x4CF5_AD43_2745_937F)
    a ^= _rotated(word * c1, 31) * c2
    a = (_rotated(a, 27) + b) * np.uint64(5) + np.uint64(0x52DC_E729)
    b ^= _rotated(word * c2, 33) * c1
    b = (_rotated(b, 31) + a) * np.uint64(5) + np.uint64(0x3849_5AB5)
    return a, b


@numba.njit(nogil=True, cache=True)
def _absorb_column(state, content, starts, stops, validity, offset, salt):
    """Absorbs one column into the states of its rows.

    A 0 at bit `offset + row` of a non-empty `validity` is a null.
    """
    for row in range(len(starts)):
        a, b = state[row, 0], state[row, 1]
        bit = offset + row
        if len(validity) and not (validity[bit >> 3] >> (bit & 7)) & 1:
            state[row, 0], state[row, 1] = _absorbed(a, b, salt ^ _NULL)
            continue
        at, stop = starts[row], stops[row]
        a, b = _absorbed(a, b, salt ^ np.uint64(stop - at))
        while at + 8 <= stop:
            a, b = _absorbed(a, b, u64(content, at))
            at += 8
        if at < stop:
            word = np.uint64(0)
            for byte in range(stop - at):
                word |= np.uint64(content[at + byte]) << np.uint64(8 * byte)
            a, b = _absorbed(a, b, word)
        state[row, 0], state[row, 1] = a, b


@numba.njit(nogil=True, cache=True)
def _finish(state):
    """Spreads every bit of a row's state over both halves, by the finaliser of MurmurHash3."""
    for row in range(len(state)):
        a, b = state[row, 0], state[row, 1]
        a += b
        b += a
        for _ in range(2):
            a = (a ^ (a >> np.uint64(33))) * np.uint64(0xFF51_AFD7_ED55_8CCD)
            b = (b ^ (b >> np.uint64(33))) * np.uint64(0xC4CE_B9FE_1A85_EC53)
        a ^= a >> np.uint64(33)
        b ^= b >> np.uint64(33)
        a += b
        b += a
        state[row, 0], state[row, 1] = a, b
