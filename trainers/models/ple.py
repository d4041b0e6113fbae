"""PLE, progressive layered extraction (Tang et al., RecSys 2020, section 4.2), with LSTM experts at two levels."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from flowloom.trainers.layers.batched_lstm import BatchedLSTM
from flowloom.trainers.layers.kernel_lstm import KernelLSTM
from flowloom.trainers.models.flow_inputs import check_sizes, flow_inputs, packet_mask
from flowloom.trainers.models.gates import GateInput, among_all, gate_view
from flowloom.trainers.models.heads import check_tasks, task_heads, task_towers
from flowloom.trainers.models.lmmoe import shared_and_own
from flowloom.trainers.models.mixture_model import (
    MixtureModel,
    check_gate_input,
    expert_states,
    tower_outputs,
    weighted_states,
)

SHARED = "shared"
"""Name of the first-level gate over all experts, beside those named after tasks."""


@keras.saving.register_keras_serializable(package="flowloom")
class PLE(MixtureModel):
    """Two levels of LSTM experts, shared and own; each task has gates, a tower and an output layer.

    The experts of the first level return their states after every packet. Each task has a gate that mixes the states of
    the shared experts and its own experts to the sequence that its own experts of the second level read. A shared gate
    mixes the states of all experts for the shared experts of the second level. The gates of the second level read
    their task's mixed sequence, and weigh the states after the last packet.

    Args:
      k: packets per flow.
      channels: features per packet, C.
      tasks: number of classes of each task.
      experts: shared experts of a level.
      task_experts: own experts of each task on a level.
      units: width of an expert, H.
      gate_input: packets that a gate reads: `flatten` reads all k in a row, `mean` their mean, `first_packet` the
        first one.
      tower: widths of the ReLU layers of a task's tower.
      batched: makes the experts of a level one `BatchedLSTM`, for inference alone; see `fused`.

    Input shape:
      {"sequence": float32 [B, k, C], "length": int32 [B]}; the experts skip the packets from `length` on.

    Output shape:
      {task: [B, 1]}, a sigmoid, for two classes; {task: [B, classes]}, a softmax, for more.

    Raises:
      ValueError: if a size is below 1, or `tasks` are empty or contain the name `shared`.

    Reference:
      Tang, Liu, Zhao and Gong, Progressive Layered Extraction (PLE), RecSys 2020, section 4.2.
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
        check_sizes(k=k, channels=channels, experts=experts, task_experts=task_experts, units=units)
        check_tasks(tasks)
        if SHARED in tasks:
            raise ValueError(f"tasks must not contain {SHARED!r}, the name of the shared gate, got {dict(tasks)}")
        check_gate_input(gate_input)
        sees = shared_and_own(tasks, experts, task_experts)
        count = experts + len(tasks) * task_experts
        every = {**sees, SHARED: tuple(range(count))}

        # layers
        levels = [_expert_layers(level, count, units, batched) for level in range(2)]
        gates = [_gate_layers(level, over) for level, over in enumerate((every, sees))]
        towers, heads = task_towers(tasks, tower), task_heads(tasks)

        # forward
        inputs = flow_inputs(k, channels)
        present = packet_mask(inputs)  # [B, k]
        states = expert_states(levels[0], inputs["sequence"], present)  # N times [B, k, H]
        view = gate_view(inputs["sequence"], present, gate_input)  # [B, G]
        shares = {name: gates[0][name](view) for name in every}  # [B, N of the name]
        there = ops.expand_dims(ops.cast(present, "float32"), 2)  # [B, k, 1]
        mixed = {name: there * mix for name, mix in _mixed(states, shares, every).items()}  # [B, k, H]
        read = [mixed[SHARED]] * experts + [mixed[task] for task in tasks for _ in range(task_experts)]
        hidden = _second_level(levels[1], read, present)  # N times [B, H]
        chosen = {task: gates[1][task](gate_view(mixed[task], present, gate_input)) for task in tasks}
        outputs = tower_outputs(_mixed(hidden, chosen, sees), towers, heads)
        super().__init__(
            inputs, outputs, tasks=tasks, units=units, gate_input=gate_input, tower=tower, batched=batched,
            towers=towers, heads=heads, gate_outputs=chosen, **kwargs,
        )  # fmt: skip

        self.experts, self.task_experts = experts, task_experts
        self._sees, self._count, self._levels, self._gates = sees, count, levels, gates

    @property
    def expert_layers(self) -> list[keras.layers.Layer]:
        """The layers of the experts in their order, first level first."""
        return [layer for level in self._levels for layer in level]

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: the shared experts of both levels and the shared gate."""
        shared = self.experts if not self.batched else 1
        layers = [*self._levels[0][:shared], self._gates[0][SHARED], *self._levels[1][:shared]]
        return [variable for layer in layers for variable in layer.trainable_variables]

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The recurrent weights of the shared experts of the second level."""
        return [lstm.cell.recurrent_kernel for lstm in self._levels[1][: self.experts]]

    def task_variables(self, task: str) -> list[keras.Variable]:
        """Returns the variables of one task alone: its experts and gates of both levels, tower and output layer."""
        own = [] if self.batched else self._sees[task][self.experts :]
        layers: list[keras.layers.Layer] = []
        for lstms, gates in zip(self._levels, self._gates, strict=True):
            layers += [*(lstms[n] for n in own), gates[task]]
        layers += [*self._towers[task], self._heads[task]]
        return [variable for layer in layers for variable in layer.trainable_variables]

    @functools.cached_property
    def gates(self) -> keras.Model:
        """A model with the same inputs and weights and the outputs {task: second-level gate weights [B, N]}."""
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
        gates = [gate for level in self._gates for gate in level.values()]
        return experts + mixes + self._dense_macs(gates)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "experts": self.experts, "task_experts": self.task_experts}


def _expert_layers(level: int, count: int, units: int, batched: bool) -> list[keras.layers.Layer]:
    """Returns the experts of level 0, which return their states after every packet, or of level 1."""
    sequences = level == 0
    if batched:
        return [BatchedLSTM(count, units, return_sequences=sequences, name=f"level_{level}_experts")]
    return [KernelLSTM(units, return_sequences=sequences, name=f"level_{level}_expert_{n}") for n in range(count)]


def _gate_layers(level: int, over: Mapping[str, Sequence[int]]) -> dict[str, keras.layers.Dense]:
    """Returns a gate per name, over as many experts as it reads."""
    return {
        name: keras.layers.Dense(len(numbers), activation="softmax", name=f"{name}_gate_{level}")
        for name, numbers in over.items()
    }


def _mixed(states: Sequence[Any], shares: Mapping[str, Any], sees: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Returns by name the states of its experts, weighted by its gate: [B, k, H] or [B, H]."""
    return {
        name: weighted_states(shares[name], ops.stack([states[n] for n in numbers], axis=1))
        for name, numbers in sees.items()
    }


def _second_level(experts: Sequence[keras.layers.Layer], read: Sequence[Any], present: Any) -> list[Any]:
    """Returns the states [B, H] of experts that each read a sequence [B, k, H] of their own."""
    if isinstance(experts[0], BatchedLSTM):
        return ops.unstack(experts[0](ops.stack(read, axis=1), present), experts[0].experts, axis=1)
    return [lstm(x, mask=present) for lstm, x in zip(experts, read, strict=True)]
