"""Matches of label windows and flows: the label of each flow, by shared time or by number of windows."""

import dataclasses

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.label_windows import WINDOW_KEY
from flowloom.transforms.arrays.columns import view
from flowloom.transforms.windows.window_index import WindowIndex, groups_of

NO_WINDOW = -2
"""The code of a flow that no window matches."""


@dataclasses.dataclass(frozen=True)
class WindowMatch:
    """Labels that the windows of one source give to flows.

    Attributes:
      codes: int32 [rows], label number, `UNKNOWN_LABEL` or `NO_WINDOW`.
      shared: int64 [rows], share of the label's windows in the flow, in the index's measure.
      several: bool [rows], true where windows with other labels match too.
      confidence: uint8 [rows], maximum over the label's windows that the flow touches, or that of the nearest window;
        [0] if the source has no confidence.
    """

    codes: np.ndarray
    shared: np.ndarray
    several: np.ndarray
    confidence: np.ndarray


def match_windows(
    flows: pa.RecordBatch, index: WindowIndex, tolerance_ns: int = 0, *, last_resort: int | None = None
) -> WindowMatch:
    """Finds the label of each flow (`schemas.rows.FLOWS`).

    A window matches a flow if its whole key fits the flow in either direction, and their times, both ends included, are
    at most `tolerance_ns` apart. If several labels match, the flow gets the label with the largest share; if no window
    touches the flow, that of the nearest window; among equals, the first in the vocabulary.

    Args:
      last_resort: a label that a flow gets only if no window with another label matches.
    """
    rows = flows.num_rows
    start_ns = view(flows["start"])
    codes, shared, several = np.empty(rows, np.int32), np.empty(rows, np.int64), np.empty(rows, bool)
    confidence = np.zeros(rows if len(index.confidence) else 0, np.uint8)
    _match(
        *(view(flows[name]) for name in WINDOW_KEY), start_ns, start_ns + view(flows["duration_ns"]),
        index.masks, index.keys, index.codes, index.starts, index.directory, index.shift,
        index.first_ns, index.last_ns, index.confidence, index.before,
        tolerance_ns, NO_WINDOW if last_resort is None else last_resort, codes, shared, several, confidence,
    )  # fmt: skip
    return WindowMatch(codes, shared, several, confidence)


@numba.njit(nogil=True, cache=True, inline="always")
def not_before(values, begin, end, limit):
    """Returns the first position of ascending values[begin:end] whose value is at least `limit`."""
    while begin < end:
        middle = (begin + end) >> 1
        if values[middle] < limit:
            begin = middle + 1
        else:
            end = middle
    return begin


@numba.njit(nogil=True, cache=True)
def _shared(start_ns, end_ns, begin, end, first_ns, last_ns, before):
    """Returns the time that a group's windows share with a flow, or minus the distance to the nearest window."""
    low = not_before(last_ns, begin, end, start_ns)
    high = not_before(first_ns, low, end, end_ns + 1)
    if low < high:
        outside = max(start_ns - first_ns[low], 0) + max(last_ns[high - 1] - end_ns, 0)
        return before[high] - before[low] - outside
    distance = np.iinfo(np.int64).max
    if low > begin:
        distance = start_ns - last_ns[low - 1]
    if low < end:
        distance = min(distance, first_ns[low] - end_ns)
    return -distance


@numba.njit(nogil=True, cache=True)
def _surest(start_ns, end_ns, begin, end, first_ns, last_ns, confidence):
    """Returns the maximum confidence of a group's windows that a flow touches, or that of the nearest window."""
    low = not_before(last_ns, begin, end, start_ns)
    high = not_before(first_ns, low, end, end_ns + 1)
    if low == high:
        if low == end or (low > begin and start_ns - last_ns[low - 1] <= first_ns[low] - end_ns):
            low -= 1
        high = low + 1
    return confidence[low:high].max()


@numba.njit(nogil=True, cache=True)
def _match(
    src, dst, src_port, dst_port, protocol, start_ns, end_ns, masks, keys, codes, starts, directory, shift,
    first_ns, last_ns, confidence, before, tolerance_ns, last_resort,
    code_out, shared_out, several_out, confidence_out,
):  # fmt: skip
    for i in range(len(start_ns)):
        best, most, matched, several, chosen = NO_WINDOW, np.int64(0), NO_WINDOW, False, -1
        for group in groups_of(src, dst, src_port, dst_port, protocol, i, masks, keys, directory, shift):
            begin, end = starts[group], starts[group + 1]
            shared = _shared(start_ns[i], end_ns[i], begin, end, first_ns, last_ns, before)
            if shared < -tolerance_ns:
                continue
            code = codes[group]
            several |= matched != NO_WINDOW and matched != code
            matched = code
            resort = code == last_resort
            if (
                best == NO_WINDOW
                or (best == last_resort and not resort)
                or (resort == (best == last_resort) and (shared > most or (shared == most and code < best)))
            ):
                best, most, chosen = code, shared, group
        code_out[i], shared_out[i], several_out[i] = best, most, several
        if len(confidence_out) and chosen >= 0:
            begin, end = starts[chosen], starts[chosen + 1]
            confidence_out[i] = _surest(start_ns[i], end_ns[i], begin, end, first_ns, last_ns, confidence)
