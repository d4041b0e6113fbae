"""A wide readout: a layer of many units over everything that is seen, with much dropout on both sides of it."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from flowloom.trainers.layers.batch_norm import BatchNormalization
from flowloom.trainers.layers.dropout import Dropout

UNITS = 256
RATE = 0.5


class WideReadout:
    """The layers of a wide readout; weights are trained as those of any layer of the model that calls it."""

    def __init__(self) -> None:
        self.dense = keras.layers.Dense(UNITS, use_bias=False, name="readout")
        self._layers = [
            Dropout(RATE, name="readout_first_drop"),
            self.dense,
            BatchNormalization(name="readout_norm"),
            keras.layers.ReLU(),
            Dropout(RATE, name="readout_drop"),
        ]

    def __call__(self, seen: Any) -> Any:
        """Return [B, 256] of [B, width]."""
        for layer in self._layers:
            seen = layer(seen)
        return seen

    @property
    def trainable_variables(self) -> Sequence[keras.Variable]:
        """The weights, and scale and offset of the norm."""
        return [variable for layer in self._layers for variable in layer.trainable_variables]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one row."""
        return math.prod(self.dense.kernel.shape)
