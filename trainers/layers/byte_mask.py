"""Input masking: zeroes a random share of the bytes during training, against memorising single bytes."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="flowloom")
class ByteMask(keras.layers.Layer):
    """Sets a random share of the values to zero during training.

    Unlike dropout it does not scale the other values, because bytes must keep theirs.

    Args:
      rate: share of the values that become zero, >= 0 and < 1.

    Input shape:
      [B, length].

    Output shape:
      [B, length].

    Raises:
      ValueError: if the rate is out of range.

    Example:

    >>> import numpy as np
    >>> ByteMask(0.5)(np.ones((1, 4), "float32"), training=False).numpy()
    array([[1., 1., 1., 1.]], dtype=float32)
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be >= 0 and < 1, got {rate}")
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns [B, length] with some values hidden while training."""
        if not training:
            return inputs
        drawn = keras.random.uniform(ops.shape(inputs), seed=self.seed_generator)
        return ops.where(drawn >= self.rate, inputs, 0.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "rate": self.rate}
