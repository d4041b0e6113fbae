"""Cost of one inference: parameters, multiply-accumulates, time and cycles at batch 1 in one thread.

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
from flowloom.trainers.conversion import onnx_form
from flowloom.trainers.conversion.inference_form import inference_form
from flowloom.trainers.conversion.litert import LiteRTModel, convert
from flowloom.trainers.conversion.random_rows import random_rows
from flowloom.trainers.evaluation.cpu_cycles import CycleCounter
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.trees.tree_model import TreeModel

Runtime = Literal["tensorflow", "litert", "onnx"]
Form = Literal["trained", "fused"]

Part = Path | Mapping[str, Any]
"""A run, or the JSON-ready arguments of an untrained `LMMoE`, as the cost does not depend on the weights."""

REPEATS = 300
WARM_UP = 30


def measure(
    actions: Sequence[Part | Sequence[Part]], runtime: Runtime = "tensorflow", form: Form = "trained"
) -> list[dict[str, Any]]:
    """Returns the cost of each action; all are timed in turn in one single-threaded process.

    An action is the scoring of one row by one run for all of its tasks, or by several runs, such as single-task ones.
    Compare architectures in one call, with the same runtime and form, and runtimes in two calls.

    Args:
      actions: for each action a run directory or the arguments of a model, or several of them. A model that occurs in
        two actions is loaded once.
      runtime: `tensorflow`, `litert` with float weights, or `onnx` (ONNX Runtime).
      form: `trained` for the model as it was trained, `fused` for its `inference_form`.

    Returns:
      One dictionary per action: `inference_us` is the median wall time, `inference_cpu_us` the median CPU time of the
      process, `inference_p10_us` the tenth percentile of the wall time, `inference_cycles` the median of CPU cycles and
      `cycles_by` their source (`CycleCounter`). The last two are null if cycles are unknown.

    Raises:
      ValueError: if the runtime or the form does not exist.
      FlowloomError: if the process fails, with the last line of its output.
    """
    for name, value, kind in (("runtime", runtime, Runtime), ("form", form, Form)):
        if value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}")
    groups = [[action] if isinstance(action, Path | Mapping) else list(action) for action in actions]
    encoded = [json.dumps([dict(part) if isinstance(part, Mapping) else str(part) for part in g]) for g in groups]
    command = [sys.executable, "-m", "flowloom.trainers.evaluation.cost", runtime, form, *encoded]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FlowloomError(f"measuring inference failed: {done.stderr.strip().splitlines()[-1:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def time_interleaved(
    calls: Sequence[Callable[[], object]], repeats: int, cycles: Callable[[], int] = lambda: 0
) -> np.ndarray:
    """Runs all calls in turn; returns int64 [calls, repeats, (wall ns, CPU ns, cycles)]."""
    taken = np.zeros((len(calls), repeats, 3), np.int64)
    for repeat in range(repeats):
        for number, call in enumerate(calls):
            wall, cpu, cycle = time.perf_counter_ns(), time.process_time_ns(), cycles()
            call()
            after = time.perf_counter_ns(), time.process_time_ns(), cycles()
            taken[number, repeat] = np.subtract(after, (wall, cpu, cycle))
    return taken


def single_inference(model: Any, runtime: Runtime, seed: int) -> Callable[[], object]:
    """Returns a call that scores one row, for flows one of full length, for all tasks of a model."""
    row = random_rows(model, 1, seed, whole=True)
    if isinstance(model, TreeModel):
        return lambda: model(row)
    if runtime == "litert":
        return functools.partial(LiteRTModel(convert(model)).one, row)
    if runtime == "onnx":
        return functools.partial(onnx_form.ONNXModel(onnx_form.convert(model)), row)
    inputs = {name: tf.constant(value) for name, value in row.items()}
    signature = {name: tf.TensorSpec.from_tensor(tensor) for name, tensor in inputs.items()}
    forward = tf.function(lambda batch: model(batch, training=False), input_signature=[signature], autograph=False)
    return lambda: [scores.numpy() for scores in forward(inputs).values()]


def main(runtime: Runtime, form: Form, actions: Sequence[Sequence[str | dict[str, Any]]]) -> None:
    """Prints the cost of each action as a line of JSON."""
    counter = CycleCounter()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    @functools.cache
    def loaded(encoded: str) -> tuple[Any, Callable[[], object]]:
        """Returns a model and a call that runs it."""
        part = json.loads(encoded)
        run = None if isinstance(part, dict) else Run.open(part)
        model = run.load_model() if run else LMMoE(**part)
        if form == "fused" and not isinstance(model, TreeModel):
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
            "runtime": "numba" if all(isinstance(model, TreeModel) for model in action) else runtime,
            "form": form,
        }
        print(json.dumps(figures))


def _one_after_the_other(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    return calls[0] if len(calls) == 1 else lambda: [call() for call in calls]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [json.loads(action) for action in sys.argv[3:]])  # type: ignore[arg-type]
