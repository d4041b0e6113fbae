"""Exported files of trees and linear models, checked against the compiled loop on rows near the thresholds."""

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from flowloom.trainers.trees.c_source import c_functions, run_c, write_c
from flowloom.trainers.trees.linear_arrays import LinearModel
from flowloom.trainers.trees.onnx_graph import COLUMNS, run_onnx, write_onnx
from flowloom.trainers.trees.tree_arrays import LEAF
from flowloom.trainers.trees.tree_model import TREES, TreeModel

TreeFormat = Literal["arrays", "c", "onnx"]
TREE_FORMATS: tuple[TreeFormat, ...] = get_args(TreeFormat)
C_FILE = "model.c"
ONNX_FILE = "model.onnx"
CHECKED_ROWS = 256


def write_tree_files(model: TreeModel, folder: Path, format: TreeFormat, seed: int) -> float:
    """Writes the arrays of a model, which scoring reads, and its form for other programs.

    Args:
      model: the model of a run.
      folder: an empty folder.
      format: `arrays` alone, or also C source (`c`) or an ONNX graph (`onnx`), which read columns.
      seed: of the rows of the check.

    Returns:
      the largest difference of a probability between the written forms and the model, on random rows.

    Raises:
      FlowloomError: if a library or a compiler is missing, or the model is too large for the format.
    """
    model.save(folder / TREES)
    classes = {task: estimator.classes for task, estimator in model.estimators.items()}
    rows = rows_near_thresholds(model, CHECKED_ROWS, seed)
    expected = model.predict(rows)
    found = [TreeModel.load(folder / TREES, model.features, classes).predict(rows)]
    if format == "onnx":
        write_onnx(model, folder / ONNX_FILE)
        found.append(run_onnx(folder / ONNX_FILE, rows))
    if format == "c":
        write_c(model, folder / C_FILE)
        given = run_c(folder / C_FILE, model, rows)
        single = {task: each.astype(np.float32) for task, each in given.items()}
        found.append({task: each[:, 1:] if each.shape[1] == 2 else each for task, each in single.items()})
    errors = [np.abs(each[task] - expected[task]).max() for each in found for task in expected]
    return float(np.max(errors))


def tree_contract(model: TreeModel, format: TreeFormat) -> dict[str, Any]:
    """Returns the part of an export's contract that other programs need: the columns, and the names in the file."""
    contract: dict[str, Any] = {"columns": list(model.columns.names), "flow_columns": model.flow_columns}
    if format == "c":
        contract["functions"] = c_functions(model)
    if format == "onnx":
        contract["input"] = COLUMNS
    return contract


def rows_near_thresholds(model: TreeModel, rows: int, seed: int) -> np.ndarray:
    """Returns columns of random rows whose values are thresholds of the model, or next to one: float32 [rows, columns].

    A linear model gets values around those that it was fitted on.
    """
    generator = np.random.default_rng(seed)
    found = generator.normal(size=(rows, len(model.columns.names))).astype(np.float32)
    for estimator in model.estimators.values():
        if isinstance(estimator, LinearModel):
            deviation = np.divide(1, estimator.scale, out=np.zeros_like(estimator.scale), where=estimator.scale > 0)
            found = (estimator.shift + deviation * generator.normal(size=found.shape)).astype(np.float32)
            continue
        inner = estimator.feature != LEAF
        order = np.argsort(estimator.feature[inner], kind="stable")
        columns, thresholds = estimator.feature[inner][order], estimator.threshold[inner][order]
        for column in np.unique(columns):
            known = thresholds[slice(*np.searchsorted(columns, (column, column + 1)))]
            chosen = generator.choice(known, rows)
            beside = np.nextafter(chosen, np.float32(np.inf))
            taken = generator.random(rows) < 0.5
            found[taken, column] = np.where(generator.random(rows) < 0.5, chosen, beside)[taken]
    return found
