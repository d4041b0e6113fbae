"""Scores after every packet: keeps the LSTM states of many flows and steps them packet by packet, without TensorFlow.

A batch model reads a flow from its first packet each time. Here a packet costs one step of each expert, whatever its
place in the flow. The gates are exact too: a gate on all packets adds each packet's part to its logits, a gate on their
mean divides that sum by their number, and a gate on the first packet reads it once. Packets in units are first
represented.
"""

from pathlib import Path
from typing import Any, Self

import numba
import numpy as np
import numpy.typing as npt

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.deploy.buffered_scorer import BufferedScorer, check_slots, checked_packets
from flowloom.trainers.deploy.export_layout import read_contract
from flowloom.trainers.deploy.mixture_weights import GATE_INPUTS, read_mixture
from flowloom.trainers.deploy.represented_packets import represented, tables_of


class StreamingScorer:
    """Mixture of LSTM experts that scores flows packet by packet; load an export with `StreamingScorer.load`.

    Args:
      structure: as from `streaming_structure`.
      weights: float32 arrays by name, as from `streaming_weights`.
      slots: largest number of flows that are open at a time.

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
        self._gate_input = GATE_INPUTS.index(structure["gate_input"])
        self._weights = [weights[name] for name in _ARRAYS]
        self._dense, self._widths = _dense_layers(weights, structure["tower_layers"], len(self.tasks))
        self._outputs = np.array([1 if classes == 2 else classes for classes in self.tasks.values()])
        ends = np.cumsum(self._outputs).tolist()
        self._places = {
            task: slice(end - outputs, end)
            for task, end, outputs in zip(self.tasks, ends, self._outputs.tolist(), strict=True)
        }
        experts, read, width = weights["kernel"].shape
        self._features: list[str] | None = structure.get("features")  # exports of 0.2 have none
        self.channels: int = read if self._features is None else len(self._features)
        self._tables = {} if self._features is None else tables_of(self._features, weights)
        self._states = np.zeros((slots, 2, experts, width // 4), np.float32)
        self._logits = np.zeros((slots, len(self.tasks), experts), np.float32)
        self._packets = np.zeros(slots, np.int32)

    @classmethod
    def load(cls, path: str | Path, slots: int = 65_536) -> Self | BufferedScorer:
        """Returns the scorer for a folder that `flowloom export` wrote; pooled networks have a `BufferedScorer`.

        Raises:
          FlowloomError: if the folder has no export, a damaged one, or one of a model that cannot be streamed.
        """
        root = Path(path)
        try:
            contract = read_contract(root)
            streaming = contract["streaming"]
        except FlowloomError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise FlowloomError(f"{root} has no export ({error}); make one with `flowloom export`") from None
        if "structure" not in streaming:
            raise FlowloomError(f"the model of {root} cannot be streamed: {streaming['reason']}; score whole flows")
        structure, weights = read_mixture(root, contract)
        return (BufferedScorer if structure.get("pooled") else cls)(structure, weights, slots)

    def update(self, flow_slots: npt.ArrayLike, packets: npt.ArrayLike) -> dict[str, np.ndarray]:
        """Reads packets in their order, and returns the scores of their flows after each.

        Packets of a flow after the k-th change nothing, because the model reads the first k.

        Args:
          flow_slots: int [M], the slot of each packet's flow, below `slots`; slots may repeat.
          packets: float32 [M, C], the features of each packet, as `FeatureSpec.render` makes them.

        Returns:
          {task: probabilities}, float32 [M, 1] for two classes, [M, classes] for more.

        Raises:
          ValueError: if the shapes do not fit, or a slot does not exist.
        """
        slots, rows = checked_packets(flow_slots, packets, self.channels)
        if self._features is not None:
            check_slots(slots, self.slots)
            rows = represented(rows, self._features, self._tables, self._follows(slots))
        # one call of one kernel: for a single packet, every array operation beside it would cost as much as its step
        scores = np.empty((len(slots), sum(self._outputs)), np.float32)
        known = _update(
            slots, rows, self._states, self._logits, self._packets, self.k, self._gate_input, *self._weights,
            self._dense, self._widths, self._outputs, scores,
        )  # fmt: skip
        if not known:
            check_slots(slots, self.slots)
        return {task: scores[:, place] for task, place in self._places.items()}

    def _follows(self, slots: np.ndarray) -> np.ndarray:
        """Returns whether a packet stands behind another one of its flow, bool [M]."""
        follows = self._packets[slots] > 0
        repeated = np.ones(len(slots), bool)
        repeated[np.unique(slots, return_index=True)[1]] = False
        return follows | repeated

    def reset(self, flow_slots: npt.ArrayLike) -> None:
        """Frees slots, int [M], for other flows."""
        slots = np.asarray(flow_slots, np.int64)
        self._states[slots], self._logits[slots], self._packets[slots] = 0, 0, 0

    def packets_seen(self, flow_slots: npt.ArrayLike) -> np.ndarray:
        """Returns the number of packets read from the flows in some slots, at most k: int32 [M]."""
        return self._packets[np.asarray(flow_slots, np.int64)]


_ARRAYS = ("kernel", "recurrent_kernel", "bias", "gate_kernel", "gate_bias", "shares", "sees", "gated")
"""The weights of experts and gates, in the order of the kernel's arguments."""


