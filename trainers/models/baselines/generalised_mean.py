"""Generalised mean pooling, whose exponent is learned: between the mean (1) and the largest value (infinity)."""

from typing import Any

import keras
from keras import ops

FIRST_EXPONENT, LEAST = 3.0, 1e-6


@keras.saving.register_keras_serializable(package="flowloom")
class GeneralisedMean(keras.layers.Layer):
    """Returns (mean of max(x, 1e-6)^p over the steps)^(1/p) for each channel; p is learned, 3 at first.

    Input shape:
      [B, steps, C].

    Output shape:
      [B, C].

    Reference:
      Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, IEEE TPAMI, 2019, section 3.2.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the exponent."""
        self.exponent = self.add_weight(
            shape=(1,), name="exponent", initializer=keras.initializers.Constant(FIRST_EXPONENT)
        )

    def call(self, inputs: Any) -> Any:
        """Pools [B, steps, C]."""
        powers = ops.power(ops.maximum(inputs, LEAST), self.exponent)
        return ops.power(ops.mean(powers, axis=1), 1.0 / self.exponent)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns [B, C]."""
        return (input_shape[0], input_shape[-1])
