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
from flowloom.trainers.deploy.export_layout import CONTRACT, WEIGHTS


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
        self._weights = [weights[name] for name in _ARRAYS]
        self._dense, self._widths = _dense_layers(weights, structure["tower_layers"], len(self.tasks))
        self._outputs = np.array([1 if classes == 2 else classes for classes in self.tasks.values()])
        ends = np.cumsum(self._outputs).tolist()
        self._places = {
            task: slice(end - outputs, end)
            for task, end, outputs in zip(self.tasks, ends, self._outputs.tolist(), strict=True)
        }
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
        # one call of one kernel: of a packet alone, every array operation beside it would cost as much as its step
        scores = np.empty((len(slots), sum(self._outputs)), np.float32)
        known = _take(
            slots, rows, self._states, self._logits, self._packets, self.k, self._gate_input, *self._weights,
            self._dense, self._widths, self._outputs, scores,
        )  # fmt: skip
        if not known:
            raise ValueError(f"flow slots must be from 0 to {self.slots - 1}, got {slots.min()} to {slots.max()}")
        return {task: scores[:, place] for task, place in self._places.items()}

    def reset(self, flow_slots: npt.ArrayLike) -> None:
        """Free slots, int [M], for other flows: they are as if no packet had come."""
        slots = np.asarray(flow_slots, np.int64)
        self._states[slots], self._logits[slots], self._packets[slots] = 0, 0, 0

    def packets_seen(self, flow_slots: npt.ArrayLike) -> np.ndarray:
        """Return how many packets of the flows in some slots were taken in, at most k: int32 [M]."""
        return self._packets[np.asarray(flow_slots, np.int64)]


_ARRAYS = ("kernel", "recurrent_kernel", "bias", "gate_kernel", "gate_bias", "shares", "sees", "gated")
"""The weights of experts and gates, in the order of the kernel's arguments."""


def _dense_layers(weights: dict[str, np.ndarray], towers: int, tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return towers and heads, task by task and layer by layer kernel and bias in a row, and the widths of the towers.

    The first width is that of an expert.
    """
    parts = []
    for task in range(tasks):
        for layer in range(towers):
            parts += [weights[f"tower_kernel_{layer}"][task], weights[f"tower_bias_{layer}"][task]]
        parts += [weights[f"head_kernel_{task}"], weights[f"head_bias_{task}"]]
    widths = [weights["kernel"].shape[2] // 4, *(weights[f"tower_kernel_{n}"].shape[2] for n in range(towers))]
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32), np.array(widths)


@numba.njit(nogil=True, cache=True)
def _take(
    slots: Any, packets: Any, states: Any, logits: Any, counts: Any, k: int, gate_input: int,
    kernel: Any, recurrent: Any, bias: Any, gate_kernel: Any, gate_bias: Any, shares: Any, sees: Any, gated: Any,
    dense: Any, widths: Any, outputs: Any, scores: Any,
) -> bool:  # fmt: skip
    """Step the flows of packets [M, C] and write the scores of all tasks after each, [M, outputs].

    `states` are states and cells [slots, 2, N, H], `logits` the sums of gates without bias [slots, T, N].

    Returns:
      Whether all slots exist; else nothing has changed.
    """
    for row in range(slots.shape[0]):
        if not 0 <= slots[row] < states.shape[0]:
            return False
    experts, channels, width = kernel.shape
    units = width // 4
    tasks = shares.shape[0]
    one = np.float32(1)
    sums = np.empty(width, np.float32)
    weight = np.empty(experts, np.float32)
    widest = max(widths.max(), outputs.max())
    x, y = np.empty(widest, np.float32), np.empty(widest, np.float32)
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
        layer, column = 0, 0  # places in `dense` and of the scores
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
            x[:units] = 0
            for expert in range(experts):
                if weight[expert] != 0:
                    state = states[slot, 0, expert]
                    for unit in range(units):
                        x[unit] += weight[expert] * state[unit]
            for tower in range(1, widths.shape[0]):
                layer = _layer(dense, layer, x, widths[tower - 1], y, widths[tower])
                for unit in range(widths[tower]):
                    x[unit] = max(y[unit], np.float32(0))
            layer = _layer(dense, layer, x, widths[-1], y, outputs[task])
            _probabilities(y, outputs[task], scores[row, column:])
            column += outputs[task]
    return True


@numba.njit(nogil=True, cache=True)
def _layer(dense: Any, at: int, x: Any, inputs: int, y: Any, outputs: int) -> int:
    """Write x [inputs] times the kernel at a place of `dense` plus the bias behind it; return the place behind both."""
    bias = at + inputs * outputs
    for column in range(outputs):
        y[column] = dense[bias + column]
    for row in range(inputs):
        for column in range(outputs):
            y[column] += x[row] * dense[at + row * outputs + column]
    return bias + outputs


@numba.njit(nogil=True, cache=True)
def _probabilities(logits: Any, outputs: int, scores: Any) -> None:
    """Write the sigmoid of one output, the softmax of more."""
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
