"""NFStream's flows of captures as Arrow files; a program of its own, as NFStream forks and pins itself to a core."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from nfstream import NFStreamer

from flowloom.schemas.label_windows import INSPECTED

_BATCH_ROWS = 16_384

Row = tuple[Any, ...]
"""One row of `INSPECTED`."""


def inspect(capture: str, options: dict[str, Any]) -> Iterator[Row]:
    """Yield the flows of a capture, in the order in which NFStream lets go of them.

    Raises:
      ValueError: in NFStream's words, if it cannot read the capture.
    """
    for flow in NFStreamer(source=capture, n_meters=1, **options):
        yield (
            flow.src_ip, flow.dst_ip, flow.src_port, flow.dst_port, flow.protocol,
            flow.bidirectional_first_seen_ms, flow.bidirectional_last_seen_ms, flow.application_name,
            flow.application_category_name, bool(flow.application_is_guessed), flow.application_confidence,
        )  # fmt: skip


def batches(captures: Iterable[str], options: dict[str, Any], refused: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """Yield the flows of captures as `INSPECTED`; write down what NFStream says of those that it cannot read."""
    rows: list[Row] = []
    for capture in captures:
        try:
            for row in inspect(capture, options):
                rows.append(row)
                if len(rows) == _BATCH_ROWS:
                    yield _batch(rows)
                    rows = []
        except ValueError as error:
            refused[capture] = str(error)
    yield _batch(rows)


def _batch(rows: list[Row]) -> pa.RecordBatch:
    columns = [pa.array([row[at] for row in rows], field.type) for at, field in enumerate(INSPECTED)]
    return pa.RecordBatch.from_arrays(columns, schema=INSPECTED)


def main() -> None:
    """Read a JSON line {options, jobs: [[file to write, captures]]}; write the files and a line {capture: refusal}."""
    order = json.loads(sys.stdin.readline())
    refused: dict[str, str] = {}
    for out, captures in order["jobs"]:
        with pa.ipc.new_file(out, INSPECTED) as writer:
            for batch in batches(captures, order["options"], refused):
                writer.write_batch(batch)
    print(json.dumps(refused))


if __name__ == "__main__":
    main()
