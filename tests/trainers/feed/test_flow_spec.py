"""Flow kernels against a rendering in plain NumPy, and the contract of `FeatureSpec`."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import pytest

from flowloom.schemas.arrow.rows import FLOWS, SEQUENCES
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.flow_spec import CHANNELS, FeatureSpec

FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")


@pytest.fixture(scope="module")
def dataset(synthetic):
    return Dataset.open(synthetic())


@pytest.fixture(scope="module")
def flows(dataset):
    groups = dataset.row_groups("train")
    tables = [pq.ParquetFile(group.path).read_row_group(group.index) for group in groups[:2]]
    return pa.concat_tables(tables).combine_chunks().to_batches()[0]


def oracle(spec, flow):
    """Renders one flow, a Python dict, feature by feature."""

    def scaled(channel, x, fixed):
        x = np.array(x, float)
        if spec.scaling == "none":
            return x / 1000 if channel == "gap" else x
        if spec.scaling in ("linear", "code_compat") and channel != "window":
            return as_rezaei_and_liu(spec, channel, x, np.array(flow["pkt_dir"]))
        if spec.scaling != "standard":
            return fixed(x)
        mean, deviation = spec.moments[channel]
        return (np.log1p(x) - mean) / deviation

    protocol = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}.get(flow["protocol"], "other")
    packets = len(flow["pkt_size"])
    columns = {
        "size": lambda: scaled("size", flow["pkt_size"], lambda x: np.minimum(x / 1500, 1)),
        "gap": lambda: scaled("gap", flow["pkt_gap_ns"], lambda x: np.log1p(1e6 * x * 1e-9) / np.log1p(6e7)),
        "window": lambda: scaled("window", flow["pkt_tcp_window"], lambda x: np.log1p(x) / np.log1p(65535)),
        "payload": lambda: scaled("payload", flow["pkt_payload"], lambda x: np.minimum(x / 1500, 1)),
        "direction": lambda: flow["pkt_dir"],
        "ttl": lambda: np.array(flow["pkt_ttl"]) / (1 if spec.scaling == "none" else 255),
    }
    tensor = np.zeros((spec.k, len(spec.features)))
    kept = min(spec.k, packets)
    for position, name in enumerate(spec.features):
        if name in FLAGS:
            values = [flags >> FLAGS.index(name) & 1 for flags in flow["pkt_tcp_flags"]]
        elif name in ("tcp", "udp", "icmp", "other"):
            values = [float(name == protocol)] * packets
        else:
            values = columns[name]()
        tensor[:kept, position] = values[:kept]
    if spec.scaling == "code_compat":  # PadAtTheBegining
        tensor = np.roll(tensor, spec.k - kept, axis=0)
    return tensor, kept


def as_rezaei_and_liu(spec, channel, x, direction):
    """Scales values as section IV-C of the paper (`linear`) and as its published code do."""
    if channel == "gap":
        seconds = np.minimum(x * 1e-9, 1)
        return (seconds - 0.5) * 2 if spec.scaling == "code_compat" else seconds
    if spec.scaling == "code_compat":
        return x / 1434
    return np.minimum(x / 1434, 1) * (direction if channel == "size" else 1)


@pytest.mark.parametrize("scaling", ["standard", "fixed", "linear", "code_compat", "none"])
@pytest.mark.parametrize(
    "channels", [tuple(CHANNELS), ("gap",), ("payload", "tcp_flags", "size"), ("protocol", "direction", "window")]
)
@pytest.mark.parametrize("k", [1, 5, 12])
def test_gather_equals_the_plain_rendering(dataset, flows, scaling, channels, k):
    spec = FeatureSpec.of(dataset.card, k, channels, scaling)
    rows = np.random.default_rng(0).permutation(flows.num_rows)[:50]
    sequence, lengths = spec.render(flows, rows)
    assert sequence.dtype == np.float32
    assert lengths.dtype == np.int32
    listed = flows.to_pylist()
    for place, row in enumerate(rows):
        expected, length = oracle(spec, listed[row])
        assert lengths[place] == length
        np.testing.assert_allclose(sequence[place], expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("scaling", ["standard", "fixed", "linear", "code_compat", "none"])
def test_a_flow_can_begin_at_any_of_its_packets(dataset, flows, scaling):
    spec = FeatureSpec.of(dataset.card, 5, tuple(CHANNELS), scaling)
    starts = np.arange(50) % 14
    sequence, lengths = spec.render(flows, np.arange(50), starts)
    for place, flow in enumerate(flows.slice(0, 50).to_pylist()):
        begin = min(starts[place], len(flow["pkt_size"]) - 1)
        left = {name: value[begin:] if isinstance(value, list) else value for name, value in flow.items()}
        left["pkt_gap_ns"][0] = 0
        expected, length = oracle(spec, left)
        assert lengths[place] == length
        np.testing.assert_allclose(sequence[place], expected, rtol=2e-6, atol=2e-6)


def test_tensor_adapter_agrees_on_the_unscaled_values(flows):
    """TFX Basic Shared Libraries read the same lists as ragged tensors; direction and ttl are comparable."""
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.tfxio.tensor_adapter import TensorAdapter, TensorAdapterConfig

    spec = FeatureSpec(k=12, channels=("direction", "ttl"), scaling="fixed")
    selected = pa.RecordBatch.from_arrays([flows["pkt_dir"], flows["pkt_ttl"]], names=["pkt_dir", "pkt_ttl"])
    ragged = "ragged_tensor {{ feature_path {{ step: '{0}' }} row_partition_dtype: INT64 }}"
    representations = {
        column: text_format.Parse(ragged.format(column), schema_pb2.TensorRepresentation())
        for column in selected.schema.names
    }
    tensors = TensorAdapter(TensorAdapterConfig(selected.schema, representations)).ToBatchTensors(selected)
    sequence, lengths = spec.render(flows, np.arange(flows.num_rows))
    for position, (name, scale) in enumerate({"pkt_dir": 1.0, "pkt_ttl": 255.0}.items()):
        padded = tensors[name].to_tensor(default_value=0, shape=(None, spec.k)).numpy().astype(np.float32)
        np.testing.assert_allclose(sequence[:, :, position] * scale, padded, atol=1e-5)
        np.testing.assert_array_equal(tensors[name].row_lengths().numpy(), lengths)


def test_a_slice_renders_like_the_rows_of_the_whole(dataset, flows):
    spec = FeatureSpec.of(dataset.card, 8, tuple(CHANNELS), "standard")
    whole, _ = spec.render(flows, np.arange(10, 30))
    part, _ = spec.render(flows.slice(10, 20), np.arange(20))
    np.testing.assert_array_equal(whole, part)


def test_extremes_stay_finite():
    top = {"pkt_size": 65_535, "pkt_dir": -1, "pkt_gap_ns": 2**63 - 1, "pkt_tcp_flags": 255, "pkt_tcp_window": 65_535,
           "pkt_ttl": 255, "pkt_payload": 65_535}  # fmt: skip
    arrays = [pa.array([[top[name]], [0]], FLOWS.field(name).type) for name in SEQUENCES]
    batch = pa.RecordBatch.from_arrays([*arrays, pa.array([255, 0], pa.uint8())], names=[*SEQUENCES, "protocol"])
    for scaling in ("standard", "fixed", "linear", "none"):
        moments = dict.fromkeys(("size", "gap", "window", "payload"), (3.0, 0.0))  # a constant channel deviates by 0
        spec = FeatureSpec(k=2, channels=tuple(CHANNELS), scaling=scaling, moments=moments)
        sequence, _ = spec.render(batch, np.arange(2))
        assert np.isfinite(sequence).all()
        assert (sequence[:, 1] == 0).all()


def test_the_published_scaling_of_a_known_flow():
    """`linear`: signed share of 1,434 bytes, gaps up to 1 s. `code_compat`: unsigned, padded in front, 0 s is -1."""
    columns = {"pkt_size": [717, 1500], "pkt_dir": [1, -1], "pkt_gap_ns": [0, 250_000_000]}
    arrays = [pa.array([values], FLOWS.field(name).type) for name, values in columns.items()]
    batch = pa.RecordBatch.from_arrays(arrays, names=list(columns))
    for scaling, expected in {
        "linear": [[0, 0.5], [0.25, -1], [0, 0]],
        "code_compat": [[0, 0], [-1, 0.5], [-0.5, 1500 / 1434]],
    }.items():
        spec = FeatureSpec(k=3, channels=("gap", "size"), scaling=scaling)
        sequence, lengths = spec.render(batch, np.arange(1))
        np.testing.assert_allclose(sequence[0], expected, rtol=1e-6)
        assert lengths.tolist() == [2]


def test_lists_of_unequal_length_are_refused():
    batch = pa.RecordBatch.from_arrays(
        [pa.array([[1, 2]], FLOWS.field("pkt_size").type), pa.array([[1]], FLOWS.field("pkt_dir").type)],
        names=["pkt_size", "pkt_dir"],
    )
    with pytest.raises(FlowloomError, match="pkt_dir must have lists as long as"):
        FeatureSpec(k=2, channels=("size", "direction"), scaling="fixed").render(batch, np.arange(1))


def test_every_channel_reads_a_column_of_the_contract():
    assert {channel.column for channel in CHANNELS.values()} <= set(FLOWS.names)
    features = list(itertools.chain.from_iterable(channel.features for channel in CHANNELS.values()))
    assert len(features) == len(set(features)) == 18


def test_a_spec_is_the_same_after_json(dataset):
    spec = FeatureSpec.of(dataset.card, 5, ("size", "gap", "protocol"), "standard")
    assert FeatureSpec.model_validate_json(spec.model_dump_json()) == spec


def test_bad_specs_are_refused(dataset):
    with pytest.raises(FlowloomError, match="k must be at most 12"):
        FeatureSpec.of(dataset.card, 13, ("size",), "fixed")
    with pytest.raises(FlowloomError, match="did you mean 'payload'"):
        FeatureSpec.of(dataset.card, 5, ("size", "payloads"), "fixed")
    with pytest.raises(FlowloomError, match="no normalisation of pkt_gap_ns"):
        FeatureSpec.of(dataset.card.model_copy(update={"normalisation": {}}), 5, ("gap",), "standard")
    with pytest.raises(pydantic.ValidationError, match="at least one per-packet channel"):
        FeatureSpec(k=5, channels=("protocol",), scaling="fixed")
    with pytest.raises(pydantic.ValidationError, match="must not repeat"):
        FeatureSpec(k=5, channels=("size", "size"), scaling="fixed")
    with pytest.raises(pydantic.ValidationError, match="needs the moments"):
        FeatureSpec(k=5, channels=("size",), scaling="standard")


def test_columns_that_published_files_lack_cannot_be_selected(dataset, flows):
    for name in ("pkt_ttl", "protocol"):
        known = np.arange(flows.num_rows) > 1
        column = pa.array([value if k else None for k, value in zip(known, flows[name].to_pylist(), strict=True)])
        position = flows.schema.get_field_index(name)
        partly = flows.set_column(position, name, column.cast(flows[name].type))
        channel = next(channel for channel, (column, _) in CHANNELS.items() if column == name)
        spec = FeatureSpec.of(dataset.card, 5, ("size", channel), "fixed")
        with pytest.raises(FlowloomError, match=f"column {name} is unknown for 2 of"):
            spec.render(partly, np.arange(3))
        others = FeatureSpec.of(dataset.card, 5, ("size", "gap", "direction"), "standard")
        np.testing.assert_array_equal(others.render(partly, np.arange(9))[0], others.render(flows, np.arange(9))[0])


def test_sizes_without_sign_need_no_direction():
    lists = {"pkt_size": [[717, 1434]], "pkt_gap_ns": [[0, 5 * 10**8]]}
    batch = pa.RecordBatch.from_pydict(
        {name: pa.array(values, FLOWS.field(name).type) for name, values in lists.items()}
    )
    spec = FeatureSpec(k=3, channels=("gap", "size"), scaling="linear", signed=False)
    assert "pkt_dir" not in spec.columns
    sequence, _ = spec.render(batch, np.arange(1))
    np.testing.assert_allclose(sequence[0], [[0, 0.5], [0.5, 1], [0, 0]])
