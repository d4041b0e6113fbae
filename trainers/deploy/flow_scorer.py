"""Scores of whole flows by a mixture of LSTM experts, without TensorFlow and without padding.

Flows are sorted by length and placed side by side in the lanes of vectors, so that a step costs only the packets that
exist. The probabilities of a flow depend on its packets alone, to the bit, whichever and however many flows are beside
it. No library of linear algebra guarantees that.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from flowloom.trainers.deploy.mixture_weights import GATE_INPUTS
from flowloom.trainers.deploy.represented_packets import represented_flows, tables_of

LANES = 64
"""Flows that are read side by side; their data fits the first caches. 64 is the fastest of 32, 64 and 128."""

REPRESENTED = 4 * LANES
"""Flows that are represented at a time, as a represented packet is about ten times as wide as one in units."""


class MixtureScorer:
    """Mixture of LSTM experts that scores whole flows; it has no state between calls, so threads may share it.

    Args:
      structure: as from `streaming_structure`.
      weights: float32 arrays by name, as from `streaming_weights`.
    """

    def __init__(self, structure: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
        self.k: int = structure["k"]
        self.tasks: dict[str, int] = structure["tasks"]
        """Number of classes of each task."""
        experts, read, width = weights["kernel"].shape
        self._features: list[str] | None = structure.get("features")  # exports of 0.2 have none
        self.channels: int = read if self._features is None else len(self._features)
        self._units = width // 4
        self._gate_input = GATE_INPUTS.index(structure["gate_input"])
        self._towers: int = structure["tower_layers"]
        self._weights = weights
        # one product for packets and states, four rows of the weights at a time
        rows = read + self._units
        self._recurrence = np.zeros((experts, rows + -rows % 4, width), np.float32)
        self._recurrence[:, :read] = weights["kernel"]
        self._recurrence[:, read:rows] = weights["recurrent_kernel"]
        self._recurrence = np.ascontiguousarray(self._recurrence.transpose(0, 2, 1))  # [N, 4H, C + H]

    def __call__(self, sequence: npt.NDArray[np.float32], length: npt.NDArray[np.int32]) -> dict[str, np.ndarray]:
        """Returns the probabilities of flows.

        Args:
          sequence: float32 [B, k, C], the features of each packet, in units if the structure names `features`; padding
            is ignored.
          length: int32 [B], packets of each flow, at most k.

        Returns:
          {task: probabilities}, float32 [B, 1] for two classes, [B, classes] for more.

        Raises:
          ValueError: if the shapes do not fit.
        """
        if sequence.shape != (len(length), self.k, self.channels):
            raise ValueError(f"flows must be [B, {self.k}, {self.channels}] beside B lengths, got {sequence.shape}")
        if not len(length):
            return {task: np.empty((0, _outputs(classes)), np.float32) for task, classes in self.tasks.items()}
        if self._features is None:
            return self._scores(sequence, length)
        tables, parts = tables_of(self._features, self._weights), []
        for start in range(0, len(length), REPRESENTED):
            some = slice(start, start + REPRESENTED)
            packets = represented_flows(sequence[some], length[some], self._features, tables)
            parts.append(self._scores(packets, length[some]))
        return {task: np.concatenate([part[task] for part in parts]) for task in self.tasks}

    def _scores(self, sequence: npt.NDArray[np.float32], length: npt.NDArray[np.int32]) -> dict[str, np.ndarray]:
        """Returns the probabilities of at least one flow from the packets that the experts read, [B, k, D]."""
        order = np.argsort(-length, kind="stable")
        lanes = len(order) + -len(order) % LANES
        # lanes without a flow have length 0
        lengths = np.zeros(lanes, np.int32)
        lengths[: len(order)] = length[order]
        weights = self._weights
        experts = len(self._recurrence)
        states = np.zeros((experts, self._units, lanes), np.float32)
        logits = np.zeros((len(self.tasks), experts, lanes), np.float32)
        _read(
            sequence, lengths, order, self._gate_input, self._recurrence, weights["bias"],
            weights["gate_kernel"], weights["gated"], states, logits,
        )  # fmt: skip
        mixed = np.zeros((len(self.tasks), self._units, lanes), np.float32)
        seen = np.maximum(lengths, 1) if self._gate_input == 1 else np.ones(lanes, np.int32)
        _mix(
            states, logits, seen.astype(np.float32), weights["gate_bias"], weights["shares"], weights["sees"],
            weights["gated"], mixed,
        )  # fmt: skip
        scores = {}
        for number, (task, classes) in enumerate(self.tasks.items()):
            x = mixed[number]  # [H, lanes]
            for layer in range(self._towers):
                kernel, bias = weights[f"tower_kernel_{layer}"][number], weights[f"tower_bias_{layer}"][number, 0]
                x = np.maximum(_dense(x, kernel, bias), 0)  # [width, lanes]
            x = _dense(x, weights[f"head_kernel_{number}"], weights[f"head_bias_{number}"])  # [1 or classes, lanes]
            _probabilities(x)
            scores[task] = np.empty((len(order), _outputs(classes)), np.float32)
            scores[task][order] = x[:, : len(order)].T
        return scores


def _outputs(classes: int) -> int:
    return classes if classes > 2 else 1


_LOG2_E = np.float32(1 / np.log(2))
_LN_2 = np.float32(np.log(2))
_ROUNDING = np.float32(1.5 * 2**23)
"""Added to a float32 below 2^22 and subtracted again, it leaves the nearest integer."""
_LARGEST = np.float32(80.0)
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1 / each) for each in (2, 6, 24, 120, 720, 5040))
_ONE, _TWO = np.float32(1), np.float32(2)
_CONTRACT = {"contract"}  # allows fused multiply-add, but no other order of operations


@numba.njit(nogil=True, inline="always", fastmath=_CONTRACT, error_model="numpy")
def _exp(x: Any) -> Any:
    """Returns e^x with a relative error of 2e-7, x clipped to -80 to 80, in operations that compilers vectorise."""
    x = min(max(x, -_LARGEST), _LARGEST)
    halves = (x * _LOG2_E + _ROUNDING) - _ROUNDING
    rest = x - halves * _LN_2  # at most ln(2) / 2: seven terms of the series leave 5e-9
    series = _C6 + rest * _C7
    series = _C5 + rest * series
    series = _C4 + rest * series
    series = _C3 + rest * series
    series = _C2 + rest * series
    series = _ONE + rest * series
    series = _ONE + rest * series
    return series * np.int32((np.int32(halves) + 127) << 23).view(np.float32)


@numba.njit(nogil=True, inline="always", fastmath=_CONTRACT, error_model="numpy")
def _sigmoid(x: Any) -> Any:
    return _ONE / (_ONE + _exp(-x))


@numba.njit(nogil=True, inline="always", fastmath=_CONTRACT, error_model="numpy")
def _tanh(x: Any) -> Any:
    return _TWO / (_ONE + _exp(-_TWO * x)) - _ONE


@numba.njit(nogil=True, cache=True, fastmath=_CONTRACT, error_model="numpy")
def _read(
    sequence: Any, lengths: Any, order: Any, gate_input: int, recurrence: Any, bias: Any,
    gate_kernel: Any, gated: Any, states: Any, logits: Any,
) -> None:  # fmt: skip
    """Computes the experts' states [N, H, lanes] and the sums of the gates without bias [T, N, lanes].

    Lanes are sorted by descending length.
    """
    channels = sequence.shape[2]
    experts, width, rows = recurrence.shape
    units = width // 4
    seen = np.empty((experts, rows, LANES), np.float32)  # the packet's features, then the states
    cells = np.empty((experts, units, LANES), np.float32)
    sums = np.empty((width, LANES), np.float32)
    for first in range(0, len(lengths), LANES):
        seen[:] = 0
        cells[:] = 0
        there = LANES
        for step in range(lengths[first]):
            while lengths[first + there - 1] <= step:
                there -= 1
            for lane in range(there):
                packet = sequence[order[first + lane], step]
                for channel in range(channels):
                    seen[0, channel, lane] = packet[channel]
            for expert in range(1, experts):
                seen[expert, :channels] = seen[0, :channels]
            lanes = (there + 7) // 8 * 8
            for expert in range(experts):
                _multiply(recurrence[expert], bias[expert], seen[expert], sums, lanes)
                _step(sums, cells[expert], seen[expert, channels : channels + units], lanes)
            if gate_input != 2 or step == 0:
                place = step * channels if gate_input == 0 else 0
                for task in range(len(gated)):
                    if gated[task]:
                        for channel in range(channels):
                            terms = gate_kernel[task, place + channel]
                            for expert in range(experts):
                                _add(logits[task, expert, first : first + there], terms[expert], seen[0, channel])
            ending = there
            while ending > 0 and lengths[first + ending - 1] == step + 1:
                ending -= 1
            for expert in range(experts):
                for unit in range(units):
                    for lane in range(ending, there):
                        states[expert, unit, first + lane] = seen[expert, channels + unit, lane]


@numba.njit(nogil=True, cache=True, fastmath=_CONTRACT, error_model="numpy")
def _multiply(kernel: Any, bias: Any, seen: Any, sums: Any, lanes: int) -> None:
    """Writes kernel [4H, M] times seen [M, lanes] plus bias to sums; M is a multiple of 4."""
    columns, rows = kernel.shape
    for column in range(columns):
        out, weights = sums[column], kernel[column]
        start = bias[column]
        for lane in range(lanes):
            out[lane] = start
        for row in range(0, rows, 4):
            a, b, c, d = weights[row], weights[row + 1], weights[row + 2], weights[row + 3]
            first, second, third, fourth = seen[row], seen[row + 1], seen[row + 2], seen[row + 3]
            for lane in range(lanes):
                out[lane] += a * first[lane] + b * second[lane] + c * third[lane] + d * fourth[lane]


@numba.njit(nogil=True, cache=True, fastmath=_CONTRACT, error_model="numpy")
def _step(sums: Any, cells: Any, states: Any, lanes: int) -> None:
    """Steps cells and states, [H, lanes], by the sums of their gates, in Keras' order i, f, c, o."""
    units = len(cells)
    for unit in range(units):
        cell, state = cells[unit], states[unit]
        # sums of the input, forget, candidate and output gates
        i, f, c, o = sums[unit], sums[units + unit], sums[2 * units + unit], sums[3 * units + unit]
        for lane in range(lanes):
            cell[lane] = _sigmoid(f[lane]) * cell[lane] + _sigmoid(i[lane]) * _tanh(c[lane])
        for lane in range(lanes):
            state[lane] = _sigmoid(o[lane]) * _tanh(cell[lane])


