"""Bottleneck of convolutions in MTC's 1D-CNN branch (section 3.3.3, figure 4c)."""

import math
from typing import Any

import keras
import tensorflow as tf

from flowloom.trainers.layers.batch_norm import BatchNormalization
from flowloom.trainers.layers.dropout import Dropout
from flowloom.trainers.layers.tall_matmul import tall_matmul


@keras.saving.register_keras_serializable(package="flowloom")
class Convolution(keras.layers.Layer):
    """Convolution of stride 1 and equal length with batch normalisation, then ReLU and dropout unless linear.

    Args:
      filters: channels of the outputs.
      kernel: steps that an output reads.
      dropout: rate behind the ReLU; None omits ReLU and dropout.

    Input shape:
      [B, steps, C].

    Output shape:
      [B, steps, filters].

    Raises:
      ValueError: if `filters` or `kernel` is below 1.
    """

    def __init__(self, filters: int, kernel: int, dropout: float | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value in {"filters": filters, "kernel": kernel}.items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.filters, self.kernel, self.dropout = filters, kernel, dropout
        self.norm = BatchNormalization(name="norm")
        self.drop = None if dropout is None else Dropout(dropout, name="drop")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for [B, steps, C]."""
        shape = (self.kernel, input_shape[-1], self.filters)
        self.weight = self.add_weight(shape=shape, name="weight", initializer="glorot_uniform")
        self.norm.build((None, self.filters))

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Convolves [B, steps, C] to [B, steps, filters]."""
        _, steps, channels = inputs.shape
        if self.kernel == 1:
            kernel = tf.reshape(self.weight, (channels, self.filters))
            rows = tall_matmul(tf.reshape(inputs, (-1, channels)), kernel)  # [B steps, filters]
        else:
            rows = tf.reshape(tf.nn.conv1d(inputs, self.weight, 1, "SAME"), (-1, self.filters))
        if self.drop is None:
            rows = self.norm(rows, training=training)
        else:
            rows = self.norm(rows, training=training, gain=self.drop.gain(training))
            rows = self.drop.rectify(rows, training)
        return tf.reshape(rows, (-1, steps, self.filters))

    def macs(self, steps: int) -> int:
        """Returns the multiply-accumulates of a number of steps."""
        return steps * math.prod(self.weight.shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "filters": self.filters, "kernel": self.kernel, "dropout": self.dropout}


@keras.saving.register_keras_serializable(package="flowloom")
class Bottleneck(keras.layers.Layer):
    """Convolutions of 1, 3 and 1 steps with a residual connection.

    Where the width of the input differs from `filters`, a linear convolution of one step widens the residual.

    Args:
      middle: filters of the first two convolutions.
      filters: filters of the last convolution.
      dropout: rate behind each of the three.

    Input shape:
      [B, steps, C], and optionally tokens of the Transformer branch, [B, n, middle].

    Output shape:
      [B, steps, filters], and the outputs of the second convolution, [B, steps, middle].

    Reference:
      MTC, section 3.3.3, figure 4c.
    """

    def __init__(self, middle: int, filters: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.middle, self.filters, self.dropout = middle, filters, dropout
        self.first = Convolution(middle, 1, dropout, name="first")
        self.second = Convolution(middle, 3, dropout, name="second")
        self.third = Convolution(filters, 1, dropout, name="third")
        self.widen: Convolution | None = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for [B, steps, C]."""
        steps = input_shape[:-1]
        self.first.build(input_shape)
        self.second.build((*steps, self.middle))
        self.third.build((*steps, self.middle))
        if input_shape[-1] != self.filters:
            self.widen = Convolution(self.filters, 1, None, name="widen")
            self.widen.build(input_shape)

    def call(
        self, inputs: tf.Tensor, received: tf.Tensor | None = None, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the outputs, [B, steps, filters], and the second convolution's, [B, steps, middle].

        Args:
          inputs: [B, steps, C].
          received: tokens of the other branch, [B, n, middle]. Each is added to steps / n outputs of the first
            convolution, which equals upsampling by the nearest value but makes no upsampled tensor.
          training: normalises by the statistics of the batch, and drops values.
        """
        steps = inputs.shape[1]
        x = self.first(inputs, training=training)
        if received is not None:
            n = received.shape[1]
            spread = tf.reshape(x, (-1, n, steps // n, self.middle)) + received[:, :, None]  # [B, n, steps / n, middle]
            x = tf.reshape(spread, (-1, steps, self.middle))
        between = self.second(x, training=training)
        x = self.third(between, training=training)
        residual = inputs if self.widen is None else self.widen(inputs, training=training)
        return x + residual, between

    def compute_output_shape(
        self, inputs_shape: tuple[int | None, ...], received_shape: tuple[int | None, ...] | None = None
    ) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
        """Returns the shapes of the outputs, so that Keras need not trace the layer."""
        return (*inputs_shape[:-1], self.filters), (*inputs_shape[:-1], self.middle)

    def macs(self, steps: int) -> int:
        """Returns the multiply-accumulates of a number of steps."""
        layers = (self.first, self.second, self.third, self.widen)
        return sum(layer.macs(steps) for layer in layers if layer is not None)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "middle": self.middle, "filters": self.filters, "dropout": self.dropout}
