"""Gates over experts: their inputs, and gates whose weights are the same for every flow."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from flowloom.trainers.layers.dselect_k import DSelectK

GateInput = Literal["flatten", "mean", "first_packet"]
Gating = Literal["softmax", "dselect_k", "constant"]


@keras.saving.register_keras_serializable(package="flowloom")
class ConstantGate(keras.layers.Layer):
    """A gate with fixed weights, the inference form of a DSelect-k gate.

    Args:
      experts: number of experts, N.

    Input shape:
      float32 [B, G], which is ignored.

    Output shape:
      float32 [B, N], the same shares for every flow.
    """

    def __init__(self, experts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.experts = experts

    def build(self, input_shape: Any) -> None:
        """Makes the shares, which are equal until they are set."""
        equal = keras.initializers.Constant(1 / self.experts)
        self.shares = self.add_weight(name="shares", shape=(self.experts,), initializer=equal, trainable=False)

    def call(self, view: Any) -> Any:
        """Returns the shares of each flow."""
        return ops.broadcast_to(self.shares, (ops.shape(view)[0], self.experts))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "experts": self.experts}


def gate_layer(gating: Gating, experts: int, selected: int, entropy: float, name: str) -> keras.layers.Layer:
    """Returns a gate over N experts: a layer from its input, float32 [B, G], to their shares, [B, N]."""
    if gating == "dselect_k":
        return DSelectK(experts, selected, entropy, name=name)
    if gating == "constant":
        return ConstantGate(experts, name=name)
    return keras.layers.Dense(experts, activation="softmax", name=name)


def gate_view(sequence: Any, present: Any, gate_input: GateInput) -> Any:
    """Returns the input of a gate.

    Args:
      sequence: float32 [B, k, C].
      present: bool [B, k], false for padding.
      gate_input: `flatten` for all packets in a row (MULTA), `mean` for their mean, `first_packet` for the first one.

    Returns:
      float32 [B, k * C] or [B, C].
    """
    _, k, channels = sequence.shape
    if gate_input == "flatten":
        return ops.reshape(sequence, (-1, k * channels))  # [B, k * C]
    if gate_input == "first_packet":
        return sequence[:, 0]  # [B, C]
    weights = ops.expand_dims(ops.cast(present, "float32"), 2)  # [B, k, 1]
    return ops.sum(sequence * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)  # [B, C]


def among_all(shares: Any, seen: Sequence[int], experts: int) -> Any:
    """Returns shares of some experts, [B, len(seen)], as shares of all experts, [B, experts], zero elsewhere."""
    if tuple(seen) == tuple(range(experts)):
        return shares
    return ops.matmul(shares, np.eye(experts, dtype=np.float32)[list(seen)])
