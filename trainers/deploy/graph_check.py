"""Check of stored graphs before they run, by an allow-list of operations that read and write no files."""

from collections.abc import Iterator
from pathlib import Path

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.conversion import onnx_form

ALLOWED = frozenset({
    "AddV2", "BatchMatMulV2", "BiasAdd", "BroadcastTo", "Cast", "ConcatV2", "Const", "Conv2D", "Cos", "Cumsum",
    "Einsum", "Equal", "Exp", "ExpandDims", "Fill", "Floor", "FloorDiv", "FloorMod", "GatherV2", "Greater",
    "GreaterEqual", "Identity", "IdentityN", "Less", "Log", "LogicalAnd", "MatMul", "Max", "MaxPool", "Maximum", "Mean",
    "Minimum", "Mul", "Neg", "NoOp", "Pack", "Pad", "Pow", "Prod", "Range", "ReadVariableOp", "RealDiv", "Relu",
    "Reshape", "Rsqrt", "SelectV2", "Shape", "Sigmoid", "Sin", "Softmax", "Split", "SplitV", "SquaredDifference",
    "Squeeze", "StatefulPartitionedCall", "StopGradient", "StridedSlice", "Sub", "Sum", "Tanh", "TensorListFromTensor",
    "TensorListGetItem", "TensorListReserve", "TensorListSetItem", "TensorListStack", "Transpose", "Unpack",
    "UnsortedSegmentSum", "While",
})  # fmt: skip
"""Operations of TensorFlow that the exports of all named recipes use (tests/trainers/deploy/test_graph_check.py)."""

_KINDS = frozenset({"bare_concrete_function", "captured_tensor", "constant", "function", "user_object", "variable"})
_REMEDY = "do not run this model; export a run that you trust again"


def check_saved_model(folder: Path) -> None:
    """Checks all functions of a SavedModel that loading or scoring can run, without loading it.

    Raises:
      FlowloomError: if the file is damaged, or a function has an operation that is not allowed.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # DecodeError has no common base in the implementations of protobuf
        raise FlowloomError(f"{path} cannot be read ({error}); export the run again") from None
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise FlowloomError(f"{path} must have one graph with objects, as Keras writes it, got another file; {_REMEDY}")
    (graph,) = model.meta_graphs
    kinds = {node.WhichOneof("kind") for node in graph.object_graph_def.nodes}
    if graph.asset_file_def or not kinds <= _KINDS:
        found = "asset files" if graph.asset_file_def else ", ".join(sorted(map(str, kinds - _KINDS)))
        raise FlowloomError(f"{path} must have only variables and functions, got {found}; {_REMEDY}")
    if refused := sorted({op for op in _reachable(graph) if op not in ALLOWED}):
        raise FlowloomError(f"{path} must have only operations of networks, got {', '.join(refused[:5])}; {_REMEDY}")


def _reachable(graph: object) -> Iterator[str]:
    """Yields the operations of every function that an object of a graph can call, at any depth.

    The functions by which TensorFlow 1 saves and restores variables are in every file, but no object calls them.
    """
    from tensorflow.core.framework import function_pb2
    from tensorflow.core.protobuf import meta_graph_pb2

    assert isinstance(graph, meta_graph_pb2.MetaGraphDef)
    library: dict[str, function_pb2.FunctionDef] = {
        each.signature.name: each for each in graph.graph_def.library.function
    }
    objects = graph.object_graph_def
    waiting = list(objects.concrete_functions)
    for node in objects.nodes:
        waiting += node.function.concrete_functions
        waiting.append(node.bare_concrete_function.concrete_function_name)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in library:
            continue
        seen.add(name)
        for operation in library[name].node_def:
            if operation.op in library:
                waiting.append(operation.op)
            else:
                yield operation.op
            for value in operation.attr.values():
                waiting += [value.func.name, *(each.name for each in value.list.func)]


def check_litert(content: bytes, path: Path) -> None:
    """Checks that a LiteRT model has built-in operations alone, none of TensorFlow (flex) and no custom ones.

    Raises:
      FlowloomError: if it is damaged or has another operation.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    try:
        model = schema.Model.GetRootAsModel(content, 0)
        codes = [model.OperatorCodes(at) for at in range(model.OperatorCodesLength())]
        custom = [code for code in codes if code.BuiltinCode() == schema.BuiltinOperator.CUSTOM or code.CustomCode()]
    except Exception as error:  # whatever offsets of damaged bytes lead to
        raise FlowloomError(f"{path} cannot be read ({error}); export the run again") from None
    if content[4:8] != b"TFL3" or custom:
        found = ", ".join(sorted({(code.CustomCode() or b"custom").decode(errors="replace") for code in custom}))
        raise FlowloomError(f"{path} must have only built-in operations, got {found or 'another file'}; {_REMEDY}")


def check_onnx(content: bytes, path: Path) -> None:
    """Checks that an ONNX model has only operations of the standard and holds all of its tensors.

    Raises:
      FlowloomError: if it is damaged, has another operation, or refers to another file.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # DecodeError has no common base in the implementations of protobuf
        raise FlowloomError(f"{path} cannot be read ({error}); export the run again") from None
    if foreign := onnx_form.foreign_operations(model):
        raise FlowloomError(f"{path} must have only operations of ONNX, got {', '.join(foreign[:5])}; {_REMEDY}")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in onnx_form.tensors(model)):
        raise FlowloomError(f"{path} must hold all of its tensors, got some in other files; {_REMEDY}")
