"""TensorFlow Metadata parses the schema, and tfx-bsl makes the right tensors with it."""

import numpy as np
import pyarrow as pa
import pytest
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import FLOWS, PUBLISHED_FLOWS, SEQUENCES, labelled
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.tensorflow_metadata import tensorflow_schema

TASKS = (
    Task(name="app", kind="multiclass", vocabulary=('quo"te', "back\\slash", "plain")),
    Task(name="attack", kind="binary"),
)
SCHEMA = labelled(FLOWS, ["app", "attack"])


@pytest.fixture(scope="module")
def parsed():
    text_format = pytest.importorskip("google.protobuf.text_format")
    schema_pb2 = pytest.importorskip("tensorflow_metadata.proto.v0.schema_pb2")
    return text_format.Parse(tensorflow_schema(SCHEMA, TASKS, k=30), schema_pb2.Schema())


def test_features_have_type_presence_length_and_domain(parsed):
    features = {feature.name: feature for feature in parsed.feature}
    assert list(features) == SCHEMA.names
    sizes = features["pkt_size"]
    assert (sizes.value_count.min, sizes.value_count.max, sizes.int_domain.max) == (1, 30, 65_535)
    assert (features["pkt_dir"].int_domain.min, features["pkt_dir"].int_domain.max) == (-1, 1)
    assert features["flow_id"].presence.min_fraction == 1.0
    app = features["label_app"]
    assert (app.int_domain.min, app.int_domain.max, app.int_domain.is_categorical) == (0, 2, True)
    assert app.annotation.comment[0] == '0 = quo"te, 1 = back\\slash, 2 = plain'
    assert not app.HasField("presence")


def test_tensors_are_dense_scalars_and_ragged_sequences(parsed):
    tensors = parsed.tensor_representation_group[""].tensor_representation
    assert set(tensors) == set(SCHEMA.names)
    assert {name for name in tensors if tensors[name].HasField("ragged_tensor")} == set(SEQUENCES)
    assert tensors["label_app"].dense_tensor.default_value.int_value == -1


def test_columns_that_published_files_lack_may_be_absent():
    text_format = pytest.importorskip("google.protobuf.text_format")
    schema_pb2 = pytest.importorskip("tensorflow_metadata.proto.v0.schema_pb2")
    schema = text_format.Parse(tensorflow_schema(PUBLISHED_FLOWS, (), k=30), schema_pb2.Schema())
    absent = {feature.name for feature in schema.feature if not feature.HasField("presence")}
    assert absent == {field.name for field in PUBLISHED_FLOWS if field.nullable}
    tensors = schema.tensor_representation_group[""].tensor_representation
    assert tensors["start"].dense_tensor.default_value.int_value == -1
    assert tensors["src_ip"].dense_tensor.default_value.HasField("bytes_value")
    assert not tensors["group"].dense_tensor.HasField("default_value")


@pytest.mark.slow
def test_tensor_adapter_reads_shards_with_it(parsed):
    tensor_adapter = pytest.importorskip("tfx_bsl.tfxio.tensor_adapter")
    tensors = parsed.tensor_representation_group[""].tensor_representation
    flows = synthetic_flows(5, k=30)
    # the adapter takes scalars as lists of one value, or null
    one = pa.array([[2], None, [0], [1], [2]], pa.list_(pa.int32()))
    batch = flows.select(["pkt_size", "pkt_gap_ns"]).append_column("label_app", one)
    adapter = tensor_adapter.TensorAdapter(
        tensor_adapter.TensorAdapterConfig(batch.schema, {name: tensors[name] for name in batch.schema.names})
    )
    found = adapter.ToBatchTensors(batch)
    assert found["pkt_size"].to_list() == flows["pkt_size"].to_pylist()
    assert found["pkt_gap_ns"].to_list() == flows["pkt_gap_ns"].to_pylist()
    np.testing.assert_array_equal(found["label_app"].numpy(), [2, -1, 0, 1, 2])
