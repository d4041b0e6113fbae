"""Wide readout: one layer of many units with much dropout before and behind it."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from flowloom.trainers.layers.batch_norm import BatchNormalization
from flowloom.trainers.layers.dropout import Dropout

UNITS = 256
RATE = 0.5


class WideReadout:
    """Layers of a wide readout: [B, width] to [B, 256]; the model that calls them trains their weights."""

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
        """Returns [B, 256] from [B, width]."""
        for layer in self._layers:
            seen = layer(seen)
        return seen

    @property
    def trainable_variables(self) -> Sequence[keras.Variable]:
        """The weights, and the scale and offset of the normalisation."""
        return [variable for layer in self._layers for variable in layer.trainable_variables]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one row."""
        return math.prod(self.dense.kernel.shape)
