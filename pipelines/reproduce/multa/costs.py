"""What the networks of MULTA's figure 4 cost: measured after all training, as it is no cell of equal result."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowloom.pipelines.reproduce.multa.multa_experiments import CHANNELS, TOWER, K
from flowloom.pipelines.reproduce.multa.multa_grid import HAND
from flowloom.trainers.deploy.packet_scorer import StreamingScorer
from flowloom.trainers.evaluation import cost
from flowloom.trainers.evaluation.cost import Form, Runtime
from flowloom.trainers.recipes.run_directory import Run

RUNTIMES: tuple[Runtime, ...] = ("tensorflow", "litert")
ROUNDS = 5
STREAMED_FLOWS = 64
BATCH_PACKETS = 256

Shape = dict[str, Any]
"""The JSON-ready arguments of an `LMMoE`."""


def single_shapes(units: Sequence[int]) -> list[Shape]:
    """Return LSTMs of one task each, by their sizes."""
    return [_shape((f"task_{number}",), units=size, tower=TOWER) for number, size in enumerate(units)]


def shared_shapes(tasks: int, experts: int, units: int) -> list[Shape]:
    """Return the one LMMoE of a tuned size."""
    return [_shape(_named(tasks), experts=experts, units=units, gate_input="mean", tower=TOWER)]


def hand_shapes(tasks: int, units: int) -> list[Shape]:
    """Return the one LMMoE that is sized by hand."""
    return [_shape(_named(tasks), units=units, **HAND)]


def _named(tasks: int) -> list[str]:
    return [f"task_{number}" for number in range(tasks)]


def _shape(tasks: Sequence[str], tower: Sequence[int], **arguments: Any) -> Shape:
    return {"k": K, "channels": len(CHANNELS), "tasks": dict.fromkeys(tasks, 2), "tower": list(tower), "experts": 1} | (
        arguments
    )


def action_costs(
    actions: Mapping[str, Sequence[Shape]], forms: Mapping[Form, Sequence[str]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what actions cost: {"<runtime> <form>": {action: figures of `cost.measure`}}.

    All actions of a runtime and form take turns in one process of one thread.

    Args:
      actions: what scores a flow for all tasks, by name.
      forms: the names of those that are measured in each form.
    """
    return {
        f"{runtime} {form}": dict(
            zip(names, cost.measure([list(actions[name]) for name in names], runtime, form), strict=True)
        )
        for form, names in forms.items()
        for runtime in RUNTIMES
    }


def streaming_figures(run: Path, exported: Path, sequence: np.ndarray, length: np.ndarray) -> dict[str, Any]:
    """Return how many packets a streaming scorer takes in a second, and how far it is from the batch model.

    Args:
      run: the run of the model.
      exported: what `export` made of it.
      sequence: float32 [N, k, C], flows to stream.
      length: int32 [N].

    Returns:
      `one_by_one`, `batched`: packets of a CPU second, a packet a call and 256 a call, medians of five rounds;
      `largest_error` between the scores after the last packet of each flow and those of the batch model.
    """
    flows = min(len(length), BATCH_PACKETS)
    sequence, length = sequence[:flows], length[:flows]
    scorer = StreamingScorer.load(exported, slots=flows)
    slots = np.arange(flows)
    said = {task: np.zeros((flows, 1), np.float32) for task in scorer.tasks}
    for place in range(sequence.shape[1]):
        here = slots[length > place]
        for task, scores in scorer.update(here, sequence[here, place]).items():
            said[task][here] = scores
    expected = Run.open(run).load_model()({"sequence": sequence, "length": length}, training=False)
    error = max(float(np.abs(said[task] - np.asarray(scores)).max()) for task, scores in expected.items())
    rates = {}
    for name, size in (("one_by_one", 1), ("batched", flows)):
        streamed = slots[:STREAMED_FLOWS] if size == 1 else slots
        rates[name] = float(np.median([_rate(scorer, sequence, streamed, size) for _ in range(ROUNDS)]))
    return {**rates, "largest_error": error, "flows": flows, "parameters": Run.open(run).summary["parameters"]}


def _rate(scorer: StreamingScorer, sequence: np.ndarray, slots: np.ndarray, size: int) -> float:
    """Return packets of a CPU second, whole flows `size` packets at a time."""
    scorer.reset(slots)
    packets = [
        (slots[at : at + size], sequence[slots[at : at + size], place])
        for place in range(sequence.shape[1])
        for at in range(0, len(slots), size)
    ]
    began = time.process_time()
    for some, rows in packets:
        scorer.update(some, rows)
    return len(slots) * sequence.shape[1] / (time.process_time() - began)
