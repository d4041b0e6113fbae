"""What one inference costs: parameters, multiply-accumulates, time and cycles at batch 1 in one thread.

Threads can only be limited before TensorFlow starts, so `measure` runs this module in a process of its own:
`python -m flowloom.trainers.evaluation.cost RUNTIME FORM ACTION...` prints one JSON object per action.
"""

import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.conversion.inference_form import inference_form
from flowloom.trainers.conversion.litert import LiteRTModel, convert
from flowloom.trainers.conversion.random_rows import random_rows
from flowloom.trainers.evaluation.cpu_cycles import CycleCounter
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.recipes.run_directory import Run

Runtime = Literal["tensorflow", "litert"]
Form = Literal["trained", "fused"]

Part = Path | Mapping[str, Any]
"""A run, or the JSON-ready arguments of an untrained `LMMoE`: what a model costs does not depend on its weights."""

REPEATS = 300
WARM_UP = 30


def measure(
    actions: Sequence[Part | Sequence[Part]], runtime: Runtime = "tensorflow", form: Form = "trained"
) -> list[dict[str, Any]]:
    """Return what each action costs, all timed turn by turn in one single-threaded process.

    An action is a run whose model scores one flow for all of its tasks, or several runs that each score the same flow,
    such as single-task ones. What two architectures differ by shows in one call of one runtime and one form; what a
    runtime is worth, in two calls.

    Args:
      actions: per action a run directory or the arguments of a model, or several of them. What occurs in two actions
        is one model.
      runtime: `tensorflow`, or `litert` with float weights.
      form: the model as it was `trained`, or its inference form, `fused` (`inference_form`).

    Returns:
      `inference_us` is the median wall time of the action, `inference_cpu_us` the median CPU time of the whole process,
      `inference_p10_us` the tenth percentile of the wall time, `inference_cycles` the median of CPU cycles, and
      `cycles_by` how they were found (`CycleCounter`); both are null where they cannot be.

    Raises:
      ValueError: if there is no such runtime or form.
      FlowloomError: if the process fails; its last words are in the message.
    """
    for name, value, kind in (("runtime", runtime, Runtime), ("form", form, Form)):
        if value not in get_args(kind):
            raise ValueError(f"{name} must be {' or '.join(get_args(kind))}, got {value!r}")
    groups = [[action] if isinstance(action, Path | Mapping) else list(action) for action in actions]
    words = [json.dumps([dict(part) if isinstance(part, Mapping) else str(part) for part in g]) for g in groups]
    command = [sys.executable, "-m", "flowloom.trainers.evaluation.cost", runtime, form, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FlowloomError(f"measuring inference failed: {done.stderr.strip().splitlines()[-1:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def time_interleaved(
    calls: Sequence[Callable[[], object]], repeats: int, cycles: Callable[[], int] = lambda: 0
) -> np.ndarray:
    """Call everything in turn, `repeats` times; return int64 [calls, repeats, (wall ns, CPU ns, cycles)]."""
    taken = np.zeros((len(calls), repeats, 3), np.int64)
    for repeat in range(repeats):
        for number, call in enumerate(calls):
            wall, cpu, cycle = time.perf_counter_ns(), time.process_time_ns(), cycles()
            call()
            after = time.perf_counter_ns(), time.process_time_ns(), cycles()
            taken[number, repeat] = np.subtract(after, (wall, cpu, cycle))
    return taken


def single_inference(model: Any, runtime: Runtime, seed: int) -> Callable[[], object]:
    """Return a call that scores one row, a flow of full length, with all tasks of a model."""
    row = random_rows(model, 1, seed, whole=True)
    if runtime == "litert":
        return functools.partial(LiteRTModel(convert(model)).one, row)
    inputs = {name: tf.constant(value) for name, value in row.items()}
    signature = {name: tf.TensorSpec.from_tensor(tensor) for name, tensor in inputs.items()}
    forward = tf.function(lambda batch: model(batch, training=False), input_signature=[signature], autograph=False)
    return lambda: [scores.numpy() for scores in forward(inputs).values()]


def main(runtime: Runtime, form: Form, actions: Sequence[Sequence[str | dict[str, Any]]]) -> None:
    """Print the cost of each action as a line of JSON."""
    counter = CycleCounter()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    @functools.cache
    def loaded(word: str) -> tuple[Any, Callable[[], object]]:
        """Return a model, and a call of it."""
        part = json.loads(word)
        run = None if isinstance(part, dict) else Run.open(part)
        model = run.load_model() if run else LMMoE(**part)
        if form == "fused":
            model = inference_form(model)
        return model, single_inference(model, runtime, run.recipe.seed if run else 0)

    models, calls = [], []
    for parts in actions:
        found = [loaded(json.dumps(part)) for part in parts]
        models.append([model for model, _ in found])
        calls.append(_one_after_the_other([call for _, call in found]))
    time_interleaved(calls, WARM_UP)
    taken = time_interleaved(calls, REPEATS, counter.read)
    for action, times in zip(models, taken, strict=True):
        wall, cpu, cycles = times.T
        figures = {
            "parameters": sum(model.count_params() for model in action),
            "macs": sum(model.macs for model in action),
            "inference_us": round(float(np.median(wall)) / 1e3, 1),
            "inference_p10_us": round(float(np.quantile(wall, 0.1)) / 1e3, 1),
            "inference_cpu_us": round(float(np.median(cpu)) / 1e3, 1),
            "inference_cycles": int(np.median(cycles)) if counter.source else None,
            "cycles_by": counter.source,
            "repeats": REPEATS,
            "runtime": runtime,
            "form": form,
        }
        print(json.dumps(figures))


def _one_after_the_other(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    return calls[0] if len(calls) == 1 else lambda: [call() for call in calls]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [json.loads(word) for word in sys.argv[3:]])  # type: ignore[arg-type]
