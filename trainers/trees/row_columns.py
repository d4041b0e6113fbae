"""Columns that trees and linear models read: float32 [B, columns] with names, from the input arrays of any view."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numba
import numpy as np
import numpy.typing as npt

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.logarithm import natural_log
from flowloom.trainers.feed.flow_spec import CHANNELS, FeatureSpec
from flowloom.trainers.feed.row_spec import RowSpec
from flowloom.trainers.trees.flow_histograms import FLAGS, PROTOCOLS, flow_histograms, histogram_names

FlowColumns = Literal["positions", "histograms", "both"]
"""Columns of flows: values of the first, second, ... packet; histograms and statistics over packets; or both."""
Matrix = npt.NDArray[np.float32]

_natural_log = numba.njit(natural_log)
_OF_A_PACKET = ("size", "gap", *FLAGS[:1], "window", "ttl", "payload")
"""First feature of each value that a packet has."""


@dataclasses.dataclass(frozen=True)
class RowColumns:
    """Named columns of the rows of a view.

    Attributes:
      names: name of each column.
      matrix: function from the arrays of `RowSpec.inputs`, in order, to float32 [B, columns].
    """

    names: tuple[str, ...]
    matrix: Callable[..., Matrix]


def row_columns(features: RowSpec, flow_columns: FlowColumns = "both") -> RowColumns:
    """Returns the columns of a row spec: bytes of packets, features of tables, or `flow_columns` of flows.

    Raises:
      FlowloomError: if flows are not in units.
    """
    if not isinstance(features, FeatureSpec):
        ((name, row),) = features.inputs.items()
        names = features.names or tuple(f"{name} {place}" for place in range(row.shape[0]))
        return RowColumns(names, lambda rows: np.asarray(rows, np.float32))
    if features.scaling != "none":
        raise FlowloomError(
            f"trees and linear models need feed.scaling=none, as they read packets in units, got {features.scaling}; "
            "set feed.scaling=none"
        )
    of_packets = features.features
    parts: list[tuple[tuple[str, ...], Callable[..., Matrix]]] = []
    if flow_columns != "histograms":
        parts.append((position_names(features.k, of_packets), flow_positions))
    if flow_columns != "positions":
        parts.append((histogram_names(of_packets), flow_histograms))

    def matrix(sequence: Any, length: Any) -> Matrix:
        found = [make(np.asarray(sequence), np.asarray(length), of_packets) for _, make in parts]
        return found[0] if len(found) == 1 else np.hstack(found)

    return RowColumns(tuple(name for names, _ in parts for name in names), matrix)


def in_units(features: RowSpec) -> RowSpec:
    """Returns the row spec of the same packets in units, with directions where sizes had a sign; others unchanged."""
    if not isinstance(features, FeatureSpec) or features.scaling == "none":
        return features
    channels = features.channels
    if CHANNELS["direction"].column in features.columns and "direction" not in channels:
        channels = (*channels, "direction")
    return FeatureSpec(k=features.k, channels=channels, scaling="none")


def position_names(k: int, features: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of the columns of `flow_positions` for k packets of some features."""
    values = ["flags" if name in FLAGS else name for name in _OF_A_PACKET if name in features]
    names = [f"{value} of packet {packet + 1}" for value in values for packet in range(k)]
    return (*names, *(["protocol"] if PROTOCOLS[0] in features else []), "packets")


def flow_positions(sequence: Matrix, length: npt.NDArray[np.int32], features: tuple[str, ...]) -> Matrix:
    """Returns the values of each packet of flows, side by side.

    Sizes have the sign of the direction where it is known, gaps are ln(1 + microseconds), TCP flags are the byte of the
    header, and the protocol is 1 to 4 (TCP, UDP, ICMP, other).

    Args:
      sequence: float32 [B, k, C], in units, zero after the last packet.
      length: int32 [B], number of packets.
      features: names of the C features.

    Returns:
      float32 [B, columns], the columns of `position_names`.
    """
    rows, k, _ = sequence.shape
    found = np.empty((rows, len(position_names(k, features))), np.float32)
    at = 0
    for name in _OF_A_PACKET:
        if name not in features:
            continue
        place, out = features.index(name), found[:, at : at + k]
        out[:] = sequence[:, :, place]
        if name == "size" and "direction" in features:
            out *= np.where(sequence[:, :, features.index("direction")] < 0, np.float32(-1), np.float32(1))
        elif name == "gap":
            _take_logarithms(out)
        elif name == FLAGS[0]:
            out[:] = (sequence[:, :, place : place + len(FLAGS)] > 0) @ (1 << np.arange(len(FLAGS))).astype(np.float32)
        at += k
    if PROTOCOLS[0] in features:
        place = features.index(PROTOCOLS[0])
        found[:, at] = (sequence[:, 0, place : place + len(PROTOCOLS)] > 0) @ np.arange(1, 5).astype(np.float32)
        at += 1
    found[:, at] = length
    return found


@numba.njit(nogil=True, cache=True)
def _take_logarithms(values: Any) -> None:
    """Replaces each number x by ln(1 + x), and a negative one by 0; the same on every processor."""
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            values[row, column] = _natural_log(1.0 + max(np.float64(values[row, column]), 0.0))
