"""Pooled packets: residual layers over represented packets, masked pooling, and a dense readout."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
from keras import ops

from flowloom.trainers.layers.dropout import Dropout
from flowloom.trainers.layers.layer_norm import LayerNormalization
from flowloom.trainers.layers.packets.masked_pooling import AttentionPooling, masked_max, masked_mean
from flowloom.trainers.layers.packets.residual_attention import ResidualAttention
from flowloom.trainers.layers.packets.residual_convolution import ResidualConvolution
from flowloom.trainers.layers.position_embedding import StepPositions

Mixing = Literal["convolution", "attention"]
Pooling = Literal["mean", "max", "attention"]
POOLINGS: tuple[Pooling, ...] = ("mean", "max")
FIRST_WIDTH = 24
"""Values of each of the first packets that the readout reads in their places."""


@keras.saving.register_keras_serializable(package="flowloom")
class PooledPackets(keras.layers.Layer):
    """Dense layer and positions, residual layers, masked pooling over the packets of a flow, dense readout.

    The readout joins the mean represented packet, which is a histogram of the flow, with the poolings of the last
    residual layer and with its first packets in their places.

    Args:
      width: width of a packet behind the dense layer, W.
      readout: width of the output.
      layers: residual layers.
      mixing: kind of the residual layers: `convolution` over neighbouring packets, or self-`attention`.
      kernel: packets that a convolution reads, odd.
      attention_heads: heads of the self-attention, a divisor of W.
      pooling: poolings over the packets of the last residual layer.
      first: number of first packets that the readout reads in their places, at most k.
      dropout: rate in the residual layers and before the readout; half of it on represented packets.

    Input shape:
      Represented packets, float32 [B, k, D], and bool [B, k], false for padding, which must stand behind the packets.

    Output shape:
      [B, readout], of a ReLU.

    Raises:
      ValueError: if a size is out of range, or the arguments do not fit each other.
    """

    def __init__(
        self,
        width: int = 128,
        readout: int = 256,
        layers: int = 2,
        mixing: Mixing = "convolution",
        kernel: int = 3,
        attention_heads: int = 4,
        pooling: Sequence[Pooling] = POOLINGS,
        first: int = 8,
        dropout: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, least in (
            ("width", width, 1),
            ("readout", readout, 1),
            ("layers", layers, 0),
            ("first", first, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        if mixing not in get_args(Mixing):
            raise ValueError(f"mixing must be {' or '.join(get_args(Mixing))}, got {mixing!r}")
        if not pooling or len(set(pooling)) < len(pooling) or not set(pooling) <= set(get_args(Pooling)):
            raise ValueError(
                f"pooling must be distinct names among {', '.join(get_args(Pooling))}, got {list(pooling)}"
            )
        self.width, self.readout, self.layers, self.mixing, self.kernel = width, readout, layers, mixing, kernel
        self.attention_heads, self.pooling, self.first, self.dropout = attention_heads, tuple(pooling), first, dropout
        self.packet_drop, self.pooled_drop = Dropout(dropout / 2), Dropout(dropout)
        self.dense = keras.layers.Dense(width, activation="relu", name="dense")
        self.positions = StepPositions(name="positions")
        self.norm = LayerNormalization(name="norm")
        self.residual: list[Any] = [
            ResidualConvolution(kernel, dropout, name=f"convolution_{n}")
            if mixing == "convolution"
            else ResidualAttention(attention_heads, dropout, name=f"attention_{n}")
            for n in range(layers)
        ]
        self.attention = AttentionPooling(name="attention_pooling") if "attention" in pooling else None
        self.places = keras.layers.Dense(FIRST_WIDTH, name="first_packets") if first else None
        self.last = keras.layers.Dense(readout, activation="relu", name="readout")

    def build(self, packets_shape: Any, present_shape: Any = None) -> None:
        """Makes the weights for represented packets [B, k, D]."""
        _, k, wide = packets_shape
        if self.first > k:
            raise ValueError(f"first must be at most the {k} packets of a flow, got {self.first}")
        inner = (None, k, self.width)
        self.dense.build(packets_shape)
        self.positions.build(inner)
        self.norm.build((None, self.width))
        for layer in self.residual:
            layer.build(inner)
        joined = wide + len(self.pooling) * self.width
        if self.attention is not None:
            self.attention.build(inner)
        if self.places is not None:
            self.places.build(inner)
            joined += self.first * FIRST_WIDTH
        self.last.build((None, joined))

    def call(self, packets: Any, present: Any, training: bool = False) -> Any:
        """Returns [B, readout] from represented packets [B, k, D] and bool [B, k]."""
        _, k, wide = packets.shape
        there = ops.expand_dims(ops.cast(present, packets.dtype), 2)  # [B, k, 1]
        dropped = self.packet_drop(ops.reshape(packets, (-1, wide)), training=training)
        x = self.positions(self.dense(ops.reshape(dropped, (-1, k, wide))))
        x = ops.reshape(self.norm(ops.reshape(x, (-1, self.width))), (-1, k, self.width))  # [B, k, W]
        for layer in self.residual:
            x = layer(x, there, training=training)
        pooled = {"mean": masked_mean, "max": masked_max, "attention": self.attention}
        parts = [masked_mean(packets, there), *(pooled[kind](x, there) for kind in self.pooling)]  # type: ignore[misc]
        if self.places is not None:
            first = self.places(x[:, : self.first]) * there[:, : self.first]
            parts.append(ops.reshape(first, (-1, self.first * FIRST_WIDTH)))
        return self.last(self.pooled_drop(ops.concatenate(parts, axis=-1), training=training))

    def compute_output_shape(self, packets_shape: Any, present_shape: Any = None) -> Any:
        """Returns the shape of the outputs, so that Keras need not trace the layer."""
        return (packets_shape[0], self.readout)

    def macs(self, k: int) -> int:
        """Returns the multiply-accumulates of a flow of k packets."""
        packets = k * math.prod(self.dense.kernel.shape) + sum(layer.macs(k) for layer in self.residual)
        attended = 2 * k * self.width if self.attention is not None else 0
        places = self.first * math.prod(self.places.kernel.shape) if self.places is not None else 0
        return packets + attended + places + math.prod(self.last.kernel.shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "width": self.width,
            "readout": self.readout,
            "layers": self.layers,
            "mixing": self.mixing,
            "kernel": self.kernel,
            "attention_heads": self.attention_heads,
            "pooling": list(self.pooling),
            "first": self.first,
            "dropout": self.dropout,
        }
