"""Learned positions: a vector per step that is added to its values."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="flowloom")
class StepPositions(keras.layers.Layer):
    """Adds a learned vector to each step; the first values are small.

    Input shape:
      [B, steps, C].

    Output shape:
      [B, steps, C].
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the vectors [steps, C]."""
        self.places = self.add_weight(shape=input_shape[1:], name="places", initializer="uniform")

    def call(self, inputs: Any) -> Any:
        """Returns [B, steps, C] with the vectors added."""
        return inputs + self.places
