"""C source of trees and linear models: tables of numbers, and one function of columns for each task."""

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.trees.linear_arrays import LinearModel
from flowloom.trainers.trees.tree_arrays import TreeEnsemble
from flowloom.trainers.trees.tree_model import TreeModel

MOST_NODES = 1_000_000
"""Nodes above which compilers need minutes and gigabytes."""
_HEAD = """/* Written by Flowloom. Each function reads `columns`, whose names are in features.json, and writes the
   probability of each class of its task. Compile with -ffp-contract=off for the last bit of the probabilities. */
#include <math.h>

static void flowloom_softmax(double *sums, int classes) {
    double largest = sums[0], total = 0.0;
    for (int c = 1; c < classes; c++) if (sums[c] > largest) largest = sums[c];
    for (int c = 0; c < classes; c++) { sums[c] = exp(sums[c] - largest); total += sums[c]; }
    for (int c = 0; c < classes; c++) sums[c] /= total;
}
"""
_TREES = """
void {function}(const float *columns, double *probabilities) {{
    for (int c = 0; c < {classes}; c++) probabilities[c] = {p}_base[c];
    for (int t = 0; t < {trees}; t++) {{
        int n = {p}_roots[t];
        while ({p}_feature[n] >= 0) n = columns[{p}_feature[n]] <= {p}_threshold[n] ? {p}_left[n] : {p}_right[n];
        for (int e = {p}_left[n]; e < {p}_right[n]; e++) probabilities[{p}_output[e]] += {p}_value[e];
    }}
    {end}
}}
"""
_LINEAR = """
void {function}(const float *columns, double *probabilities) {{
    for (int c = 0; c < {classes}; c++) probabilities[c] = {p}_bias[c];
    for (int i = 0; i < {columns}; i++) {{
        double x = ((double)columns[i] - {p}_shift[i]) * {p}_scale[i];
        for (int c = 0; c < {classes}; c++) probabilities[c] += x * {p}_weights[i * {classes} + c];
    }}
    flowloom_softmax(probabilities, {classes});
}}
"""


def c_functions(model: TreeModel) -> dict[str, str]:
    """Returns the name of the C function of each task."""
    return {
        task: f"predict_{number}_{re.sub('[^A-Za-z0-9]', '_', task)}" for number, task in enumerate(model.estimators)
    }


def write_c(model: TreeModel, path: Path) -> None:
    """Writes a model as C99 source without dependencies but libm.

    Raises:
      FlowloomError: if it has more than `MOST_NODES` nodes.
    """
    nodes = sum(len(each.feature) for each in model.estimators.values() if isinstance(each, TreeEnsemble))
    if nodes > MOST_NODES:
        raise FlowloomError(
            f"format c must have at most {MOST_NODES:,} nodes, got {nodes:,}; train with fewer trees or a larger "
            "model.leaf_rows, or export another format"
        )
    with path.open("w", encoding="ascii") as file:
        file.write(_HEAD)
        for task, function in c_functions(model).items():
            file.writelines(_task_source(function, model.estimators[task], len(model.columns.names)))


def _task_source(function: str, estimator: TreeEnsemble | LinearModel, columns: int) -> Iterator[str]:
    prefix = f"of_{function.removeprefix('predict_')}"
    for name, array in estimator.arrays.items():
        c_type = {"float32": "float", "float64": "double", "int32": "int"}[array.dtype.name]
        suffix = "f" if c_type == "float" else ""
        numbers = [_number(value, suffix) for value in array.ravel().tolist()] or ["0"]
        yield f"\nstatic const {c_type} {prefix}_{name}[] = {{\n"
        yield from (", ".join(numbers[at : at + 16]) + ",\n" for at in range(0, len(numbers), 16))
        yield "};\n"
    if isinstance(estimator, LinearModel):
        yield _LINEAR.format(function=function, p=prefix, classes=len(estimator.bias), columns=columns)
        return
    classes = len(estimator.base)
    end = (
        f"for (int c = 0; c < {classes}; c++) probabilities[c] /= {len(estimator.roots)};"
        if estimator.link == "mean"
        else f"flowloom_softmax(probabilities, {classes});"
    )
    yield _TREES.format(function=function, p=prefix, classes=classes, trees=len(estimator.roots), end=end)


def _number(value: float, suffix: str) -> str:
    """Returns a number as C writes it, floats as hexadecimal ones, so that no bit is lost."""
    if isinstance(value, int):
        return str(value)
    return "-INFINITY" if value == -np.inf else f"{value.hex()}{suffix}"


def run_c(path: Path, model: TreeModel, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Compiles the source of a model and returns its probabilities of rows, float64 [N, classes] by task.

    Raises:
      FlowloomError: if there is no C compiler, or it fails.
    """
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise FlowloomError(
            "format c needs a C compiler (cc, gcc or clang) to check the source against the model, got none; install "
            "one, or export another format"
        )
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "model.so"
        command: list[str | Path] = [
            compiler,
            "-std=c99",
            "-O1",
            "-ffp-contract=off",
            "-shared",
            "-fPIC",
            "-o",
            library,
            path,
            "-lm",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FlowloomError(f"{path} cannot be compiled: {done.stderr.strip().splitlines()[-1:]}; please report it")
        loaded, found = ctypes.CDLL(str(library)), dict[str, np.ndarray]()
        rows = np.ascontiguousarray(rows, np.float32)
        for task, function in c_functions(model).items():
            estimator = model.estimators[task]
            classes = estimator.classes
            found[task] = np.empty((len(rows), classes))
            for row, out in zip(rows, found[task], strict=True):
                getattr(loaded, function)(row.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p))
    return found
