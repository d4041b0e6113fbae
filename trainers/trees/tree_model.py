"""Multi-task models of trees or linear models: one estimator for each task, stored without pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.conversion.weight_arrays import read_arrays
from flowloom.trainers.feed.row_spec import RowSpec
from flowloom.trainers.trees.estimators import Estimator
from flowloom.trainers.trees.linear_arrays import LinearModel
from flowloom.trainers.trees.row_columns import FlowColumns, row_columns
from flowloom.trainers.trees.tree_arrays import TreeEnsemble

TREES = "trees.npz"
"""File of a model in a run or an export."""
_STRUCTURE = "structure"
"""Array of the file that holds a JSON text."""
_FORMS = ("mean", "softmax", "linear")


class TreeModel:
    """Estimators by task that read the columns of a row.

    It is called as a network is: with the arrays of `RowSpec.inputs` by name, or in order as `forward` takes them.

    Args:
      features: the model's view of a row.
      flow_columns: columns of flows; of no meaning for other views.
      estimators: one for each task.
    """

    def __init__(self, features: RowSpec, flow_columns: FlowColumns, estimators: Mapping[str, Estimator]) -> None:
        self.features, self.flow_columns, self.estimators = features, flow_columns, dict(estimators)
        self.columns = row_columns(features, flow_columns)
        self.input = {
            name: SimpleNamespace(shape=(None, *each.shape), dtype=np.dtype(each.dtype).name)
            for name, each in features.inputs.items()
        }
        """Shape and type of each input, as a network of Keras has them."""

    def __call__(self, inputs: Mapping[str, Any], training: bool = False) -> dict[str, npt.NDArray[np.float32]]:
        """Returns {task: probabilities [B, 1] for two classes, [B, classes] for more}, float32."""
        return self.forward(*(np.asarray(inputs[name]) for name in self.input))

    def forward(self, *arrays: np.ndarray) -> dict[str, npt.NDArray[np.float32]]:
        """Returns the same from the input arrays in order."""
        return self.predict(self.columns.matrix(*arrays))

    def predict(self, rows: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Returns the same from the columns of rows, float32 [B, columns]."""
        found = {}
        for task, estimator in self.estimators.items():
            probabilities = estimator.probabilities(rows).astype(np.float32)
            found[task] = probabilities[:, 1:] if probabilities.shape[1] == 2 else probabilities
        return found

    def count_params(self) -> int:
        """Returns the number of thresholds, values of leaves and weights."""
        return sum(each.parameters for each in self.estimators.values())

    @property
    def macs(self) -> int:
        """Largest number of comparisons, multiplications and additions for one row, without those of its columns."""
        return sum(each.operations for each in self.estimators.values())

    def save(self, path: str | Path) -> None:
        """Writes the model as one NumPy archive; the same model gives the same bytes."""
        arrays: dict[str, Any] = {}
        tasks = {}
        for number, (task, estimator) in enumerate(self.estimators.items()):
            linear = isinstance(estimator, LinearModel)
            arrays |= {f"{number}_{name}": array for name, array in estimator.arrays.items()}
            classes = estimator.classes
            tasks[task] = {"form": "linear" if linear else estimator.link, "classes": classes}  # type: ignore[union-attr]
        structure = {"flow_columns": self.flow_columns, "columns": len(self.columns.names), "tasks": tasks}
        arrays[_STRUCTURE] = np.frombuffer(json.dumps(structure).encode(), np.uint8)
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path, features: RowSpec, tasks: Mapping[str, int]) -> Self:
        """Reads a model whose file may come from anyone; it holds numbers alone, and every index is checked.

        Args:
          path: a file that `save` wrote.
          features: the model's view of a row.
          tasks: expected number of classes by task.

        Raises:
          FlowloomError: if the file is missing or damaged, or a model of other tasks or columns.
        """
        remedy = "train it again, or export the run again"
        arrays = read_arrays(path, remedy)
        try:
            structure = json.loads(arrays[_STRUCTURE].tobytes())
            flow_columns, columns = structure["flow_columns"], structure["columns"]
            if flow_columns not in ("positions", "histograms", "both"):
                raise ValueError(f"flow_columns must be positions, histograms or both, got {flow_columns!r}")
            if {task: each["classes"] for task, each in structure["tasks"].items()} != dict(tasks):
                raise ValueError("its tasks and classes must be those of the run")
            if columns != len(row_columns(features, flow_columns).names):
                raise ValueError(f"it must read the columns of its features, got {columns!r} columns")
            estimators = {}
            for number, (task, each) in enumerate(structure["tasks"].items()):
                prefix = f"{number}_"
                own = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
                estimators[task] = _estimator(each["form"], own, each["classes"], columns)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise FlowloomError(f"{path} is damaged ({error}); {remedy}") from None
        return cls(features, flow_columns, estimators)


def _estimator(form: str, arrays: Mapping[str, np.ndarray], classes: int, columns: int) -> Estimator:
    """Returns the estimator of checked arrays.

    Raises:
      ValueError: if the form is unknown, or the arrays do not fit it.
    """
    if form not in _FORMS:
        raise ValueError(f"form must be one of {', '.join(_FORMS)}, got {form!r}")
    if form == "linear":
        return LinearModel.of(arrays, classes, columns)
    return TreeEnsemble.of("mean" if form == "mean" else "softmax", arrays, classes, columns)
