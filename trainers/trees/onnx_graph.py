"""ONNX form of trees and linear models: one graph from columns to the probabilities of all tasks."""

from pathlib import Path
from typing import Any

import numpy as np

from flowloom.schemas.extras import extra_needed
from flowloom.trainers.trees.linear_arrays import LinearModel
from flowloom.trainers.trees.tree_arrays import LEAF, TreeEnsemble
from flowloom.trainers.trees.tree_model import TreeModel

COLUMNS = "columns"
"""Input of the graph: float32 [N, columns]."""
_OPERATORS = 17
_TREE_OPERATORS = 3
"""Version of ai.onnx.ml that has TreeEnsembleRegressor with float attributes."""
_NEVER = -1e30
"""Base of a class without train rows, whose softmax is 0; minus infinity in the arrays."""


def write_onnx(model: TreeModel, path: Path) -> None:
    """Writes a model as ONNX, with an output per task, named after it: probabilities, float32 [N, 1] or [N, classes].

    Raises:
      FlowloomError: if `onnx` is not installed.
    """
    with extra_needed("format onnx needs"):
        import onnx
        from onnx import TensorProto, helper
    nodes: list[Any] = []
    outputs = []
    for task, estimator in model.estimators.items():
        classes = estimator.classes
        name = f"{task}/probabilities"
        if isinstance(estimator, LinearModel):
            nodes += _linear_nodes(task, estimator, name)
        else:
            nodes += _tree_nodes(task, estimator, name)
        if classes == 2:
            nodes.append(
                helper.make_node("Gather", [name, _constant(nodes, f"{task}/second", np.array([1]))], [task], axis=1)
            )
        else:
            nodes.append(helper.make_node("Identity", [name], [task]))
        outputs.append(helper.make_tensor_value_info(task, TensorProto.FLOAT, [None, classes if classes > 2 else 1]))
    width = len(model.columns.names)
    given = helper.make_tensor_value_info(COLUMNS, TensorProto.FLOAT, [None, width])
    graph = helper.make_graph(nodes, "flowloom", [given], outputs)
    versions = [helper.make_opsetid("", _OPERATORS), helper.make_opsetid("ai.onnx.ml", _TREE_OPERATORS)]
    made = helper.make_model(graph, opset_imports=versions, producer_name="flowloom", ir_version=9)
    onnx.checker.check_model(made)
    path.write_bytes(made.SerializeToString(deterministic=True))


def run_onnx(path: Path, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs of a stored graph for columns, by ONNX Runtime or the reference evaluator of `onnx`."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(path))
        return dict(zip(evaluator.output_names, evaluator.run(None, {COLUMNS: rows}), strict=True))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, {COLUMNS: rows}), strict=True))


def _constant(nodes: list[Any], name: str, value: np.ndarray) -> str:
    """Adds a constant to some nodes and returns its name."""
    from onnx import helper, numpy_helper

    nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name)))
    return name


def _linear_nodes(task: str, model: LinearModel, name: str) -> list[Any]:
    """Returns the nodes of a linear model, which computes in float64."""
    from onnx import TensorProto, helper

    nodes: list[Any] = [helper.make_node("Cast", [COLUMNS], [f"{task}/0"], to=TensorProto.DOUBLE)]
    bias = np.maximum(model.bias, _NEVER)
    steps = (("Sub", model.shift), ("Mul", model.scale), ("MatMul", model.weights), ("Add", bias))
    for number, (operator, value) in enumerate(steps):
        constant = _constant(nodes, f"{task}/{operator}", value)
        nodes.append(helper.make_node(operator, [f"{task}/{number}", constant], [f"{task}/{number + 1}"]))
    nodes.append(helper.make_node("Softmax", [f"{task}/4"], [f"{task}/5"], axis=1))
    nodes.append(helper.make_node("Cast", [f"{task}/5"], [name], to=TensorProto.FLOAT))
    return nodes


def _tree_nodes(task: str, model: TreeEnsemble, name: str) -> list[Any]:
    """Returns the nodes of an ensemble: sums over trees, then their mean or softmax.

    An ensemble without trees, which predicts one class, has its base as a constant of each row.
    """
    from onnx import helper

    nodes: list[Any] = []
    base = np.maximum(model.base, _NEVER).astype(np.float32)
    if not len(model.roots):
        width = _constant(nodes, f"{task}/zeros", np.zeros((1, len(base)), np.float32))
        first = _constant(nodes, f"{task}/first", np.array([0]))
        nodes.append(helper.make_node("Gather", [COLUMNS, first], [f"{task}/column"], axis=1))
        nodes.append(helper.make_node("Mul", [f"{task}/column", width], [f"{task}/nothing"]))
        nodes.append(
            helper.make_node("Add", [f"{task}/nothing", _constant(nodes, f"{task}/base", base)], [f"{task}/sums"])
        )
    else:
        trees = np.repeat(np.arange(len(model.roots)), np.diff(model.roots, append=len(model.feature)))
        places = np.arange(len(model.feature)) - model.roots[trees]
        leaf = model.feature == LEAF
        entries = np.repeat(np.flatnonzero(leaf), (model.right - model.left)[leaf])
        nodes.append(
            helper.make_node(
                "TreeEnsembleRegressor", [COLUMNS], [f"{task}/sums"], domain="ai.onnx.ml",
                n_targets=len(base), aggregate_function="SUM", post_transform="NONE", base_values=base.tolist(),
                nodes_treeids=trees.tolist(),
                nodes_nodeids=places.tolist(),
                nodes_featureids=np.maximum(model.feature, 0).tolist(),
                nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
                nodes_values=model.threshold.tolist(),
                nodes_truenodeids=np.where(leaf, 0, model.left - model.roots[trees]).tolist(),
                nodes_falsenodeids=np.where(leaf, 0, model.right - model.roots[trees]).tolist(),
                nodes_missing_value_tracks_true=np.zeros(len(leaf), np.int64).tolist(),
                target_treeids=trees[entries].tolist(),
                target_nodeids=places[entries].tolist(),
                target_ids=model.output.tolist(),
                target_weights=model.value.astype(np.float32).tolist(),
            )
        )  # fmt: skip
    if model.link == "mean":
        number = _constant(nodes, f"{task}/trees", np.array(len(model.roots), np.float32))
        nodes.append(helper.make_node("Div", [f"{task}/sums", number], [name]))
    else:
        nodes.append(helper.make_node("Softmax", [f"{task}/sums"], [name], axis=1))
    return nodes