def _dense_layers(weights: dict[str, np.ndarray], towers: int, tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns all towers and output layers as one array, and the widths of the towers.

    The array holds kernel and bias of each layer, task by task. The first width is that of an expert.
    """
    parts = []
    for task in range(tasks):
        for layer in range(towers):
            parts += [weights[f"tower_kernel_{layer}"][task], weights[f"tower_bias_{layer}"][task]]
        parts += [weights[f"head_kernel_{task}"], weights[f"head_bias_{task}"]]
    widths = [weights["kernel"].shape[2] // 4, *(weights[f"tower_kernel_{n}"].shape[2] for n in range(towers))]
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32), np.array(widths)


@numba.njit(nogil=True, cache=True)
def _update(
    slots: Any, packets: Any, states: Any, logits: Any, counts: Any, k: int, gate_input: int,
    kernel: Any, recurrent: Any, bias: Any, gate_kernel: Any, gate_bias: Any, shares: Any, sees: Any, gated: Any,
    dense: Any, widths: Any, outputs: Any, scores: Any,
) -> bool:  # fmt: skip
    """Steps the flows of packets [M, C] and writes the scores of all tasks after each packet, [M, outputs].

    Args:
      states: states and cells of the experts, [slots, 2, N, H].
      logits: sums of the gates without bias, [slots, T, N].
      counts: packets read, [slots].

    Returns:
      True if all slots exist; otherwise nothing has changed.
    """
    for row in range(slots.shape[0]):
        if not 0 <= slots[row] < states.shape[0]:
            return False
    sums = np.empty(kernel.shape[2], np.float32)
    weights = np.empty(kernel.shape[0], np.float32)
    widest = max(widths.max(), outputs.max())
    x, y = np.empty(widest, np.float32), np.empty(widest, np.float32)
    for row in range(slots.shape[0]):
        slot = slots[row]
        place = counts[slot]
        flow_states, flow_logits = states[slot], logits[slot]
        if place < k:
            counts[slot] = place + 1
            _step_experts(packets[row], place, kernel, recurrent, bias, flow_states, sums)
            if gate_input != 2 or place == 0:
                first = place * kernel.shape[1] if gate_input == 0 else 0
                _add_to_gates(packets[row], first, gate_kernel, gated, flow_logits)
        divisor = np.float32(counts[slot]) if gate_input == 1 else np.float32(1)
        layer, column = 0, 0  # places in `dense` and in the scores
        for task in range(shares.shape[0]):
            if gated[task]:
                _gate_weights(flow_logits[task], divisor, gate_bias[task], sees[task], weights)
            else:
                weights[:] = shares[task]
            _mix(weights, flow_states[0], x)
            for tower in range(1, widths.shape[0]):
                layer = _dense(dense, layer, x, widths[tower - 1], y, widths[tower])
                for unit in range(widths[tower]):
                    x[unit] = max(y[unit], np.float32(0))
            layer = _dense(dense, layer, x, widths[-1], y, outputs[task])
            _probabilities(y, outputs[task], scores[row, column:])
            column += outputs[task]
    return True


@numba.njit(nogil=True, inline="always")
def _step_experts(packet: Any, place: int, kernel: Any, recurrent: Any, bias: Any, states: Any, sums: Any) -> None:
    """Steps the LSTMs of all experts by a packet [C].

    `sums` [4H] is scratch memory, with the gates in the order i, f, c, o.
    """
    experts, channels, width = kernel.shape
    units = width // 4
    one = np.float32(1)
    for expert in range(experts):
        state, cell = states[0, expert], states[1, expert]
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
            input_gate = one / (one + np.exp(-sums[unit]))
            forget_gate = one / (one + np.exp(-sums[units + unit]))
            output_gate = one / (one + np.exp(-sums[3 * units + unit]))
            cell[unit] = forget_gate * cell[unit] + input_gate * np.tanh(sums[2 * units + unit])
            state[unit] = output_gate * np.tanh(cell[unit])


@numba.njit(nogil=True, inline="always")
def _add_to_gates(packet: Any, first: int, gate_kernel: Any, gated: Any, logits: Any) -> None:
    """Adds a packet [C] to the gate sums [T, N], by the kernel rows from `first` on."""
    for task in range(logits.shape[0]):
        if gated[task]:
            for channel in range(packet.shape[0]):
                value, terms = packet[channel], gate_kernel[task, first + channel]
                for expert in range(logits.shape[1]):
                    logits[task, expert] += value * terms[expert]


@numba.njit(nogil=True, inline="always")
def _gate_weights(logits: Any, divisor: Any, bias: Any, sees: Any, weights: Any) -> None:
    """Writes the softmax of a gate over the experts of its task, [N]; other weights are 0."""
    largest, total = np.float32(-np.inf), np.float32(0)
    for expert in range(len(weights)):
        weights[expert] = logits[expert] / divisor + bias[expert]
        if sees[expert] and weights[expert] > largest:
            largest = weights[expert]
    for expert in range(len(weights)):
        weights[expert] = np.exp(weights[expert] - largest) if sees[expert] else np.float32(0)
        total += weights[expert]
    for expert in range(len(weights)):
        weights[expert] /= total


@numba.njit(nogil=True, inline="always")
def _mix(weights: Any, states: Any, x: Any) -> None:
    """Writes the sum of the experts' states [N, H] by their weights [N] to the first H values of x."""
    units = states.shape[1]
    x[:units] = 0
    for expert in range(len(weights)):
        if weights[expert] != 0:
            for unit in range(units):
                x[unit] += weights[expert] * states[expert, unit]


@numba.njit(nogil=True, cache=True)
def _dense(dense: Any, at: int, x: Any, inputs: int, y: Any, outputs: int) -> int:
    """Writes a dense layer of x [inputs] to y [outputs].

    Its kernel begins at the position `at` of `dense`, its bias follows. Returns the position behind both.
    """
    bias = at + inputs * outputs
    for column in range(outputs):
        y[column] = dense[bias + column]
    for row in range(inputs):
        for column in range(outputs):
            y[column] += x[row] * dense[at + row * outputs + column]
    return bias + outputs


@numba.njit(nogil=True, cache=True)
def _probabilities(logits: Any, outputs: int, scores: Any) -> None:
    """Writes the sigmoid of one output, or the softmax of several."""
    one = np.float32(1)
    if outputs == 1:
        scores[0] = one / (one + np.exp(-min(max(logits[0], np.float32(-80)), np.float32(80))))
        return
    largest, total = logits[:outputs].max(), np.float32(0)
    for column in range(outputs):
        scores[column] = np.exp(logits[column] - largest)
        total += scores[column]
    for column in range(outputs):
        scores[column] /= total
