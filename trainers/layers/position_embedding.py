"""What tells the steps of a sequence apart: a learned vector for each, added to its values."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="flowloom")
class StepPositions(keras.layers.Layer):
    """Adds to each step of [B, steps, C] a vector of its own, which begins small."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the vectors [steps, C]."""
        self.places = self.add_weight(shape=input_shape[1:], name="places", initializer="uniform")

    def call(self, inputs: Any) -> Any:
        """Return [B, steps, C]."""
        return inputs + self.places
