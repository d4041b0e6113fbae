"""Scores after every packet: the states of many flows at once, one cell step per packet, without TensorFlow.

The batch model reads a flow from its first packet each time. Here the LSTM states are carried, so that a packet costs
one step of each expert whatever its place. Gates are exact too: one on all packets in a row adds up what each packet
brings to its logits, one on their mean divides that sum by their number, one on the first packet looks once.
"""

import json
from pathlib import Path
from typing import Any, Self

import numba
import numpy as np
import numpy.typing as npt

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.exported import CONTRACT, WEIGHTS


class StreamingScorer:
    """An exported mixture of LSTM experts that scores flows packet by packet; open one with `StreamingScorer.load`.

    Args:
      structure: what `streaming_structure` says of the model.
      weights: float32 arrays by name, see `streaming_weights`.
      slots: how many flows can be open at a time.

    Raises:
      ValueError: if `slots` is below 1.
    """

    def __init__(self, structure: dict[str, Any], weights: dict[str, np.ndarray], slots: int = 65_536) -> None:
        if slots < 1:
            raise ValueError(f"slots must be >= 1, got {slots}")
        self.k: int = structure["k"]
        self.tasks: dict[str, int] = structure["tasks"]
        """Number of classes of each task."""
        self.slots = slots
        self._gate_input = ("flatten", "mean", "first_packet").index(structure["gate_input"])
        self._weights = weights
        self._towers = structure["tower_layers"]
        experts, self.channels, width = weights["kernel"].shape
        self._states = np.zeros((slots, 2, experts, width // 4), np.float32)
        self._logits = np.zeros((slots, len(self.tasks), experts), np.float32)
        self._packets = np.zeros(slots, np.int32)

    @classmethod
    def load(cls, path: str | Path, slots: int = 65_536) -> Self:
        """Return the scorer of a folder that `flowloom export` wrote.

        Raises:
          FlowloomError: if the folder holds no export, a damaged one, or one of a model that cannot be streamed.
        """
        root = Path(path)
        try:
            contract = json.loads((root / CONTRACT).read_bytes())
            streaming = contract["streaming"]
        except (OSError, ValueError, KeyError) as error:
            raise FlowloomError(f"{root} holds no export ({error}); make one with `flowloom export`") from None
        if "structure" not in streaming:
            raise FlowloomError(f"the model of {root} cannot be streamed: {streaming['reason']}; score whole flows")
        try:
            with np.load(root / WEIGHTS, allow_pickle=False) as arrays:
                return cls(streaming["structure"], dict(arrays), slots)
        except (OSError, ValueError, KeyError) as error:
            raise FlowloomError(f"{root / WEIGHTS} cannot be read ({error}); export the run again") from None

    def update(self, flow_slots: npt.ArrayLike, packets: npt.ArrayLike) -> dict[str, np.ndarray]:
        """Take packets in, in their order, and return what is said of their flows after each.

        Packets of a flow beyond the k-th change nothing, as the model sees the first k.

        Args:
          flow_slots: int [M], the slot of each packet's flow, below `slots`; a flow may have several packets.
          packets: float32 [M, C], the features of each packet, as `FeatureSpec.render` makes them.

        Returns:
          {task: probabilities}, float32 [M, 1] for two classes, [M, classes] for more, as the model gives them.

        Raises:
          ValueError: if the shapes do not fit, or a slot does not exist.
        """
        slots = np.ascontiguousarray(flow_slots, np.int64)
        rows = np.ascontiguousarray(packets, np.float32)
        if slots.ndim != 1 or rows.shape != (len(slots), self.channels):
            raise ValueError(
                f"packets must be [M, {self.channels}] beside M flow slots, got {rows.shape} and {slots.shape}"
            )
        if len(slots) and not 0 <= slots.min() <= slots.max() < self.slots:
            raise ValueError(f"flow slots must be from 0 to {self.slots - 1}, got {slots.min()} to {slots.max()}")
        weights = self._weights
        mixed = np.empty((len(self.tasks), len(slots), self._states.shape[3]), np.float32)
        _take(
            slots, rows, self._states, self._logits, self._packets, self.k, self._gate_input,
            weights["kernel"], weights["recurrent_kernel"], weights["bias"],
            weights["gate_kernel"], weights["gate_bias"], weights["shares"], weights["sees"], weights["gated"], mixed,
        )  # fmt: skip
        x = mixed  # [T, M, H]
        for layer in range(self._towers):
            x = np.maximum(np.matmul(x, weights[f"tower_kernel_{layer}"]) + weights[f"tower_bias_{layer}"], 0)
        scores = {}
        for number, (task, classes) in enumerate(self.tasks.items()):
            logits = x[number] @ weights[f"head_kernel_{number}"] + weights[f"head_bias_{number}"]
            scores[task] = _softmax(logits) if classes > 2 else _sigmoid(logits)
        return scores

    def reset(self, flow_slots: npt.ArrayLike) -> None:
        """Free slots, int [M], for other flows: they are as if no packet had come."""
        slots = np.asarray(flow_slots, np.int64)
        self._states[slots], self._logits[slots], self._packets[slots] = 0, 0, 0

    def packets_seen(self, flow_slots: npt.ArrayLike) -> np.ndarray:
        """Return how many packets of the flows in some slots were taken in, at most k: int32 [M]."""
        return self._packets[np.asarray(flow_slots, np.int64)]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -80, 80)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@numba.njit(nogil=True, cache=True)
def _take(
    slots: Any, packets: Any, states: Any, logits: Any, counts: Any, k: int, gate_input: int,
    kernel: Any, recurrent: Any, bias: Any, gate_kernel: Any, gate_bias: Any, shares: Any, sees: Any, gated: Any,
    mixed: Any,
) -> None:  # fmt: skip
    """Step the flows of packets [M, C]; write what every task's tower reads after each, [T, M, H].

    `states` are states and cells [slots, 2, N, H], `logits` the sums of gates without bias [slots, T, N].
    """
    experts, channels, width = kernel.shape
    units = width // 4
    tasks = shares.shape[0]
    one = np.float32(1)
    sums = np.empty(width, np.float32)
    weight = np.empty(experts, np.float32)
    for row in range(slots.shape[0]):
        slot = slots[row]
        packet = packets[row]
        place = counts[slot]
        if place < k:
            counts[slot] = place + 1
            for expert in range(experts):
                state, cell = states[slot, 0, expert], states[slot, 1, expert]
                sums[:] = bias[expert]
                for channel in range(channels):
                    value, terms = packet[channel], kernel[expert, channel]
                    for column in range(width):
                        sums[column] += value * terms[column]
                if place > 0:
                    for unit in range(units):
                        value, terms = state[unit], recurrent[expert, unit]
                        for column in range(width):
                            sums[column] += value * terms[column]
                for unit in range(units):
                    taken = one / (one + np.exp(-sums[unit]))
                    kept = one / (one + np.exp(-sums[units + unit]))
                    shown = one / (one + np.exp(-sums[3 * units + unit]))
                    cell[unit] = kept * cell[unit] + taken * np.tanh(sums[2 * units + unit])
                    state[unit] = shown * np.tanh(cell[unit])
            if gate_input != 2 or place == 0:
                first = place * channels if gate_input == 0 else 0
                for task in range(tasks):
                    if gated[task]:
                        for channel in range(channels):
                            value, terms = packet[channel], gate_kernel[task, first + channel]
                            for expert in range(experts):
                                logits[slot, task, expert] += value * terms[expert]
        seen = np.float32(counts[slot]) if gate_input == 1 else one
        for task in range(tasks):
            if gated[task]:
                largest = np.float32(-np.inf)
                for expert in range(experts):
                    weight[expert] = logits[slot, task, expert] / seen + gate_bias[task, expert]
                    if sees[task, expert] and weight[expert] > largest:
                        largest = weight[expert]
                total = np.float32(0)
                for expert in range(experts):
                    weight[expert] = np.exp(weight[expert] - largest) if sees[task, expert] else np.float32(0)
                    total += weight[expert]
                for expert in range(experts):
                    weight[expert] /= total
            else:
                weight[:] = shares[task]
            out = mixed[task, row]
            out[:] = 0
            for expert in range(experts):
                if weight[expert] != 0:
                    state = states[slot, 0, expert]
                    for unit in range(units):
                        out[unit] += weight[expert] * state[unit]