@numba.njit(nogil=True, cache=True, fastmath=_CONTRACT, error_model="numpy")
def _add(out: Any, weight: Any, values: Any) -> None:
    for lane in range(len(out)):
        out[lane] += weight * values[lane]


@numba.njit(nogil=True, cache=True, fastmath=_CONTRACT, error_model="numpy")
def _mix(states: Any, logits: Any, seen: Any, gate_bias: Any, shares: Any, sees: Any, gated: Any, mixed: Any) -> None:
    """Writes the input of every tower, [T, H, lanes], by the gates' softmax or fixed shares."""
    experts, units, lanes = states.shape
    weights = np.empty((experts, lanes), np.float32)
    total = np.empty(lanes, np.float32)
    for task in range(len(gated)):
        if gated[task]:
            total[:] = -np.inf
            for expert in range(experts):
                if sees[task, expert]:
                    for lane in range(lanes):
                        weights[expert, lane] = logits[task, expert, lane] / seen[lane] + gate_bias[task, expert]
                        total[lane] = max(total[lane], weights[expert, lane])
            for expert in range(experts):
                if sees[task, expert]:
                    for lane in range(lanes):
                        weights[expert, lane] = _exp(weights[expert, lane] - total[lane])
            total[:] = 0
            for expert in range(experts):
                if sees[task, expert]:
                    for lane in range(lanes):
                        total[lane] += weights[expert, lane]
        else:
            total[:] = 1
            for expert in range(experts):
                weights[expert] = shares[task, expert]
        for expert in range(experts):
            if sees[task, expert]:
                for lane in range(lanes):
                    weights[expert, lane] /= total[lane]
                for unit in range(units):
                    out, state = mixed[task, unit], states[expert, unit]
                    for lane in range(lanes):
                        out[lane] += weights[expert, lane] * state[lane]


