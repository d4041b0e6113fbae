"""PLE, progressive layered extraction (Tang et al., RecSys 2020, section 4.2), with LSTM experts at two levels."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from flowloom.trainers.layers.batched_lstm import BatchedLSTM
from flowloom.trainers.layers.kernel_lstm import KernelLSTM
from flowloom.trainers.models.gates import GateInput, among_all, gate_view
from flowloom.trainers.models.heads import task_heads, task_towers
from flowloom.trainers.models.lmmoe import shared_and_own

SHARED = "shared"
"""What the gate over all experts of the first level is named after."""


@keras.saving.register_keras_serializable(package="flowloom")
class PLE(keras.Model):
    """Two levels of LSTM experts, some shared and some of one task alone, and per task gates, a tower and a head.

    The experts of the first level return their states after every packet. For each task a gate mixes those of the
    shared experts and its own to the sequence that its experts of the second level read; a shared gate mixes all of
    them for the shared experts of the second level. Gates of the second level weigh states after the last packet,
    and see the sequence that was mixed for their task. Inputs and outputs are those of `LMMoE`.

    Args:
      k: packets per flow.
      channels: features per packet, C.
      tasks: number of classes of each task.
      experts: shared experts of a level.
      task_experts: experts of a level that each task has for itself.
      units: width of an expert, H.
      gate_input: what a gate sees: all packets in a row, their mean, or the first packet only.
      tower: widths of the ReLU layers of a task's tower.
      batched: whether the experts of a level are one `BatchedLSTM`, which is for inference alone; see `fused`.
    """

    def __init__(
        self,
        k: int,
        channels: int,
        tasks: Mapping[str, int],
        experts: int = 1,
        task_experts: int = 1,
        units: int = 32,
        gate_input: GateInput = "flatten",
        tower: Sequence[int] = (16,),
        batched: bool = False,
        **kwargs: Any,
    ) -> None:
        sizes = {"k": k, "channels": channels, "experts": experts, "task_experts": task_experts, "units": units}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not tasks or min(tasks.values()) < 2 or SHARED in tasks:
            raise ValueError(f"tasks must name tasks of 2 or more classes, none of them {SHARED!r}, got {dict(tasks)}")
        if gate_input not in ("flatten", "mean", "first_packet"):
            raise ValueError(f"gate_input must be flatten, mean or first_packet, got {gate_input!r}")
        sees = shared_and_own(tasks, experts, task_experts)
        count = experts + len(tasks) * task_experts
        every = {**sees, SHARED: tuple(range(count))}

        # layers
        if batched:
            levels = [
                [BatchedLSTM(count, units, return_sequences=level == 0, name=f"level_{level}_experts")]
                for level in range(2)
            ]
        else:
            levels = [
                [KernelLSTM(units, return_sequences=level == 0, name=f"level_{level}_expert_{n}") for n in range(count)]
                for level in range(2)
            ]
        gates = [
            {
                name: keras.layers.Dense(len(numbers), activation="softmax", name=f"{name}_gate_{level}")
                for name, numbers in over.items()
            }
            for level, over in enumerate((every, sees))
        ]
        towers = task_towers(tasks, tower)
        heads = task_heads(tasks)

        # forward
        sequence = keras.Input((k, channels), name="sequence")
        length = keras.Input((), dtype="int32", name="length")
        present = ops.less(ops.arange(k), ops.expand_dims(length, 1))  # [B, k]
        there = ops.expand_dims(ops.cast(present, "float32"), 2)  # [B, k, 1]
        if batched:
            states = ops.unstack(levels[0][0](sequence, present), count, axis=1)  # N times [B, k, H]
        else:
            states = [lstm(sequence, mask=present) for lstm in levels[0]]  # N times [B, k, H]
        view = gate_view(sequence, present, gate_input)  # [B, G]
        mixed = {}
        for name, numbers in every.items():
            shares = gates[0][name](view)  # [B, N of the name]
            mixed[name] = there * ops.einsum("bn,bnkh->bkh", shares, ops.stack([states[n] for n in numbers], axis=1))
        read = [mixed[SHARED]] * experts + [mixed[task] for task in tasks for _ in range(task_experts)]
        if batched:
            hidden = ops.unstack(levels[1][0](ops.stack(read, axis=1), present), count, axis=1)  # N times [B, H]
        else:
            hidden = [lstm(x, mask=present) for lstm, x in zip(levels[1], read, strict=True)]  # N times [B, H]
        outputs, chosen = {}, {}
        for task in tasks:
            chosen[task] = gates[1][task](gate_view(mixed[task], present, gate_input))  # [B, N of the task]
            x = ops.einsum("bn,bnh->bh", chosen[task], ops.stack([hidden[n] for n in sees[task]], axis=1))  # [B, H]
            for layer in towers[task]:
                x = layer(x)
            outputs[task] = heads[task](x)  # [B, 1] or [B, classes]
        super().__init__({"sequence": sequence, "length": length}, outputs, **kwargs)

        self.k, self.channels, self.tasks = k, channels, dict(tasks)
        self.experts, self.task_experts, self.units = experts, task_experts, units
        self.gate_input, self.tower, self.batched = gate_input, tuple(tower), batched
        self._sees, self._count = sees, count
        self._levels, self._gates, self._towers, self._heads = levels, gates, towers, heads
        self._gate_outputs = chosen

    @property
    def expert_layers(self) -> list[keras.layers.Layer]:
        """The layers of the experts, in their order, those of the first level first."""
        return [layer for level in self._levels for layer in level]

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: the shared experts of both levels and the shared gate."""
        shared = self.experts if not self.batched else 1
        layers = [*self._levels[0][:shared], self._gates[0][SHARED], *self._levels[1][:shared]]
        return [variable for layer in layers for variable in layer.trainable_variables]

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The recurrent weights of the shared experts of the second level, which lie side by side."""
        return [lstm.cell.recurrent_kernel for lstm in self._levels[1][: self.experts]]

    def task_variables(self, task: str) -> list[keras.Variable]:
        """The variables of one task alone: its own experts and its gates at both levels, tower and head."""
        own = [] if self.batched else self._sees[task][self.experts :]
        layers: list[keras.layers.Layer] = []
        for lstms, gates in zip(self._levels, self._gates, strict=True):
            layers += [*(lstms[n] for n in own), gates[task]]
        layers += [*self._towers[task], self._heads[task]]
        return [variable for layer in layers for variable in layer.trainable_variables]

    @functools.cached_property
    def gates(self) -> keras.Model:
        """A model of the same inputs and weights: {task: weights of the gate at the second level [B, N]}."""
        outputs = self._gate_outputs.items()
        return keras.Model(
            self.input, {task: among_all(shares, self._sees[task], self._count) for task, shares in outputs}
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference: both levels of experts, the mixes, and the dense layers."""
        experts = self._count * self.k * 4 * self.units * (self.channels + 3 * self.units)
        weighed = sum(map(len, self._sees.values()))
        mixes = (self.k * (weighed + self._count) + weighed) * self.units
        layers = [layer for gates in self._gates for layer in gates.values()]
        layers += [layer for tower in self._towers.values() for layer in tower] + list(self._heads.values())
        return experts + mixes + sum(layer.kernel.shape[0] * layer.kernel.shape[1] for layer in layers)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "k": self.k,
            "channels": self.channels,
            "tasks": self.tasks,
            "experts": self.experts,
            "task_experts": self.task_experts,
            "units": self.units,
            "gate_input": self.gate_input,
            "tower": list(self.tower),
            "batched": self.batched,
        }
