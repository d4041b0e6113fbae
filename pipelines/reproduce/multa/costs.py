"""Costs of the networks of MULTA's figure 4, measured after all training because times differ from run to run."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowloom.pipelines.reproduce.multa.multa_experiments import CHANNELS, TOWER, K
from flowloom.pipelines.reproduce.multa.multa_grid import HAND
from flowloom.trainers.deploy.buffered_scorer import BufferedScorer
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
    """Returns LSTMs of one task each, with the given sizes."""
    return [_shape((f"task_{number}",), units=size, tower=TOWER) for number, size in enumerate(units)]


def shared_shapes(tasks: int, experts: int, units: int) -> list[Shape]:
    """Returns the LMMoE of a tuned size."""
    return [_shape(_named(tasks), experts=experts, units=units, gate_input="mean", tower=TOWER)]


def hand_shapes(tasks: int, units: int) -> list[Shape]:
    """Returns the LMMoE sized by hand."""
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
    """Returns the costs of actions: {"<runtime> <form>": {action: figures of `cost.measure`}}.

    All actions of a runtime and form alternate in one process with one thread.

    Args:
      actions: the networks that score a flow for all tasks, by name.
      forms: the names of the actions that are measured in each form.
    """
    return {
        f"{runtime} {form}": dict(
            zip(names, cost.measure([list(actions[name]) for name in names], runtime, form), strict=True)
        )
        for form, names in forms.items()
        for runtime in RUNTIMES
    }


def streaming_figures(run: Path, exported: Path, sequence: np.ndarray, length: np.ndarray) -> dict[str, Any]:
    """Measures the packet rate of a streaming scorer, and its difference from the batch model.

    Args:
      run: the run of the model.
      exported: the folder that `export` wrote.
      sequence: float32 [N, k, C], flows to stream.
      length: int32 [N].

    Returns:
      `one_by_one`, `batched`: packets per CPU second with 1 and with 256 packets per call, medians of five rounds;
      `largest_error`: between the scores after the last packet of each flow and those of the batch model.
    """
    flows = min(len(length), BATCH_PACKETS)
    sequence, length = sequence[:flows], length[:flows]
    scorer = StreamingScorer.load(exported, slots=flows)
    slots = np.arange(flows)
    streamed_scores = {task: np.zeros((flows, 1), np.float32) for task in scorer.tasks}
    for place in range(sequence.shape[1]):
        here = slots[length > place]
        for task, scores in scorer.update(here, sequence[here, place]).items():
            streamed_scores[task][here] = scores
    expected = Run.open(run).load_model()({"sequence": sequence, "length": length}, training=False)
    error = max(float(np.abs(streamed_scores[task] - np.asarray(scores)).max()) for task, scores in expected.items())
    rates = {}
    for name, size in (("one_by_one", 1), ("batched", flows)):
        streamed = slots[:STREAMED_FLOWS] if size == 1 else slots
        rates[name] = float(np.median([_rate(scorer, sequence, streamed, size) for _ in range(ROUNDS)]))
    return {**rates, "largest_error": error, "flows": flows, "parameters": Run.open(run).summary["parameters"]}


def _rate(scorer: StreamingScorer | BufferedScorer, sequence: np.ndarray, slots: np.ndarray, size: int) -> float:
    """Returns packets per CPU second, scoring whole flows `size` packets at a time."""
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
