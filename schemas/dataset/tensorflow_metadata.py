"""TensorFlow Metadata schema of a dataset, as proto text, made from the Arrow schema without TensorFlow.

Field names are those of `tensorflow_metadata/proto/v0/schema.proto`.
"""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from flowloom.schemas.arrow.rows import LABEL_PREFIX
from flowloom.schemas.corpus.tasks import Task

UNKNOWN = -1
"""Value of null in a dense tensor of integers."""


def tensorflow_schema(schema: pa.Schema, tasks: Sequence[Task], k: int) -> str:
    """Returns `schema.pbtxt` of a dataset's shards.

    Scalars become dense tensors of shape [rows], sequences ragged ones of shape [rows, 1 to k]. Null, which occurs in
    labels and in columns of published files, becomes `UNKNOWN`, NaN, empty bytes or an empty sequence.

    Args:
      schema: the shards' columns, labels of all tasks included; a Rainbow stripe lacks the labels of other tasks.
    """
    vocabularies = {LABEL_PREFIX + task.name: task.vocabulary for task in tasks}
    features = [line for field in schema for line in _feature(field, vocabularies.get(field.name), k)]
    tensors = [line for field in schema for line in _tensor(field)]
    group = _block("tensor_representation_group", ['key: ""', *_block("value", tensors)])
    return "\n".join([*features, *group]) + "\n"


def _feature(field: pa.Field, vocabulary: tuple[str, ...] | None, k: int) -> list[str]:
    lines = [f'name: "{field.name}"', f"type: {_kind(field.type)}"]
    if not field.nullable:
        lines += _block("presence", ["min_fraction: 1.0", "min_count: 1"])
    lines += _block("value_count", ["min: 1", f"max: {k}"]) if pa.types.is_list(field.type) else ["shape {}"]
    if vocabulary is not None:
        lines += _block("int_domain", ["min: 0", f"max: {len(vocabulary) - 1}", "is_categorical: true"])
        comment = ", ".join(f"{code} = {value}" for code, value in enumerate(vocabulary))
        lines += _block("annotation", ['tag: "label"', f'comment: "{_escaped(comment)}"'])
    elif domain := _domain(field):
        lines += _block("int_domain", [f"min: {domain[0]}", f"max: {domain[1]}"])
    return _block("feature", lines)


def _tensor(field: pa.Field) -> list[str]:
    if pa.types.is_list(field.type):
        path = _block("feature_path", [f'step: "{field.name}"'])
        tensor = _block("ragged_tensor", [*path, "row_partition_dtype: INT64"])
    else:
        null = {"INT": f"int_value: {UNKNOWN}", "FLOAT": "float_value: nan"}.get(_kind(field.type), 'bytes_value: ""')
        default = _block("default_value", [null]) if field.nullable else []
        tensor = _block("dense_tensor", [f'column_name: "{field.name}"', "shape {}", *default])
    return _block("tensor_representation", [f'key: "{field.name}"', *_block("value", tensor)])


def _kind(kind: pa.DataType) -> str:
    items = kind.value_type if pa.types.is_list(kind) else kind
    if pa.types.is_floating(items):
        return "FLOAT"
    return "INT" if pa.types.is_integer(items) or pa.types.is_timestamp(items) else "BYTES"


def _domain(field: pa.Field) -> tuple[int, int] | None:
    items = field.type.value_type if pa.types.is_list(field.type) else field.type
    if field.name == "pkt_dir":
        return -1, 1
    if pa.types.is_unsigned_integer(items) and items.bit_width < 64:
        return 0, (1 << items.bit_width) - 1
    return None


def _block(name: str, lines: Iterable[str]) -> list[str]:
    return [f"{name} {{", *(f"  {line}" for line in lines), "}"]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
