"""LMMoE, the LSTM-based multi-gate mixture of experts of MULTA (section III-B, figure 2), and its variants."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import keras
import numpy as np
from keras import ops

from flowloom.trainers.layers.batched_lstm import BatchedLSTM
from flowloom.trainers.layers.kernel_lstm import KernelLSTM
from flowloom.trainers.models.flow_inputs import check_sizes, flow_inputs, packet_mask
from flowloom.trainers.models.gates import GateInput, Gating, among_all, gate_layer, gate_view
from flowloom.trainers.models.heads import check_tasks, task_heads, task_towers
from flowloom.trainers.models.mixture_model import (
    MixtureModel,
    check_gate_input,
    expert_states,
    tower_outputs,
    weighted_states,
)


@keras.saving.register_keras_serializable(package="flowloom")
class LMMoE(MixtureModel):
    """Mixture of N LSTM experts; each task has a gate over the experts, a tower and an output layer.

    A task that reads a single expert has no gate: its tower reads that LSTM. An expert that only one of several tasks
    reads is that task's own. Experts that came with a latecomer are its own even if later tasks read them too.

    Args:
      k: packets per flow.
      channels: features per packet, C.
      tasks: number of classes of each task.
      experts: number of LSTM experts, N.
      units: width of an expert, H.
      gate_input: packets that a gate reads: `flatten` reads all k in a row (the paper), `mean` their mean,
        `first_packet` the first one.
      tower: widths of the ReLU layers of a task's tower.
      sees: numbers of the experts that each task reads, ascending; all experts for a task that is absent.
      gating: kind of the gates, for all tasks or by task: `softmax` of the gate input, `dselect_k` or `constant`.
      selected: experts that remain per task under `dselect_k`.
      gate_entropy: under `dselect_k`, the weight of the penalty on undecided gates.
      generations: number of experts at the start, followed by the number that came with each latecomer (`grown`).
      batched: makes the experts of a generation one `BatchedLSTM`, for inference alone; see `fused`. Generations stay
        apart because the last bits of a product depend on its size, and old outputs must not change with latecomers.

    Input shape:
      {"sequence": float32 [B, k, C], "length": int32 [B]}; the experts skip the packets from `length` on.

    Output shape:
      {task: [B, 1]}, a sigmoid, for two classes; {task: [B, classes]}, a softmax, for more.

    Raises:
      ValueError: if a size is below 1, or `tasks`, `sees`, `gating` and `generations` do not fit each other.

    Reference:
      MULTA, section III-B. With `sees` of `shared_and_own` it is CGC of PLE (Tang et al., RecSys 2020).

    Example:

    >>> import numpy as np
    >>> model = LMMoE(k=20, channels=18, tasks={"app": 5, "attack": 2})
    >>> outputs = model({"sequence": np.zeros((3, 20, 18), "float32"), "length": np.array([1, 2, 20])})
    >>> {task: tuple(probabilities.shape) for task, probabilities in outputs.items()}
    {'app': (3, 5), 'attack': (3, 1)}
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
        check_sizes(k=k, channels=channels, experts=experts, units=units)
        check_tasks(tasks)
        check_gate_input(gate_input)
        generations = _checked_generations(generations or (experts,), experts)
        seen = _checked_sees(tasks, experts, sees or {})
        gatings = _checked_gatings(tasks, gating)

        # layers
        lstms = _expert_layers(generations, units, batched)
        gates = {
            task: gate_layer(gatings[task], len(seen[task]), selected, gate_entropy, f"{task}_gate")
            for task in tasks
            if len(seen[task]) > 1 or gatings[task] == "constant"
        }
        towers, heads = task_towers(tasks, tower), task_heads(tasks)

        # forward
        inputs = flow_inputs(k, channels)
        present = packet_mask(inputs)  # [B, k]
        hidden = expert_states(lstms, inputs["sequence"], present)  # N times [B, H]
        view = gate_view(inputs["sequence"], present, gate_input)  # [B, G]
        chosen = {task: gate(view) for task, gate in gates.items()}  # [B, N of the task]
        outputs = tower_outputs(_mixed(hidden, chosen, seen), towers, heads)
        super().__init__(
            inputs, outputs, tasks=tasks, units=units, gate_input=gate_input, tower=tower, batched=batched,
            towers=towers, heads=heads, gate_outputs=chosen, **kwargs,
        )  # fmt: skip

        self.experts, self.generations = experts, generations
        self.sees, self.gating, self.selected, self.gate_entropy = seen, gatings, selected, gate_entropy
        self._lstms, self._gates = lstms, gates

    @property
    def expert_layers(self) -> list[keras.layers.Layer]:
        """The layers of the experts, in their order: one each, or one per generation in the batched form."""
        return self._lstms

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: the experts that are not one task's own."""
        own = {n for task in self.tasks for n in self._own_experts(task)}
        shared = [lstm for n, lstm in enumerate(self._lstms) if n not in own]
        return [variable for lstm in shared for variable in lstm.trainable_variables]

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The recurrent weights of the experts that are not one task's own."""
        own = {n for task in self.tasks for n in self._own_experts(task)}
        return [lstm.cell.recurrent_kernel for n, lstm in enumerate(self._lstms) if n not in own]

    def task_variables(self, task: str) -> list[keras.Variable]:
        """Returns the variables of one task alone: its own experts, its gate, tower and output layer."""
        own = [self._lstms[n] for n in self._own_experts(task)]
        gate = [self._gates[task]] if task in self._gates else []
        layers = [*own, *gate, *self._towers[task], self._heads[task]]
        return [variable for layer in layers for variable in layer.trainable_variables]

    def _own_experts(self, task: str) -> list[int]:
        """Returns the experts that came with a task and that no other task of its time reads.

        An only task has none. Later tasks may read them too: only the task that brought an expert trains it.
        """
        if self.batched or len(self.tasks) == 1:
            return []
        born = np.repeat(np.arange(len(self.generations)), self.generations)
        arrival = {name: max(born[list(seen)]) for name, seen in self.sees.items()}
        peers = [set(seen) for name, seen in self.sees.items() if name != task and arrival[name] == arrival[task]]
        others = set().union(*peers)
        return [n for n in self.sees[task] if born[n] == arrival[task] and n not in others]

    @property
    def fixed_shares(self) -> dict[str, np.ndarray]:
        """The share of each expert, float32 [N], by task, for tasks whose shares are the same for every flow."""
        fixed = {}
        for task, seen in self.sees.items():
            gate = self._gates.get(task)
            if not isinstance(gate, keras.layers.Dense):
                fixed[task] = np.zeros(self.experts, np.float32)
                fixed[task][list(seen)] = 1.0 if gate is None else ops.convert_to_numpy(gate.shares)
        return fixed

    @functools.cached_property
    def gates(self) -> keras.Model | None:
        """A model with the same inputs and weights and the outputs {task: gate weights [B, N]}; None without gates."""
        if not self._gates:
            return None
        rows = ops.expand_dims(ops.zeros_like(self.input["length"], "float32"), 1)  # [B, 1]
        shares = {task: self._gate_outputs.get(task, rows + 1.0) for task in self.tasks}
        every = {task: among_all(shares[task], self.sees[task], self.experts) for task in self.tasks}
        return keras.Model(self.input, every)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference: N k 4H (C + H) for experts, N H per mix, and dense layers."""
        experts = self.experts * self.k * 4 * self.units * (self.channels + self.units)
        mixes = sum(len(self.sees[task]) * self.units for task in self._gates)
        return experts + mixes + self._dense_macs(self._gates.values())

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "experts": self.experts,
            "sees": {task: list(seen) for task, seen in self.sees.items()},
            "gating": dict(self.gating),
            "selected": self.selected,
            "gate_entropy": self.gate_entropy,
            "generations": list(self.generations),
        }


def shared_and_own(tasks: Iterable[str], shared: int, own: int) -> dict[str, tuple[int, ...]]:
    """Returns the experts that each task reads in CGC (Tang et al., RecSys 2020, section 4.1).

    Args:
      tasks: the tasks, in order.
      shared: experts that all tasks read; they are numbered first.
      own: experts that each task has for itself, behind the shared ones.
    """
    first = range(shared)
    return {task: (*first, *range(shared + n * own, shared + (n + 1) * own)) for n, task in enumerate(tasks)}


def _expert_layers(generations: Sequence[int], units: int, batched: bool) -> list[keras.layers.Layer]:
    if batched:
        return [BatchedLSTM(count, units, name=f"experts_{n}") for n, count in enumerate(generations)]
    return [KernelLSTM(units, name=f"expert_{n}") for n in range(sum(generations))]


def _mixed(
    hidden: Sequence[Any], chosen: Mapping[str, Any], sees: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:  # fmt: skip
    """Returns the input of each task's tower, [B, H], from expert states and gate weights."""
    # one stack for all tasks that read the same experts, [B, N of the task, H]
    stacks = {each: ops.stack([hidden[n] for n in each], axis=1) for each in dict.fromkeys(sees.values())}
    return {
        task: weighted_states(chosen[task], stacks[seen]) if task in chosen else hidden[seen[0]]
        for task, seen in sees.items()
    }


