"""Flows of CertTA's JSON files (InspiringGroup-Lab/CertTA): times and signed lengths of a flow's first packets."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.published.delimited_text import plain_label
from flowloom.transforms.published.flow_rows import published_flows
from flowloom.transforms.published.published_files import published_files
from flowloom.transforms.published.published_rejects import Rejects

CERTTA_TASK = "class"

_FIELDS: dict[str, Any] = {
    "timestamp": pl.List(pl.Float64),
    "direction_length": pl.List(pl.Int64),
    "label": pl.Int64,
    "source_file": pl.String,
}
_PROTOCOLS = {"TCP": 6, "UDP": 17}
_LARGEST_NS = 2**62


def read_certta_flows(path: str, rejects: Rejects, *, k: int = 60) -> Iterator[pa.RecordBatch]:
    """Yields flows from JSON arrays of records.

    A record has the first 30 to 100 packets of a flow; counters and duration are those of these packets. Times are
    relative to the flow's start, which is unknown. The class and the transport protocol come from the path of the
    capture in the record; without such a path the label is the number of the class.

    Args:
      path: a file, or a folder or archive with nothing else in it.
      k: packets of a sequence.

    Yields:
      One batch per file: `schemas.arrow.rows.PUBLISHED_FLOWS` with published labels of the kind `class`.
    """
    for file in published_files(path, rejects):
        content = file.read(rejects)
        if content is None:
            continue
        try:
            records = pl.read_json(content, schema_overrides=_FIELDS)
            records = records.select(name for name in _FIELDS)
        except pl.exceptions.PolarsError as error:
            detail = f"expected a JSON array of records with {', '.join(_FIELDS)} ({str(error).splitlines()[0]})"
            rejects.add(file.uri, [0], RejectReason.OTHER_FORMAT, detail)
            continue
        time, length = pl.col("timestamp"), pl.col("direction_length")
        good = records.select(
            (length.list.len() > 0)
            & (length.list.len() == time.list.len())
            & (length.list.eval(pl.element().is_between(-(1 << 31), 1 << 31) & (pl.element() != 0)).list.all())
            & (time.list.eval(pl.element().is_finite() & (pl.element().abs() < _LARGEST_NS / 1e9)).list.all())
            & (time.list.eval(pl.element().null_count()).list.first() == 0)
            & (length.list.eval(pl.element().null_count()).list.first() == 0)
            & (pl.col("label").is_not_null() | pl.col("source_file").is_not_null())
        )
        mask = good.to_series().fill_null(False).to_numpy()
        detail = "expected as many times as lengths, at least one, no length of 0, and a label"
        rejects.add(file.uri, np.flatnonzero(~mask), RejectReason.BAD_ROW, detail)
        rows = np.flatnonzero(mask)
        records = records.filter(mask)
        offsets = np.concatenate([np.zeros(1, np.int64), records.select(length.list.len()).to_series().cum_sum()])
        signed = records.select(length.explode()).to_series().to_numpy()
        time_ns = np.rint(records.select(time.explode()).to_series().to_numpy() * 1e9).astype(np.int64)
        parts = pl.col("source_file").str.split("/")
        named = records.select(
            protocol=parts.list.get(-2, null_on_oob=True).str.head(3).replace_strict(_PROTOCOLS, default=None),
            label=pl.coalesce(
                pl.col("source_file").str.extract(r"/pcap/([^/]+)/"), pl.col("label").cast(pl.String)
            ),
        )  # fmt: skip
        lengths = np.diff(offsets)
        batch = published_flows(
            file, rows, offsets, np.abs(signed), signed * np.repeat(np.sign(signed[offsets[:-1]]), lengths) > 0,
            np.diff(time_ns, prepend=0), k, {CERTTA_TASK: [plain_label(text) for text in named["label"]]},
        )  # fmt: skip
        protocol = named["protocol"].cast(pl.UInt8).to_arrow()
        yield batch.set_column(batch.schema.get_field_index("protocol"), batch.schema.field("protocol"), protocol)
