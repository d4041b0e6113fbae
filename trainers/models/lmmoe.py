"""LMMoE, the LSTM-based multi-gate mixture of experts of MULTA (section III-B, figure 2), and its relatives."""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import keras
import numpy as np
from keras import ops

from flowloom.trainers.layers.batched_lstm import BatchedLSTM
from flowloom.trainers.layers.kernel_lstm import KernelLSTM
from flowloom.trainers.models.gates import GateInput, Gating, among_all, gate_layer, gate_view
from flowloom.trainers.models.heads import task_heads, task_towers


@keras.saving.register_keras_serializable(package="flowloom")
class LMMoE(keras.Model):
    """N LSTM experts, and per task a gate over them, a tower of dense layers and an output layer.

    Inputs are {"sequence": float32 [B, k, C], "length": int32 [B]}: packets from `length` on are padding zeros, which
    the experts skip. Outputs are {task: [B, 1]}, a sigmoid, for two classes, and {task: [B, classes]}, a softmax, for
    more. A task that sees a single expert needs no gate and has none: its tower then reads that LSTM. An expert that
    only one of several tasks sees, latecomers apart, is that task's own.

    Args:
      k: packets per flow.
      channels: features per packet, C.
      tasks: number of classes of each task.
      experts: number of LSTM experts, N.
      units: width of an expert, H.
      gate_input: what a gate sees: all packets in a row (the paper), their mean, or the first packet only.
      tower: widths of the ReLU layers of a task's tower.
      sees: numbers of the experts that a task's gate weighs, ascending; all of them for a task that is absent.
      gating: how gates weigh, of all tasks or by task: `softmax` of what they see, `dselect_k`, or `constant`.
      selected: of `dselect_k`, the number of experts that are left in the end.
      gate_entropy: of `dselect_k`, the weight of the penalty on undecided gates.
      generations: how many experts there were from the start, and how many came with each latecomer (`grown`).
      batched: whether the experts of a generation are one `BatchedLSTM`, for inference alone; see `fused`. What they
        say must not depend on latecomers, and the last bits of a product depend on how many there are at a time.
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
        sees: Mapping[str, Sequence[int]] | None = None,
        gating: Gating | Mapping[str, Gating] = "softmax",
        selected: int = 1,
        gate_entropy: float = 0.1,
        generations: Sequence[int] | None = None,
        batched: bool = False,
        **kwargs: Any,
    ) -> None:
        for name, value in {"k": k, "channels": channels, "experts": experts, "units": units}.items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not tasks or min(tasks.values()) < 2:
            raise ValueError(f"tasks must name at least one task of 2 or more classes, got {dict(tasks)}")
        if gate_input not in ("flatten", "mean", "first_packet"):
            raise ValueError(f"gate_input must be flatten, mean or first_packet, got {gate_input!r}")
        generations = tuple(generations or (experts,))
        if min(generations) < 1 or sum(generations) != experts:
            raise ValueError(f"generations must be positive and sum to experts={experts}, got {list(generations)}")
        seen = _seen(tasks, experts, sees or {})
        gatings = _gatings(tasks, gating)

        # layers
        if batched:
            lstms = [BatchedLSTM(count, units, name=f"experts_{n}") for n, count in enumerate(generations)]
        else:
            lstms = [KernelLSTM(units, name=f"expert_{n}") for n in range(experts)]
        gates = {
            task: gate_layer(gatings[task], len(seen[task]), selected, gate_entropy, f"{task}_gate")
            for task in tasks
            if len(seen[task]) > 1 or gatings[task] == "constant"
        }
        towers = task_towers(tasks, tower)
        heads = task_heads(tasks)

        # forward
        sequence = keras.Input((k, channels), name="sequence")
        length = keras.Input((), dtype="int32", name="length")
        present = ops.less(ops.arange(k), ops.expand_dims(length, 1))  # [B, k]
        if batched:
            hidden = [
                state for lstm in lstms for state in ops.unstack(lstm(sequence, present), lstm.experts, axis=1)
            ]  # N times [B, H]
        else:
            hidden = [lstm(sequence, mask=present) for lstm in lstms]  # N times [B, H]
        # one stack for the tasks that see the same experts, [B, N of the task, H]
        stacks = {each: ops.stack([hidden[n] for n in each], axis=1) for each in dict.fromkeys(seen.values())}
        view = gate_view(sequence, present, gate_input)  # [B, G]
        chosen = {task: gate(view) for task, gate in gates.items()}  # [B, N of the task]
        outputs = {}
        for task in tasks:
            x = hidden[seen[task][0]]  # [B, H]
            if task in gates:
                x = ops.einsum("bn,bnh->bh", chosen[task], stacks[seen[task]])  # [B, H]
            for layer in towers[task]:
                x = layer(x)
            outputs[task] = heads[task](x)  # [B, 1] or [B, classes]
        super().__init__({"sequence": sequence, "length": length}, outputs, **kwargs)

        self.k, self.channels, self.tasks = k, channels, dict(tasks)
        self.experts, self.units, self.gate_input, self.tower = experts, units, gate_input, tuple(tower)
        self.sees, self.gating, self.selected, self.gate_entropy = seen, gatings, selected, gate_entropy
        self.generations, self.batched = generations, batched
        self._lstms, self._gates, self._towers, self._heads = lstms, gates, towers, heads
        self._gate_outputs = chosen

    @property
    def expert_layers(self) -> list[keras.layers.Layer]:
        """The layers of the experts, in their order: one each, or one for each generation in the batched form."""
        return self._lstms

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: the experts that are no task's own."""
        own = {n for task in self.tasks for n in self._own_experts(task)}
        shared = [lstm for n, lstm in enumerate(self._lstms) if n not in own]
        return [variable for lstm in shared for variable in lstm.trainable_variables]

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The recurrent weights of the experts that are no task's own, which lie side by side."""
        own = {n for task in self.tasks for n in self._own_experts(task)}
        return [lstm.cell.recurrent_kernel for n, lstm in enumerate(self._lstms) if n not in own]

    def task_variables(self, task: str) -> list[keras.Variable]:
        """The variables of one task alone: its own experts, its gate, tower and head."""
        own = [self._lstms[n] for n in self._own_experts(task)]
        gate = [self._gates[task]] if task in self._gates else []
        layers = [*own, *gate, *self._towers[task], self._heads[task]]
        return [variable for layer in layers for variable in layer.trainable_variables]

    def _own_experts(self, task: str) -> list[int]:
        """Return the experts that the task alone sees of those that came with it; [] if it is the only task.

        That later tasks read them too makes them no less its own: only the task that brought an expert trains it.
        """
        if self.batched or len(self.tasks) == 1:
            return []
        born = np.repeat(np.arange(len(self.generations)), self.generations)
        came = {name: max(born[list(seen)]) for name, seen in self.sees.items()}
        peers = [set(seen) for name, seen in self.sees.items() if name != task and came[name] == came[task]]
        others = set().union(*peers)
        return [n for n in self.sees[task] if born[n] == came[task] and n not in others]

    @property
    def fixed_shares(self) -> dict[str, np.ndarray]:
        """The share of each expert, float32 [N], of the tasks for which it is the same whatever the flow."""
        fixed = {}
        for task, seen in self.sees.items():
            gate = self._gates.get(task)
            if not isinstance(gate, keras.layers.Dense):
                fixed[task] = np.zeros(self.experts, np.float32)
                fixed[task][list(seen)] = 1.0 if gate is None else ops.convert_to_numpy(gate.shares)
        return fixed

    @functools.cached_property
    def gates(self) -> keras.Model | None:
        """A model of the same inputs and weights whose outputs are {task: gate weights [B, N]}; None without gates."""
        if not self._gates:
            return None
        rows = ops.expand_dims(ops.zeros_like(self.input["length"], "float32"), 1)  # [B, 1]
        shares = {task: self._gate_outputs.get(task, rows + 1.0) for task in self.tasks}
        every = {task: among_all(shares[task], self.sees[task], self.experts) for task in self.tasks}
        return keras.Model(self.input, every)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference: N k 4H (C + H) of experts, N H of each mix, and the dense layers."""
        experts = self.experts * self.k * 4 * self.units * (self.channels + self.units)
        mixes = sum(len(self.sees[task]) * self.units for task in self._gates)
        towers = itertools.chain.from_iterable(self._towers.values())
        gates = [gate for gate in self._gates.values() if isinstance(gate, keras.layers.Dense)]
        dense = [*gates, *towers, *self._heads.values()]
        return experts + mixes + sum(layer.kernel.shape[0] * layer.kernel.shape[1] for layer in dense)

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
            "sees": {task: list(seen) for task, seen in self.sees.items()},
            "gating": dict(self.gating),
            "selected": self.selected,
            "gate_entropy": self.gate_entropy,
            "generations": list(self.generations),
            "batched": self.batched,
        }


def shared_and_own(tasks: Iterable[str], shared: int, own: int) -> dict[str, tuple[int, ...]]:
    """Return what tasks see of `shared` experts and `own` ones of each task behind them: CGC (Tang et al. 2020)."""
    first = range(shared)
    return {task: (*first, *range(shared + n * own, shared + (n + 1) * own)) for n, task in enumerate(tasks)}


def _seen(tasks: Iterable[str], experts: int, sees: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Return the experts that each task sees, checked."""
    seen = {task: tuple(sees.get(task, range(experts))) for task in tasks}
    if unknown := set(sees) - set(seen):
        raise ValueError(f"sees must name tasks among {', '.join(seen)}, got {', '.join(sorted(unknown))}")
    for task, numbers in seen.items():
        if not numbers or list(numbers) != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] < experts:
            raise ValueError(f"sees of {task} must be ascending numbers from 0 to {experts - 1}, got {list(numbers)}")
    return seen


def _gatings(tasks: Iterable[str], gating: Gating | Mapping[str, Gating]) -> dict[str, Gating]:
    """Return how each task's gate weighs, checked."""
    gatings = {task: gating if isinstance(gating, str) else gating.get(task, "softmax") for task in tasks}
    for task, each in gatings.items():
        if each not in get_args(Gating):
            raise ValueError(f"gating of {task} must be {', '.join(get_args(Gating))}, got {each!r}")
    return gatings
