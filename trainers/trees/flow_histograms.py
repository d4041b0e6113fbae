"""Histograms and statistics of the first packets of flows, in columns of known names."""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from flowloom.schemas.logarithm import natural_log

SIZE_WIDTH = 50
"""Bytes of a bin of sizes."""
SIZE_BINS = 31
"""Bins of sizes; the last one is open: 1,500 bytes and more."""
GAP_EDGES_US = np.round(10.0 ** (np.arange(15) / 2), 3)
"""Edges between the bins of gaps: half decades from 1 microsecond to 10 seconds."""
GAP_BINS = len(GAP_EDGES_US) + 1
STATISTICS = ("sum", "minimum", "mean", "deviation", "maximum", "p25", "p50", "p75")
FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
HEADERS = ("ttl", "window", "payload")
PROTOCOLS = ("tcp", "udp", "icmp", "other")

_natural_log = numba.njit(natural_log)


def histogram_names(features: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the columns of `flow_histograms`.

    Args:
      features: names of the C features of a packet, as in `FeatureSpec.features`.
    """
    names = []
    for side in ("forward", "backward") if "direction" in features else ("all",):
        names.append(f"{side} packets")
        if "size" in features:
            names += [f"{side} size {place * SIZE_WIDTH} bytes" for place in range(SIZE_BINS)]
            names += [f"{side} size {name}" for name in STATISTICS]
        if "gap" in features:
            names += [f"{side} gap bin {place}" for place in range(GAP_BINS)]
            names += [f"{side} gap {name}" for name in STATISTICS]
        names += [f"{side} {flag}" for flag in FLAGS if flag in features]
        names += [f"{side} {header} {name}" for header in HEADERS if header in features for name in STATISTICS]
    return (*names, *(protocol for protocol in PROTOCOLS if protocol in features))


def flow_histograms(
    sequence: npt.NDArray[np.float32], length: npt.NDArray[np.int32], features: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Returns histograms and statistics of the packets of each flow, by direction where it is known.

    Histograms have the share of the flow's packets in each bin of size and of gap. Flags are shares of packets too.
    Statistics of gaps and TCP windows, and the sum of sizes and payloads, are ln(1 + x). Gaps are those to the packet
    before, of any direction, so the first packet has none. A direction without packets has zeros. Percentiles are
    values of packets (nearest rank).

    Args:
      sequence: float32 [B, k, C], in units (`FeatureSpec` with `scaling="none"`), zero after the last packet.
      length: int32 [B], number of packets.
      features: names of the C features.

    Returns:
      float32 [B, columns], the columns of `histogram_names`; the same on every processor.
    """
    place = {name: at for at, name in enumerate(features)}
    first = {name: place.get(name, -1) for name in ("size", "gap", "direction", "fin", "tcp")}
    headers = np.array([place.get(name, -1) for name in HEADERS], np.int64)
    found = np.zeros((len(sequence), len(histogram_names(features))), np.float32)
    sides = 2 if first["direction"] >= 0 else 1
    _describe_flows(
        sequence, length, first["size"], first["gap"], first["direction"], first["fin"], headers, first["tcp"], sides,
        found,
    )  # fmt: skip
    return found


@numba.njit(nogil=True, cache=True)
def _describe_flows(
    sequence: Any, length: Any, size: int, gap: int, direction: int, flags: int, headers: Any, protocol: int,
    sides: int, found: Any,
) -> None:  # fmt: skip
    """Fills the columns of each flow, side by side."""
    values = np.empty(sequence.shape[1])
    for row in range(len(sequence)):
        packets, at = min(max(length[row], 1), sequence.shape[1]), 0
        flow = sequence[row]
        for side in range(sides):
            chosen = np.zeros(packets, np.bool_)
            for packet in range(packets):
                chosen[packet] = sides == 1 or (flow[packet, direction] > 0) == (side == 0)
            found[row, at] = chosen.sum()
            at += 1
            if size >= 0:
                count = 0
                for packet in range(packets):
                    if chosen[packet]:
                        value = max(flow[packet, size], np.float32(0))
                        found[row, at + min(int(value) // SIZE_WIDTH, SIZE_BINS - 1)] += np.float32(1) / packets
                        values[count] = value
                        count += 1
                at += SIZE_BINS
                _describe(values[:count], False, found[row, at : at + len(STATISTICS)])
                at += len(STATISTICS)
            if gap >= 0:
                count = 0
                for packet in range(1, packets):
                    if chosen[packet]:
                        value = max(flow[packet, gap], np.float32(0))
                        place = np.searchsorted(GAP_EDGES_US, np.float64(value), side="right")
                        found[row, at + place] += np.float32(1) / packets
                        values[count] = value
                        count += 1
                at += GAP_BINS
                _describe(values[:count], True, found[row, at : at + len(STATISTICS)])
                at += len(STATISTICS)
            if flags >= 0:
                for flag in range(len(FLAGS)):
                    count = 0
                    for packet in range(packets):
                        count += chosen[packet] and flow[packet, flags + flag] > 0
                    found[row, at + flag] = count / packets
                at += len(FLAGS)
            for header in range(len(headers)):
                if headers[header] >= 0:
                    count = 0
                    for packet in range(packets):
                        if chosen[packet]:
                            values[count] = max(flow[packet, headers[header]], np.float32(0))
                            count += 1
                    _describe(values[:count], header == 1, found[row, at : at + len(STATISTICS)])
                    at += len(STATISTICS)
        if protocol >= 0:
            found[row, at : at + len(PROTOCOLS)] = flow[0, protocol : protocol + len(PROTOCOLS)]


@numba.njit(nogil=True, cache=True)
def _describe(values: Any, logarithmic: bool, out: Any) -> None:
    """Writes the statistics of some values: ln(1 + x) of the sum, and of all if `logarithmic`."""
    count = len(values)
    if count == 0:
        return
    ordered = np.sort(values)
    total = 0.0
    for value in ordered:
        total += value
    mean, squares = total / count, 0.0
    for value in ordered:
        squares += (value - mean) * (value - mean)
    out[0] = _natural_log(1.0 + total)
    out[1], out[2], out[3], out[4] = ordered[0], mean, np.sqrt(squares / count), ordered[count - 1]
    for quarter in range(1, 4):
        out[4 + quarter] = ordered[min(count * quarter // 4, count - 1)]
    if logarithmic:
        for column in range(1, len(out)):
            out[column] = _natural_log(1.0 + out[column])
