"""Representation of packets: soft bins and learned embeddings, the first layer of networks of flows in units."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from flowloom.trainers.layers.packets.packet_bins import bins_width, check_features, named_features, packet_bins
from flowloom.trainers.layers.packets.packet_numbers import packet_numbers, table_rows

SHARES = {"size": 1.0, "gap": 0.375, "window": 0.375, "ttl": 0.25, "flags": 0.25}
"""Width of each table against that of sizes."""


@keras.saving.register_keras_serializable(package="flowloom")
class PacketRepresentation(keras.layers.Layer):
    """Soft bins (`packet_bins`) and learned embeddings of exact values (`packet_numbers`) of packets in units.

    Embeddings begin at zero, so that a value that no training flow has counts by its bins alone. The layer computes in
    float32 under every precision, as bfloat16 would round sizes.

    Args:
      features: names of the C features of a packet, in their order (`FeatureSpec.features`).
      embedding: width of the embedding of a size, and by `SHARES` of the others; 0 for bins alone.

    Input shape:
      Packets in units, float32 [B, k, C], and bool [B, k], false for padding, which must stand behind the packets.

    Output shape:
      float32 [B, k, D], zeros for padding.

    Raises:
      ValueError: if a feature is unknown or repeats, or `embedding` is below 0.

    Example:

    >>> layer = PacketRepresentation(["size", "direction"], embedding=4)
    >>> layer(np.array([[[60.0, 1.0], [1500.0, -1.0]]]), np.array([[True, True]])).shape
    TensorShape([1, 2, 65])
    """

    def __init__(self, features: Sequence[str], embedding: int = 32, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_features(features)
        if embedding < 0:
            raise ValueError(f"embedding must be >= 0, got {embedding}")
        self.features, self.embedding = tuple(features), embedding

    def build(self, sequence_shape: Any, present_shape: Any = None) -> None:
        """Makes the tables, [rows, width] each."""
        self.tables = {
            name: self.add_weight(shape=shape, name=f"{name}_table", initializer="zeros")
            for name, shape in self._table_shapes().items()
        }

    def call(self, sequence: Any, present: Any) -> Any:
        """Returns float32 [B, k, D] from packets in units [B, k, C] and bool [B, k]."""
        there = ops.cast(present, "float32")  # [B, k]
        follows = there * np.minimum(np.arange(sequence.shape[1]), 1).astype(np.float32)
        packets = named_features(sequence, self.features)
        parts = packet_bins(packets, follows, ops)
        if self.tables:
            numbers = packet_numbers(packets, follows, ops)
            parts += [looked_up(self.tables[name], numbers[name]) for name in self.tables]
        return ops.concatenate(parts, axis=-1) * ops.expand_dims(there, -1)

    @property
    def width(self) -> int:
        """D, the number of values of a packet."""
        return bins_width(self.features) + sum(width for _, width in self._table_shapes().values())

    def compute_output_shape(self, sequence_shape: Any, present_shape: Any = None) -> tuple[int | None, ...]:
        """Returns the shape of the outputs, so that Keras need not trace the layer."""
        return (*sequence_shape[:2], self.width)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "features": list(self.features), "embedding": self.embedding}

    def _table_shapes(self) -> dict[str, tuple[int, int]]:
        if not self.embedding:
            return {}
        rows = table_rows(self.features)
        return {name: (count, max(1, round(SHARES[name] * self.embedding))) for name, count in rows.items()}


def looked_up(table: Any, numbers: Any) -> tf.Tensor:
    """Returns rows of a table [rows, width] by number, [..., width], with a dense gradient for any optimizer."""
    return _looked_up(tf.convert_to_tensor(table), numbers)


@tf.custom_gradient
def _looked_up(table: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    rows, width = table.shape

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        flat = tf.reshape(upstream, (-1, width))
        return tf.math.unsorted_segment_sum(flat, tf.reshape(numbers, (-1,)), rows), None

    return tf.gather(table, numbers), gradient
