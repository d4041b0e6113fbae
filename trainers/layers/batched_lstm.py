"""All LSTM experts in one layer, which is cheaper than separate layers, for inference alone."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

GATE_ORDER = (0, 1, 3, 2)
"""Input, forget, output, candidate: the gates with a sigmoid lie together. Keras has the candidate third."""


@keras.saving.register_keras_serializable(package="flowloom")
class BatchedLSTM(keras.layers.Layer):
    """N LSTM layers of one width, computed as N times `keras.layers.LSTM` with batched products.

    The weights are zeros until `adopt` copies those of N separate layers. The steps are unrolled, because at small
    batches a loop costs more than a step; so the graph grows with k.

    Args:
      experts: number of experts, N.
      units: width of an expert, H.
      return_sequences: returns the state after every packet instead of the one after the last packet.

    Input shape:
      [B, k, C], read by all experts, or [B, N, k, C], one sequence per expert; and bool [B, k], false for padding.

    Output shape:
      [B, N, H], or [B, N, k, H] with `return_sequences`.
    """

    def __init__(self, experts: int, units: int, return_sequences: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.experts, self.units, self.return_sequences = experts, units, return_sequences

    def build(self, sequence_shape: Any, present_shape: Any = None) -> None:
        """Makes the weights: kernels [N, C, 4H], recurrent kernels [N, H, 4H] and biases [N, 1, 4H]."""
        width = 4 * self.units
        shapes = {
            "kernel": (self.experts, sequence_shape[-1], width),
            "recurrent_kernel": (self.experts, self.units, width),
            "bias": (self.experts, 1, width),
        }
        self.kernel, self.recurrent_kernel, self.bias = (
            self.add_weight(name=name, shape=shape, initializer="zeros") for name, shape in shapes.items()
        )

    def adopt(self, lstms: Sequence[keras.layers.LSTM]) -> None:
        """Copies the weights of N separate layers."""
        weights = zip(*(lstm.get_weights() for lstm in lstms), strict=True)
        for variable, arrays in zip(self.weights, weights, strict=True):
            gates = np.split(np.stack(arrays), 4, axis=-1)
            variable.assign(np.concatenate([gates[n] for n in GATE_ORDER], axis=-1).reshape(variable.shape))

    def call(self, sequence: Any, present: Any) -> Any:
        """Returns the states of the experts.

        Args:
          sequence: float32 [B, k, C], read by all experts, or [B, N, k, C], one sequence per expert.
          present: bool [B, k], false for the padding, which must stand behind the packets.

        Returns:
          float32 [B, N, H], the states after the last packet, zeros for a flow without packets; or [B, N, k, H], the
          states after every packet, undefined behind the last one.
        """
        k, channels = sequence.shape[-2:]
        if len(sequence.shape) == 3:
            packets = ops.reshape(sequence, (1, -1, channels))  # [1, B * k, C]
        else:
            packets = ops.reshape(ops.transpose(sequence, (1, 0, 2, 3)), (self.experts, -1, channels))  # [N, B * k, C]
        projected = ops.matmul(packets, self.kernel) + self.bias  # [N, B * k, 4H]
        steps = ops.reshape(projected, (self.experts, -1, k, 4 * self.units))  # [N, B, k, 4H]
        states = self._states(ops.unstack(steps, k, axis=2))
        if self.return_sequences:
            return ops.transpose(states, (2, 1, 0, 3))  # [B, N, k, H]
        # padding comes behind the state that is selected here, so no step needs the mask
        mask = ops.cast(present, states.dtype)  # [B, k]
        last = mask - ops.pad(mask[:, 1:], ((0, 0), (0, 1)))  # [B, k], one at the last packet
        last = ops.expand_dims(ops.transpose(last), (1, 3))  # [k, 1, B, 1]
        return ops.transpose(ops.sum(states * last, axis=0), (1, 0, 2))  # [B, N, H]

    def _step(self, gates: Any, cell: Any) -> tuple[Any, Any]:
        """Returns the next state and cell, [N, B, H], from the gate sums, [N, B, 4H], and the cell."""
        sums, candidate = ops.split(gates, [3 * self.units], axis=-1)
        input_gate, forget_gate, output_gate = ops.split(ops.sigmoid(sums), 3, axis=-1)
        new = input_gate * ops.tanh(candidate)
        cell = new if cell is None else forget_gate * cell + new
        return output_gate * ops.tanh(cell), cell

    def _states(self, steps: Sequence[Any]) -> Any:
        """Returns the states [k, N, B, H] of k steps [N, B, 4H]; the first step needs no recurrent product."""
        state, cell = self._step(steps[0], None)
        states = [state]
        for step in steps[1:]:
            state, cell = self._step(step + ops.matmul(state, self.recurrent_kernel), cell)
            states.append(state)
        return ops.stack(states)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "experts": self.experts,
            "units": self.units,
            "return_sequences": self.return_sequences,
        }