@numba.njit(nogil=True, cache=True, fastmath=_CONTRACT, error_model="numpy")
def _dense(x: Any, kernel: Any, bias: Any) -> Any:
    """Returns a dense layer of x [in, lanes], kernel [in, out]: [out, lanes]."""
    out = np.empty((kernel.shape[1], x.shape[1]), np.float32)
    for column in range(kernel.shape[1]):
        out[column] = bias[column]
        for row in range(kernel.shape[0]):
            _add(out[column], kernel[row, column], x[row])
    return out


@numba.njit(nogil=True, cache=True, fastmath=_CONTRACT, error_model="numpy")
def _probabilities(logits: Any) -> None:
    """Replaces logits [1, lanes] by sigmoids, [classes, lanes] by softmaxes."""
    classes, lanes = logits.shape
    if classes == 1:
        for lane in range(lanes):
            logits[0, lane] = _sigmoid(logits[0, lane])
        return
    largest = logits[0].copy()
    for row in range(1, classes):
        for lane in range(lanes):
            largest[lane] = max(largest[lane], logits[row, lane])
    total = np.zeros(lanes, np.float32)
    for row in range(classes):
        for lane in range(lanes):
            logits[row, lane] = _exp(logits[row, lane] - largest[lane])
            total[lane] += logits[row, lane]
    for row in range(classes):
        for lane in range(lanes):
            logits[row, lane] /= total[lane]
