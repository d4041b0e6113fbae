"""Packing: batches as compressed Arrow IPC bytes, what a shuffle carries instead of rows or objects."""

from collections.abc import Iterable, Sequence

import pyarrow as pa


def pack(batches: Sequence[pa.RecordBatch]) -> bytes:
    """Return batches of one schema as a compressed Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1))
    ) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def unpack(packed: Iterable[bytes]) -> pa.RecordBatch:
    """Return the rows of packed batches as one batch; there must be at least one row."""
    tables = [pa.ipc.open_stream(stream).read_all() for stream in packed]
    return pa.concat_tables(tables).combine_chunks().to_batches()[0]
