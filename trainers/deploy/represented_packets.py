"""Represented packets by NumPy, for scoring without TensorFlow."""

from collections.abc import Mapping, Sequence

import numpy as np

from flowloom.trainers.layers.packets.packet_bins import bins_width, check_features, named_features, packet_bins
from flowloom.trainers.layers.packets.packet_numbers import packet_numbers, table_rows


def represented(
    packets: np.ndarray, features: Sequence[str], tables: Mapping[str, np.ndarray], follows: np.ndarray
) -> np.ndarray:
    """Returns the outputs of `PacketRepresentation` for packets, float32 [..., D].

    Args:
      packets: float32 [..., C], packets in units.
      features: names of the C features.
      tables: the layer's tables by name, float32, in their order.
      follows: bool [...], true for packets behind another one of their flow.
    """
    named, behind = named_features(packets, features), follows.astype(np.float32)
    parts = packet_bins(named, behind, np)
    if tables:
        numbers = packet_numbers(named, behind, np)
        parts += [table[numbers[name]] for name, table in tables.items()]
    return np.concatenate(parts, axis=-1, dtype=np.float32)


def represented_flows(
    sequence: np.ndarray, length: np.ndarray, features: Sequence[str], tables: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Returns represented flows, float32 [B, k, D], zeros for padding, from packets in units [B, k, C]."""
    places = np.arange(sequence.shape[1])[None]
    there = places < length[:, None]
    return represented(sequence, features, tables, there & (places > 0)) * there[..., None]


def tables_of(features: Sequence[str], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tables among the weights of an export, in the layer's order; none for soft bins alone."""
    return {name: weights[f"table_{name}"] for name in table_rows(features) if f"table_{name}" in weights}


def checked_width(features: Sequence[str], weights: Mapping[str, np.ndarray]) -> int:
    """Returns D, the width of a represented packet.

    Raises:
      KeyError, TypeError, ValueError: if the features are unknown, or a table is missing or has another form.
    """
    check_features(features)
    tables, rows = tables_of(features, weights), table_rows(features)
    if tables and set(tables) != set(rows):
        raise ValueError(f"tables must be those of {', '.join(rows)}, got {', '.join(tables)}")
    for name, table in tables.items():
        if table.ndim != 2 or len(table) != rows[name] or table.dtype != np.float32:
            raise ValueError(
                f"table_{name} must be float32 [{rows[name]}, width], got {table.dtype} {list(table.shape)}"
            )
    return bins_width(features) + sum(table.shape[1] for table in tables.values())
