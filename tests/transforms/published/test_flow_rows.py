"""Published flows lie beside captured ones: one schema, nulls that are written, digested and read again."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import FLOWS, LATER_COLUMNS, PUBLISHED_FLOWS
from flowloom.schemas.parquet_files import write_table
from flowloom.transforms.arrays.digests import row_digests
from flowloom.transforms.io.spill import read_spilled, spill_batches
from flowloom.transforms.published.flow_rows import with_nulls

UNKNOWN = ("start", "protocol", "src_ip", "packets_fwd", "pkt_ttl", "pkt_tcp_flags")


def test_captured_flows_are_published_flows_without_a_copy():
    assert PUBLISHED_FLOWS.names == FLOWS.names
    assert PUBLISHED_FLOWS.types == FLOWS.types
    flows = synthetic_flows(20)
    published = with_nulls(flows, ())
    assert published.schema == PUBLISHED_FLOWS
    for name in FLOWS.names:
        assert published[name].equals(flows[name])


def test_forgotten_columns_are_null_on_disk_and_change_the_digest(tmp_path):
    flows = synthetic_flows(20)
    partly = with_nulls(flows, UNKNOWN)
    write_table(tmp_path / "rows.parquet", pa.Table.from_batches([with_nulls(flows, ()), partly]).combine_chunks())
    stored = pq.read_table(tmp_path / "rows.parquet")
    assert stored.slice(0, 20).combine_chunks().to_batches()[0].equals(with_nulls(flows, ()))
    read = stored.slice(20).combine_chunks().to_batches()[0]
    assert {name for name in FLOWS.names if read[name].null_count} == {*UNKNOWN, *LATER_COLUMNS}
    assert read.equals(partly)
    sliced = read_spilled(spill_batches([with_nulls(flows, ()), partly], str(tmp_path))).slice(20)
    np.testing.assert_array_equal(row_digests(sliced, "x"), row_digests(partly, "x"))
    assert not (row_digests(partly, "x") == row_digests(flows, "x")).all(axis=1).any()
    np.testing.assert_array_equal(row_digests(with_nulls(flows, ()), "x"), row_digests(flows, "x"))
