"""LMMoE for latecomers in isolation: each brings an expert, and nothing of the tasks before depends on it."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from flowloom.trainers.lmmoe import GateInput, LMMoE
from flowloom.trainers.multitask_cnn import layer_macs, task_head


@keras.saving.register_keras_serializable(package="flowloom")
class ArrivalLMMoE(keras.Model):
    """An LMMoE whose first task has some experts, and each later one a further expert that no task before reads.

    The gate of a task is over the experts that were there when it came and its own, so that training a latecomer's own
    variables leaves the outputs of all tasks before as they are, to the bit. Inputs, outputs and towers are as of
    `LMMoE`. Source: section IV-C of MULTA for the setting; the remedy is that of progressive networks (Rusu et al.,
    2016).

    Args:
      k: packets per flow.
      channels: features per packet, C.
      tasks: number of classes of each task, in the order of arrival.
      experts: number of LSTM experts of the first task.
      units: width of an expert, H.
      gate_input: what a gate sees.
      tower: widths of the ReLU layers of a task's tower.
    """

    def __init__(
        self,
        k: int,
        channels: int,
        tasks: Mapping[str, int],
        experts: int = 2,
        units: int = 32,
        gate_input: GateInput = "flatten",
        tower: Sequence[int] = (16,),
        **kwargs: Any,
    ) -> None:
        for name, value in {"k": k, "channels": channels, "experts": experts, "units": units}.items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not tasks or min(tasks.values()) < 2:
            raise ValueError(f"tasks must name at least one task of 2 or more classes, got {dict(tasks)}")

        # layers
        seen = {task: experts + n for n, task in enumerate(tasks)}  # experts that a task reads: the first so many
        lstms = [keras.layers.LSTM(units, name=f"expert_{n}") for n in range(experts + len(tasks) - 1)]
        gates = {
            task: keras.layers.Dense(count, activation="softmax", name=f"{task}_gate")
            for task, count in seen.items()
            if count > 1
        }
        towers = {
            task: [
                keras.layers.Dense(width, activation="relu", name=f"{task}_tower_{n}") for n, width in enumerate(tower)
            ]
            for task in tasks
        }
        heads = {task: task_head(task, classes) for task, classes in tasks.items()}

        # forward
        sequence = keras.Input((k, channels), name="sequence")
        length = keras.Input((), dtype="int32", name="length")
        present = ops.less(ops.arange(k), ops.expand_dims(length, 1))  # [B, k]
        hidden = [lstm(sequence, mask=present) for lstm in lstms]  # N times [B, H]
        view = LMMoE.gate_view(sequence, present, gate_input)  # [B, G]
        chosen, outputs = {}, {}
        for task, count in seen.items():
            x = hidden[0]  # [B, H]
            if task in gates:
                weights = gates[task](view)  # [B, count]
                x = ops.einsum("bn,bnh->bh", weights, ops.stack(hidden[:count], axis=1))  # [B, H]
                chosen[task] = ops.pad(weights, ((0, 0), (0, len(lstms) - count)))  # [B, N]
            for layer in towers[task]:
                x = layer(x)
            outputs[task] = heads[task](x)  # [B, 1] or [B, classes]
        super().__init__({"sequence": sequence, "length": length}, outputs, **kwargs)

        self.k, self.channels, self.tasks = k, channels, dict(tasks)
        self.experts, self.units, self.gate_input, self.tower = experts, units, gate_input, tuple(tower)
        self._lstms, self._gates, self._towers, self._heads = lstms, gates, towers, heads
        self._seen, self._gate_outputs = seen, chosen

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: none."""
        return []

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """None."""
        return []

    def task_variables(self, task: str) -> list[keras.Variable]:
        """The variables of one task alone: the experts that came with it, its gate, tower and head."""
        count = self._seen[task]
        brought = self._lstms[:count] if count == self.experts else [self._lstms[count - 1]]
        gate = [self._gates[task]] if task in self._gates else []
        layers = [*brought, *gate, *self._towers[task], self._heads[task]]
        return [variable for layer in layers for variable in layer.trainable_variables]

    @functools.cached_property
    def gates(self) -> keras.Model | None:
        """A model of the same inputs and weights whose outputs are {task: gate weights [B, N]}; None without gates.

        A task gives no weight to experts that came later. A first task of one expert has no gate and is left out.
        """
        return keras.Model(self.input, self._gate_outputs) if self._gates else None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference: N k 4H (C + H) of experts, H a gate weight, the dense layers."""
        experts = len(self._lstms) * self.k * 4 * self.units * (self.channels + self.units)
        mixes = sum(self._seen[task] * self.units for task in self._gates)
        towers = itertools.chain.from_iterable(self._towers.values())
        dense = [*self._gates.values(), *towers, *self._heads.values()]
        return experts + mixes + sum(map(layer_macs, dense))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "k": self.k,
            "channels": self.channels,
            "tasks": self.tasks,
            "experts": self.experts,
            "units": self.units,
            "gate_input": self.gate_input,
            "tower": list(self.tower),
        }
