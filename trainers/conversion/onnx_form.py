"""ONNX: conversion of models, and a session of one thread that runs them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.extras import require_installed
from flowloom.trainers.native_logs import native_stderr_muted

OPSET = 18
"""Version of the standard operators, which ONNX Runtime knows since 1.14 (2023)."""
BATCH = "batch"
"""Name of the axis of rows."""


def require_onnx(purpose: str, *, writing: bool = False) -> None:
    """Raises unless the libraries of ONNX are installed.

    Args:
      purpose: subject and verb of the message.
      writing: also requires the converter.

    Raises:
      FlowloomError: naming the first library that is missing.
    """
    require_installed(purpose, ("onnx", "onnxruntime", *(("tf2onnx",) if writing else ())), "onnx")


def convert(model: Any) -> bytes:
    """Returns a model as the bytes of an ONNX file for any number of rows.

    The graph is frozen before tf2onnx reads it, because tf2onnx takes the constants that Keras holds outside of a
    graph for inputs.

    Args:
      model: a model with inputs and outputs by name; for flows the inputs are {"sequence": [B, k, C], "length": [B]}.

    Raises:
      FlowloomError: if an operation of the model does not exist in ONNX.
    """
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from flowloom.trainers.conversion.litert import input_specs

    specs = input_specs(model, batch=None)
    function = tf.function(lambda rows: model(rows, training=False), input_signature=[specs], autograph=False)
    frozen = convert_variables_to_constants_v2(function.get_concrete_function(), lower_control_flow=False)
    inputs = {tensor.name: tensor.name.partition(":")[0] for tensor in frozen.inputs}
    outputs = dict(zip((tensor.name for tensor in frozen.outputs), sorted(model.output), strict=True))
    with native_stderr_muted():  # tf2onnx calls functions that TensorFlow warns of
        proto, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            name=model.name,
            input_names=list(inputs),
            output_names=list(outputs),
            opset=OPSET,
            tensors_to_rename=inputs | outputs,
        )
    for each in (*proto.graph.input, *proto.graph.output):
        each.type.tensor_type.shape.dim[0].dim_param = BATCH
    if foreign := foreign_operations(proto):
        raise FlowloomError(
            f"a model with the operations {', '.join(foreign)} cannot be written as ONNX; export it with "
            "--format savedmodel or litert"
        )
    return proto.SerializeToString()


def foreign_operations(proto: Any) -> list[str]:
    """Returns the operations of an ONNX model, at any depth, that the standard does not have, sorted."""
    import onnx

    return sorted(
        f"{node.domain}.{node.op_type}".removeprefix(".")
        for graph in graphs(proto)
        for node in graph.node
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type)
    )


def graphs(proto: Any) -> Iterator[Any]:
    """Yields the graph of an ONNX model and those of its loops and branches, at any depth."""
    waiting = [proto.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for attribute in (each for node in graph.node for each in node.attribute):
            waiting += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


def tensors(proto: Any) -> Iterator[Any]:
    """Yields the stored tensors of an ONNX model, at any depth."""
    for graph in graphs(proto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for attribute in (each for node in graph.node for each in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


class ONNXModel:
    """ONNX model in a session of ONNX Runtime with one thread.

    Args:
      content: bytes of an ONNX file.
    """

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors alone
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._tasks = [each.name for each in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the outputs for rows, {task: [B, 1] or [B, classes]}."""
        outputs = self._session.run(None, {name: np.asarray(rows) for name, rows in inputs.items()})
        return dict(zip(self._tasks, outputs, strict=True))
