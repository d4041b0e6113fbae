"""LMMoE, the LSTM-based multi-gate mixture of experts of MULTA (section III-B, figure 2)."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
from keras import ops

GateInput = Literal["flatten", "mean", "first_packet"]


@keras.saving.register_keras_serializable(package="flowloom")
class LMMoE(keras.Model):
    """N LSTM experts, and per task a softmax gate over them, a tower of dense layers and an output layer.

    Inputs are {"sequence": float32 [B, k, C], "length": int32 [B]}: packets from `length` on are padding zeros, which
    the experts skip. Outputs are {task: [B, 1]}, a sigmoid, for two classes, and {task: [B, classes]}, a softmax, for
    more. A single expert needs no gates and has none: every tower then reads that LSTM.

    Args:
      k: packets per flow.
      channels: features per packet, C.
      tasks: number of classes of each task.
      experts: number of LSTM experts, N.
      units: width of an expert, H.
      gate_input: what a gate sees: all packets in a row (the paper), their mean, or the first packet only.
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
        if gate_input not in ("flatten", "mean", "first_packet"):
            raise ValueError(f"gate_input must be flatten, mean or first_packet, got {gate_input!r}")

        # layers
        lstms = [keras.layers.LSTM(units, name=f"expert_{n}") for n in range(experts)]
        gates = {}
        if experts > 1:
            gates = {task: keras.layers.Dense(experts, activation="softmax", name=f"{task}_gate") for task in tasks}
        towers = {
            task: [
                keras.layers.Dense(width, activation="relu", name=f"{task}_tower_{n}") for n, width in enumerate(tower)
            ]
            for task in tasks
        }
        heads = {
            task: keras.layers.Dense(classes, activation="softmax", name=f"{task}_head")
            if classes > 2
            else keras.layers.Dense(1, activation="sigmoid", name=f"{task}_head")
            for task, classes in tasks.items()
        }

        # forward
        sequence = keras.Input((k, channels), name="sequence")
        length = keras.Input((), dtype="int32", name="length")
        present = ops.less(ops.arange(k), ops.expand_dims(length, 1))  # [B, k]
        hidden = [lstm(sequence, mask=present) for lstm in lstms]  # N times [B, H]
        stacked = ops.stack(hidden, axis=1)  # [B, N, H]
        seen = self.gate_view(sequence, present, gate_input)  # [B, G]
        chosen = {task: gate(seen) for task, gate in gates.items()}  # [B, N]
        outputs = {}
        for task in tasks:
            x = ops.einsum("bn,bnh->bh", chosen[task], stacked) if gates else hidden[0]  # [B, H]
            for layer in towers[task]:
                x = layer(x)
            outputs[task] = heads[task](x)  # [B, 1] or [B, classes]
        super().__init__({"sequence": sequence, "length": length}, outputs, **kwargs)

        self.k, self.channels, self.tasks = k, channels, dict(tasks)
        self.experts, self.units, self.gate_input, self.tower = experts, units, gate_input, tuple(tower)
        self._lstms, self._gates, self._towers, self._heads = lstms, gates, towers, heads
        self._gate_outputs = chosen

    @staticmethod
    def gate_view(sequence: Any, present: Any, gate_input: GateInput) -> Any:
        """Return what a gate sees, [B, G]: sequence [B, k, C], present [B, k]."""
        _, k, channels = sequence.shape
        if gate_input == "flatten":
            return ops.reshape(sequence, (-1, k * channels))  # [B, k * C]
        if gate_input == "first_packet":
            return sequence[:, 0]  # [B, C]
        weights = ops.expand_dims(ops.cast(present, "float32"), 2)  # [B, k, 1]
        return ops.sum(sequence * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)  # [B, C]

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: the experts."""
        return [variable for lstm in self._lstms for variable in lstm.trainable_variables]

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The recurrent weights of the experts, which lie side by side."""
        return [lstm.cell.recurrent_kernel for lstm in self._lstms]

    def task_variables(self, task: str) -> list[keras.Variable]:
        """The variables of one task alone: its gate, tower and head."""
        own = [self._gates[task]] if self._gates else []
        layers = [*own, *self._towers[task], self._heads[task]]
        return [variable for layer in layers for variable in layer.trainable_variables]

    @functools.cached_property
    def gates(self) -> keras.Model | None:
        """A model of the same inputs and weights whose outputs are {task: gate weights [B, N]}; None without gates."""
        return keras.Model(self.input, self._gate_outputs) if self._gates else None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference: N k 4H (C + H) of experts, T N H of mixes, and the dense layers."""
        experts = self.experts * self.k * 4 * self.units * (self.channels + self.units)
        mixes = len(self.tasks) * self.experts * self.units if self._gates else 0
        towers = itertools.chain.from_iterable(self._towers.values())
        dense = [*self._gates.values(), *towers, *self._heads.values()]
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
        }
