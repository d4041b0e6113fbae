"""What one inference costs: parameters, multiply-accumulates, and time at batch 1 in one thread.

Threads can only be limited before TensorFlow starts, so `measure` runs this module in a process of its own:
`python -m flowloom.trainers.cost RUN...` prints one JSON object per run.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.run import Run

REPEATS = 300
WARM_UP = 30


def measure(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the cost of each run's model, all timed turn by turn in one single-threaded process.

    `inference_us` is the median wall time of one flow through all tasks, `inference_cpu_us` the median CPU time of the
    whole process, `inference_p10_us` the tenth percentile of the wall time.

    Raises:
      FlowloomError: if the process fails; its last words are in the message.
    """
    command = [sys.executable, "-m", "flowloom.trainers.cost", *map(str, runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FlowloomError(f"measuring inference failed: {done.stderr.strip().splitlines()[-1:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def time_interleaved(calls: Sequence[Callable[[], object]], repeats: int) -> np.ndarray:
    """Call everything in turn, `repeats` times; return nanoseconds, int64 [calls, repeats, (wall, CPU)]."""
    taken = np.zeros((len(calls), repeats, 2), np.int64)
    for repeat in range(repeats):
        for number, call in enumerate(calls):
            wall, cpu = time.perf_counter_ns(), time.process_time_ns()
            call()
            taken[number, repeat] = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
    return taken


def single_inference(run: Run, model: Any) -> Callable[[], object]:
    """Return a call that scores one flow of full length with all tasks."""
    shape = (1, run.features.k, len(run.features.features))
    inputs = {
        "sequence": tf.random.stateless_normal(shape, (run.recipe.seed, 0)),
        "length": tf.constant([run.features.k], tf.int32),
    }
    signature = {name: tf.TensorSpec.from_tensor(tensor) for name, tensor in inputs.items()}
    forward = tf.function(lambda batch: model(batch, training=False), input_signature=[signature], autograph=False)
    return lambda: [scores.numpy() for scores in forward(inputs).values()]


def main(paths: Sequence[str]) -> None:
    """Print the cost of each run as a line of JSON."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    runs = [Run.open(path) for path in paths]
    loaded = [run.load_model() for run in runs]
    calls = [single_inference(run, model) for run, model in zip(runs, loaded, strict=True)]
    time_interleaved(calls, WARM_UP)
    taken = time_interleaved(calls, REPEATS) / 1e3
    for model, times in zip(loaded, taken, strict=True):
        wall, cpu = times.T
        figures = {
            "parameters": model.count_params(),
            "macs": model.macs,
            "inference_us": round(float(np.median(wall)), 1),
            "inference_p10_us": round(float(np.quantile(wall, 0.1)), 1),
            "inference_cpu_us": round(float(np.median(cpu)), 1),
            "repeats": REPEATS,
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
