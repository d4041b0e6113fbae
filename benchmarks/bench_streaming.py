"""Packets that a streaming scorer takes in a second on one core, beside scoring the whole flow after each packet."""

import os
import time

import numpy as np
from measure import report

from flowloom.trainers.conversion.lstm_weights import streaming_structure, streaming_weights
from flowloom.trainers.deploy.packet_scorer import StreamingScorer
from flowloom.trainers.models.lmmoe import LMMoE

K, C = 20, 18
TASKS = dict.fromkeys(("a", "b", "c"), 2)
FLOWS = 1024
ROUNDS = 5


def main() -> None:
    """Prints packets per second of CPU time, one by one and 256 at a time, by experts, width and gates."""
    os.sched_setaffinity(0, {0})
    packets = np.random.default_rng(1).normal(size=(K, FLOWS, C)).astype(np.float32)
    for experts, units, gate_input in ((1, 8, "mean"), (1, 32, "mean"), (2, 32, "mean"), (2, 32, "flatten")):
        model = LMMoE(K, C, TASKS, experts=experts, units=units, gate_input=gate_input)
        scorer = StreamingScorer(streaming_structure(model), streaming_weights(model), FLOWS)
        rates = {size: [_rate(scorer, packets, size) for _ in range(ROUNDS)] for size in (1, 256)}
        report(
            "streaming",
            experts=experts,
            units=units,
            gate_input=gate_input,
            packets_per_cpu_second_one_by_one=float(np.median(rates[1])),
            packets_per_cpu_second_by_256=float(np.median(rates[256])),
        )


def _rate(scorer: StreamingScorer, packets: np.ndarray, size: int) -> float:
    """Returns packets per second of CPU time, in batches of `size`, over all flows of `packets`."""
    flows = packets.shape[1] if size > 1 else 64
    scorer.reset(np.arange(flows))
    slots = np.arange(flows)
    began = time.process_time()
    for place in range(K):
        for first in range(0, flows, size):
            scorer.update(slots[first : first + size], packets[place, first : first + size])
    return K * flows / (time.process_time() - began)


if __name__ == "__main__":
    main()
