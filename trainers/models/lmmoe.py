"""LMMoE, the LSTM-based multi-gate mixture of experts of MULTA (section III-B, figure 2), and its variants."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import keras
import numpy as np
from keras import ops

from flowloom.trainers.layers.batched_lstm import BatchedLSTM
from flowloom.trainers.layers.kernel_lstm import KernelLSTM
from flowloom.trainers.layers.packets.packet_representation import PacketRepresentation
from flowloom.trainers.layers.packets.pooled_packets import POOLINGS, PooledPackets
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
    """Mixture of N experts; each task has a gate over the experts, a tower and an output layer.

    A task that reads a single expert has no gate: its tower reads that expert. An expert that only one of several tasks
    reads is that task's own. Experts that came with a latecomer are its own even if later tasks read them too.

    Args:
      k: packets per flow.
      channels: features per packet, C.
      tasks: number of classes of each task.
      experts: number of experts, N.
      units: width of an expert, H.
      gate_input: packets that a gate reads: `flatten` reads all k in a row (the paper), `mean` their mean,
        `first_packet` the first one.
      tower: widths of the ReLU layers of a task's tower.
      sees: numbers of the experts that each task reads, ascending; all experts for a task that is absent.
      gating: kind of the gates, for all tasks or by task: `softmax` of the gate input, `dselect_k` or `constant`.
      selected: experts that remain per task under `dselect_k`.
      gate_entropy: under `dselect_k`, the weight of the penalty on undecided gates.
      generations: number of experts at the start, followed by the number that came with each latecomer (`grown`).
      batched: makes the LSTMs of a generation one `BatchedLSTM`, for inference alone; see `fused`. Generations stay
        apart because the last bits of a product depend on its size, and old outputs must not change with latecomers.
      features: names of the C features of packets in units, which a `PacketRepresentation` turns into the packets that
        experts and gates read; None for scaled features, which they read as they are.
      embedding: under `features`, the width of the learned embedding of a size.
      pooled: under `features`, the arguments of `PooledPackets` beside its widths, for experts that pool instead of
        LSTMs; None for LSTMs. A pooled expert has packets of width H and gives the tower 2 H values.
      dropout: under `features`, the rate before the towers, and half of it on the packets that LSTMs read.

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
        features: Sequence[str] | None = None,
        embedding: int = 32,
        pooled: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        check_sizes(k=k, channels=channels, experts=experts, units=units)
        check_tasks(tasks)
        check_gate_input(gate_input)
        generations = _checked_generations(generations or (experts,), experts)
        seen = _checked_sees(tasks, experts, sees or {})
        gatings = _checked_gatings(tasks, gating)
        _check_features(features, channels, pooled, dropout, batched)

        # layers
        represent = None if features is None else PacketRepresentation(features, embedding, name="packets")
        layers = _expert_layers(generations, units, batched, None if pooled is None else {**pooled, "dropout": dropout})
        gates = {
            task: gate_layer(gatings[task], len(seen[task]), selected, gate_entropy, f"{task}_gate")
            for task in tasks
            if len(seen[task]) > 1 or gatings[task] == "constant"
        }
        towers, heads = task_towers(tasks, tower), task_heads(tasks)

        # forward
        inputs = flow_inputs(k, channels)
        present = packet_mask(inputs)  # [B, k]
        packets = inputs["sequence"] if represent is None else represent(inputs["sequence"], present)  # [B, k, D]
        read = packets if pooled is not None or not dropout else keras.layers.Dropout(dropout / 2)(packets)
        hidden = expert_states(layers, read, present)  # N times [B, H], or [B, 2 H] of pooled experts
        view = gate_view(packets, present, gate_input)  # [B, G]
        chosen = {task: gate(view) for task, gate in gates.items()}  # [B, N of the task]
        mixed = _mixed(hidden, chosen, seen)
        if dropout:
            mixed = {task: keras.layers.Dropout(dropout)(each) for task, each in mixed.items()}
        outputs = tower_outputs(mixed, towers, heads)
        super().__init__(
            inputs, outputs, tasks=tasks, units=units, gate_input=gate_input, tower=tower, batched=batched,
            towers=towers, heads=heads, gate_outputs=chosen, **kwargs,
        )  # fmt: skip

        self.experts, self.generations = experts, generations
        self.sees, self.gating, self.selected, self.gate_entropy = seen, gatings, selected, gate_entropy
        self.features = None if features is None else tuple(features)
        self.embedding, self.dropout = embedding, dropout
        self.pooled = None if pooled is None else dict(pooled)
        self._layers_of_experts, self._gates, self._represent = layers, gates, represent

    @property
    def expert_layers(self) -> list[keras.layers.Layer]:
        """The layers of the experts, in their order: one each, or one per generation in the batched form."""
        return self._layers_of_experts

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: the representation, and the experts that are not one task's own."""
        owners = [self._representation_of(task) for task in self.tasks]
        shared = [] if any(owners) else self._representation
        return [variable for layer in [*shared, *self._shared_experts] for variable in layer.trainable_variables]

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The last weights of the experts that are not one task's own: recurrent ones, or those of the readout."""
        if self.pooled is not None:
            return [expert.last.kernel for expert in self._shared_experts]
        return [expert.cell.recurrent_kernel for expert in self._shared_experts]

    def task_variables(self, task: str) -> list[keras.Variable]:
        """Returns the variables of one task alone: its own experts, its gate, tower and output layer."""
        own = [*self._representation_of(task), *(self._layers_of_experts[n] for n in self._own_experts(task))]
        gate = [self._gates[task]] if task in self._gates else []
        layers = [*own, *gate, *self._towers[task], self._heads[task]]
        return [variable for layer in layers for variable in layer.trainable_variables]

    @property
    def _representation(self) -> list[keras.layers.Layer]:
        return [] if self._represent is None else [self._represent]

    def _representation_of(self, task: str) -> list[keras.layers.Layer]:
        """Returns the representation if a task brought it alone, so that latecomers do not change it."""
        brought = len(self.generations) > 1 and [name for name in self.tasks if self._arrivals[name] == 0] == [task]
        return self._representation if brought else []

    @property
    def _shared_experts(self) -> list[keras.layers.Layer]:
        own = {n for task in self.tasks for n in self._own_experts(task)}
        return [expert for n, expert in enumerate(self._layers_of_experts) if n not in own]

    @property
    def _arrivals(self) -> dict[str, int]:
        """The generation of the latest expert that each task reads."""
        born = np.repeat(np.arange(len(self.generations)), self.generations)
        return {name: max(born[list(seen)]) for name, seen in self.sees.items()}

    def _own_experts(self, task: str) -> list[int]:
        """Returns the experts that came with a task and that no other task of its time reads.

        An only task has none. Later tasks may read them too: only the task that brought an expert trains it.
        """
        if self.batched or len(self.tasks) == 1:
            return []
        born = np.repeat(np.arange(len(self.generations)), self.generations)
        arrival = self._arrivals
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
        """Multiply-accumulates of one inference: N k 4H (D + H) for LSTMs, N H per mix, and dense layers."""
        if self.pooled is not None:
            experts = sum(expert.macs(self.k) for expert in self._layers_of_experts)
        else:
            read = self.channels if self._represent is None else self._represent.width
            experts = self.experts * self.k * 4 * self.units * (read + self.units)
        width = self.units if self.pooled is None else 2 * self.units
        mixes = sum(len(self.sees[task]) * width for task in self._gates)
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
            "features": None if self.features is None else list(self.features),
            "embedding": self.embedding,
            "pooled": self.pooled and {**self.pooled, "pooling": list(self.pooled.get("pooling", POOLINGS))},
            "dropout": self.dropout,
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


def _expert_layers(
    generations: Sequence[int], units: int, batched: bool, pooled: Mapping[str, Any] | None
) -> list[keras.layers.Layer]:
    if pooled is not None:
        return [PooledPackets(units, 2 * units, **pooled, name=f"expert_{n}") for n in range(sum(generations))]
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


def _check_features(
    features: Sequence[str] | None, channels: int, pooled: Mapping[str, Any] | None, dropout: float, batched: bool
) -> None:  # fmt: skip
    """Raises unless the arguments of represented packets fit each other."""
    if features is None and (pooled is not None or dropout):
        raise ValueError("features must name the packets' features for pooled experts and for dropout, got None")
    if features is not None and len(features) != channels:
        raise ValueError(f"features must name {channels} channels, got {list(features)}")
    if pooled is not None and batched:
        raise ValueError("batched must be false for pooled experts, which have no batched form, got True")


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
