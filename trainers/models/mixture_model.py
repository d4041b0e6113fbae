"""Mixtures of LSTM experts: the inputs, experts, towers and output layers that LMMoE and PLE share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import keras
from keras import ops

from flowloom.trainers.layers.batched_lstm import BatchedLSTM
from flowloom.trainers.layers.packets.pooled_packets import PooledPackets
from flowloom.trainers.models.gates import GateInput


class MixtureModel(keras.Model):
    """Base class of mixtures of LSTM experts over flows.

    Args:
      inputs: as from `flow_inputs`.
      outputs: {task: probabilities}.
      tasks: number of classes of each task.
      units: width of an expert, H.
      gate_input: packets that a gate reads.
      tower: widths of the ReLU layers of a task's tower.
      batched: true if the experts of a level are one `BatchedLSTM`, for inference alone.
      towers: the layers of each task's tower.
      heads: the output layer of each task.
      gate_outputs: weights of the experts that each task reads, [B, N of the task], for tasks with a gate.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        *,
        tasks: Mapping[str, int],
        units: int,
        gate_input: GateInput,
        tower: Sequence[int],
        batched: bool,
        towers: Mapping[str, Sequence[keras.layers.Dense]],
        heads: Mapping[str, keras.layers.Dense],
        gate_outputs: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs, outputs, **kwargs)
        _, self.k, self.channels = inputs["sequence"].shape
        self.tasks, self.units = dict(tasks), units
        self.gate_input, self.tower, self.batched = gate_input, tuple(tower), batched
        self._towers, self._heads, self._gate_outputs = towers, heads, gate_outputs

    def _dense_macs(self, gates: Iterable[keras.layers.Layer]) -> int:
        """Returns the multiply-accumulates of the dense layers of gates, of all towers and of all output layers."""
        towers = [layer for tower in self._towers.values() for layer in tower]
        layers = [gate for gate in gates if isinstance(gate, keras.layers.Dense)] + towers + list(self._heads.values())
        return sum(layer.kernel.shape[0] * layer.kernel.shape[1] for layer in layers)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that all mixtures have."""
        return {
            **super().get_config(),
            "k": self.k,
            "channels": self.channels,
            "tasks": self.tasks,
            "units": self.units,
            "gate_input": self.gate_input,
            "tower": list(self.tower),
            "batched": self.batched,
        }


def check_gate_input(gate_input: str) -> None:
    """Raises unless a gate input exists.

    Raises:
      ValueError: naming those that exist.
    """
    if gate_input not in get_args(GateInput):
        raise ValueError(f"gate_input must be flatten, mean or first_packet, got {gate_input!r}")


def expert_states(experts: Iterable[keras.layers.Layer], sequence: Any, present: Any) -> list[Any]:
    """Returns the states of experts that read the same packets, in their order.

    Args:
      experts: LSTMs or `PooledPackets` of one expert each, or `BatchedLSTM`s of several.
      sequence: float32 [B, k, C].
      present: bool [B, k], false for padding.

    Returns:
      N tensors [B, H], or [B, k, H] if the experts return sequences; [B, 2 H] of pooled experts.
    """
    states: list[Any] = []
    for expert in experts:
        if isinstance(expert, BatchedLSTM):
            states += ops.unstack(expert(sequence, present), expert.experts, axis=1)
        elif isinstance(expert, PooledPackets):
            states.append(expert(sequence, present))
        else:
            states.append(expert(sequence, mask=present))
    return states


def weighted_states(shares: Any, states: Any) -> Any:
    """Returns states [B, N, H] or [B, N, k, H] summed over N with weights [B, N]."""
    return ops.einsum("bn,bnh->bh" if len(states.shape) == 3 else "bn,bnkh->bkh", shares, states)


def tower_outputs(
    mixed: Mapping[str, Any],
    towers: Mapping[str, Sequence[keras.layers.Dense]],
    heads: Mapping[str, keras.layers.Dense],
) -> dict[str, Any]:
    """Returns {task: [B, 1] or [B, classes]} from the input of each task's tower, [B, H]."""
    outputs = {}
    for task, x in mixed.items():
        for layer in towers[task]:
            x = layer(x)
        outputs[task] = heads[task](x)
    return outputs
