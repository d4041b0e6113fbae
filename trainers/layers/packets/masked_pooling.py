"""Pooling over the packets of a flow without its padding: mean, maximum and learned attention."""

from typing import Any

import keras
from keras import ops

LEAST = -1e9
"""Stands for the values of padding where a maximum or a softmax is taken; below every value of a network."""


def masked_mean(packets: Any, there: Any) -> Any:
    """Returns the mean, [B, W], of packets [B, k, W] with a mask [B, k, 1]; 0 without packets."""
    there = ops.cast(there, packets.dtype)
    return ops.sum(packets * there, axis=1) / ops.maximum(ops.sum(there, axis=1), 1.0)


def masked_max(packets: Any, there: Any) -> Any:
    """Returns the largest values, [B, W], of packets [B, k, W] with a mask [B, k, 1]; `LEAST` without packets."""
    return ops.max(ops.where(there > 0, packets, LEAST), axis=1)


@keras.saving.register_keras_serializable(package="flowloom")
class AttentionPooling(keras.layers.Layer):
    """Mean packet by learned weights: a softmax over the packets of a flow.

    Input shape:
      float32 [B, k, W], and float32 [B, k, 1], 1 for packets and 0 for padding.

    Output shape:
      [B, W].
    """

    def build(self, packets_shape: Any, there_shape: Any = None) -> None:
        """Makes the weights [W, 1] of a packet's score; at zero, all packets count the same."""
        self.kernel = self.add_weight(shape=(packets_shape[-1], 1), name="kernel", initializer="zeros")

    def call(self, packets: Any, there: Any) -> Any:
        """Returns [B, W] from packets [B, k, W] and their mask [B, k, 1]."""
        scores = ops.where(there > 0, ops.matmul(packets, self.kernel), LEAST)  # [B, k, 1]
        return ops.sum(packets * ops.softmax(scores, axis=1), axis=1)

    def compute_output_shape(self, packets_shape: Any, there_shape: Any = None) -> Any:
        """Returns the shape of the outputs, so that Keras need not trace the layer."""
        return (packets_shape[0], packets_shape[-1])