def _checked_generations(generations: Sequence[int], experts: int) -> tuple[int, ...]:
    if min(generations) < 1 or sum(generations) != experts:
        raise ValueError(f"generations must be positive and sum to experts={experts}, got {list(generations)}")
    return tuple(generations)


def _checked_sees(tasks: Iterable[str], experts: int, sees: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Returns the experts that each task reads."""
    seen = {task: tuple(sees.get(task, range(experts))) for task in tasks}
    if unknown := set(sees) - set(seen):
        raise ValueError(f"sees must name tasks among {', '.join(seen)}, got {', '.join(sorted(unknown))}")
    for task, numbers in seen.items():
        if not numbers or list(numbers) != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] < experts:
            raise ValueError(f"sees of {task} must be ascending numbers from 0 to {experts - 1}, got {list(numbers)}")
    return seen


def _checked_gatings(tasks: Iterable[str], gating: Gating | Mapping[str, Gating]) -> dict[str, Gating]:
    """Returns the kind of each task's gate."""
    gatings = {task: gating if isinstance(gating, str) else gating.get(task, "softmax") for task in tasks}
    for task, each in gatings.items():
        if each not in get_args(Gating):
            raise ValueError(f"gating of {task} must be {', '.join(get_args(Gating))}, got {each!r}")
    return gatings
