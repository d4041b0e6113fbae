"""NFStream's flows of captures as Arrow files; a program of its own, as NFStream forks and pins itself to a core."""

import itertools
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from nfstream import NFStreamer

from flowloom.schemas.label_windows import INSPECTED

_BATCH_ROWS = 16_384

Row = tuple[Any, ...]
"""One row of `INSPECTED`."""


def notice_crashes() -> None:
    """Let this process raise when one that it started dies of a signal: NFStream would wait for it for ever."""

    def look(number: int, frame: Any) -> None:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended and ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED) and ended.si_status != signal.SIGTERM:
            raise ChildProcessError(f"NFStream's process died of {signal.Signals(ended.si_status).name}")

    signal.signal(signal.SIGCHLD, look)


def inspect(capture: str, options: dict[str, Any]) -> Iterator[Row]:
    """Yield the flows of a capture, in the order in which NFStream lets go of them.

    Raises:
      ValueError: in NFStream's words, if it cannot read the capture.
      ChildProcessError: if it crashes.
    """
    for flow in NFStreamer(source=capture, n_meters=1, **options):
        yield (
            flow.src_ip, flow.dst_ip, flow.src_port, flow.dst_port, flow.protocol,
            flow.bidirectional_first_seen_ms, flow.bidirectional_last_seen_ms, flow.application_name,
            flow.application_category_name, bool(flow.application_is_guessed), flow.application_confidence,
        )  # fmt: skip


def batches(captures: Iterable[str], options: dict[str, Any], refused: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """Yield the flows of captures as `INSPECTED`; write down what NFStream says of those that it cannot read.

    A capture that it cannot read to its end has no flows, so that none depends on when it stopped.
    """
    yield _batch([])
    for capture in captures:
        flows = inspect(capture, options)
        whole: list[pa.RecordBatch] = []
        try:
            while rows := list(itertools.islice(flows, _BATCH_ROWS)):
                whole.append(_batch(rows))
        except (ValueError, ChildProcessError) as error:
            refused[capture] = str(error)
        else:
            yield from whole


def _batch(rows: list[Row]) -> pa.RecordBatch:
    columns = [pa.array([row[at] for row in rows], field.type) for at, field in enumerate(INSPECTED)]
    return pa.RecordBatch.from_arrays(columns, schema=INSPECTED)


def main() -> None:
    """Read a JSON line {options, jobs: [[file to write, captures]]}; write the files and a line {capture: refusal}."""
    notice_crashes()
    order = json.loads(sys.stdin.readline())
    refused: dict[str, str] = {}
    for out, captures in order["jobs"]:
        with pa.ipc.new_file(out, INSPECTED) as writer:
            for batch in batches(captures, order["options"], refused):
                writer.write_batch(batch)
    print(json.dumps(refused))


if __name__ == "__main__":
    main()
