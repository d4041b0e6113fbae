"""Scores after every packet by pooled networks, which read a buffer of each flow's first packets again."""

from typing import Any

import numpy as np
import numpy.typing as npt

from flowloom.trainers.deploy.pooled_scorer import PooledScorer


class BufferedScorer:
    """FlowNet, or a mixture of pooled experts, that scores flows packet by packet; `StreamingScorer.load` makes it.

    A convolution reads packets that follow, so a new packet changes what the network makes of those before it. The
    first k packets of each open flow are kept, 4 k C bytes, and read again after each packet. Packets behind the k-th
    cost one reading too, as their scores are asked for.

    Args:
      structure: as from `streaming_structure`, with pooled experts.
      weights: float32 arrays by name, as from `streaming_weights`.
      slots: largest number of flows that are open at a time.

    Raises:
      ValueError: if `slots` is below 1.
    """

    def __init__(self, structure: dict[str, Any], weights: dict[str, np.ndarray], slots: int = 65_536) -> None:
        if slots < 1:
            raise ValueError(f"slots must be >= 1, got {slots}")
        self._forward = PooledScorer(structure, weights)
        self.k, self.tasks, self.channels = self._forward.k, self._forward.tasks, self._forward.channels
        self.slots = slots
        self._buffers = np.zeros((slots, self.k, self.channels), np.float32)
        self._packets = np.zeros(slots, np.int32)

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
        check_slots(slots, self.slots)
        flows = np.zeros((len(slots), self.k, self.channels), np.float32)
        lengths = np.zeros(len(slots), np.int32)
        for at, (slot, packet) in enumerate(zip(slots.tolist(), rows, strict=True)):
            if (place := self._packets[slot]) < self.k:
                self._buffers[slot, place] = packet
                self._packets[slot] = place + 1
            flows[at], lengths[at] = self._buffers[slot], self._packets[slot]
        return self._forward(flows, lengths)

    def reset(self, flow_slots: npt.ArrayLike) -> None:
        """Frees slots, int [M], for other flows."""
        slots = np.asarray(flow_slots, np.int64)
        self._buffers[slots], self._packets[slots] = 0, 0

    def packets_seen(self, flow_slots: npt.ArrayLike) -> np.ndarray:
        """Returns the number of packets read from the flows in some slots, at most k: int32 [M]."""
        return self._packets[np.asarray(flow_slots, np.int64)]


def checked_packets(
    flow_slots: npt.ArrayLike, packets: npt.ArrayLike, channels: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Returns slots [M] and packets [M, C] as contiguous arrays.

    Raises:
      ValueError: naming the shapes.
    """
    slots = np.ascontiguousarray(flow_slots, np.int64)
    rows = np.ascontiguousarray(packets, np.float32)
    if slots.ndim != 1 or rows.shape != (len(slots), channels):
        raise ValueError(f"packets must be [M, {channels}] beside M flow slots, got {rows.shape} and {slots.shape}")
    return slots, rows


def check_slots(slots: np.ndarray, count: int) -> None:
    """Raises unless all slots are from 0 to count - 1.

    Raises:
      ValueError: naming the least and the largest slot.
    """
    if len(slots) and not 0 <= slots.min() <= slots.max() < count:
        raise ValueError(f"flow slots must be from 0 to {count - 1}, got {slots.min()} to {slots.max()}")
