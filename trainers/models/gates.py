"""Gates: what they see of a flow, and those that weigh experts without seeing it."""

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
    """The same share of each expert for every flow: float32 [B, G] -> [B, N]; what a gate that was learned leaves.

    Args:
      experts: number of experts, N.
    """

    def __init__(self, experts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.experts = experts

    def build(self, input_shape: Any) -> None:
        """Make the shares, equal ones until they are set."""
        equal = keras.initializers.Constant(1 / self.experts)
        self.shares = self.add_weight(name="shares", shape=(self.experts,), initializer=equal, trainable=False)

    def call(self, view: Any) -> Any:
        """Return the shares for each flow."""
        return ops.broadcast_to(self.shares, (ops.shape(view)[0], self.experts))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "experts": self.experts}


def gate_layer(gating: Gating, experts: int, selected: int, entropy: float, name: str) -> keras.layers.Layer:
    """Return a gate over `experts`: a layer from what it sees, float32 [B, G], to their shares, [B, N]."""
    if gating == "dselect_k":
        return DSelectK(experts, selected, entropy, name=name)
    if gating == "constant":
        return ConstantGate(experts, name=name)
    return keras.layers.Dense(experts, activation="softmax", name=name)


def gate_view(sequence: Any, present: Any, gate_input: GateInput) -> Any:
    """Return what a gate sees of packets.

    Args:
      sequence: float32 [B, k, C].
      present: bool [B, k], false for padding.
      gate_input: all packets in a row (the paper), their mean, or the first packet only.

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
    """Return the shares of the seen experts, [B, len(seen)], among those of all, [B, experts], zero where not seen."""
    if tuple(seen) == tuple(range(experts)):
        return shares
    return ops.matmul(shares, np.eye(experts, dtype=np.float32)[list(seen)])
