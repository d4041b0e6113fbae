"""Bytes that a training hides: a network that misses some of them learns none by heart."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="flowloom")
class ByteMask(keras.layers.Layer):
    """Makes some values of [B, length] zero while training; the others keep their values, as bytes have to.

    Args:
      rate: share of the values, >= 0 and < 1.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be >= 0 and < 1, got {rate}")
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Hide values of [B, length]."""
        if not training:
            return inputs
        drawn = keras.random.uniform(ops.shape(inputs), seed=self.seed_generator)
        return ops.where(drawn >= self.rate, inputs, 0.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "rate": self.rate}
