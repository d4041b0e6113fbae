"""Program that writes NFStream's flows as Arrow files; separate, because NFStream forks and pins itself to a core."""

import itertools
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from nfstream import NFStreamer

from flowloom.schemas.arrow.label_windows import INSPECTED

_BATCH_ROWS = 16_384

Row = tuple[Any, ...]
"""One row of `INSPECTED`."""


def notice_crashes() -> None:
    """Makes this process raise when a signal kills a child process, for which NFStream would wait forever."""

    def look(number: int, frame: Any) -> None:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended and ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED) and ended.si_status != signal.SIGTERM:
            raise ChildProcessError(f"NFStream's process died of {signal.Signals(ended.si_status).name}")

    signal.signal(signal.SIGCHLD, look)


def inspect(captures: Sequence[str], options: dict[str, Any], unreadable: dict[str, str]) -> list[pa.RecordBatch]:
    """Returns the flows of captures that follow each other, in the order in which NFStream releases them.

    If NFStream cannot read a capture, each capture is read alone; `unreadable` gets the reason for one without flows.
    """
    if not captures:
        return []
    try:
        flows = map(_row, NFStreamer(source=list(captures), n_meters=1, **options))
        # nothing is written before the end, so that no flow depends on the moment of a crash
        return [_batch(rows) for rows in iter(lambda: list(itertools.islice(flows, _BATCH_ROWS)), [])]
    except (ValueError, ChildProcessError) as error:
        if len(captures) == 1:
            unreadable[captures[0]] = str(error)
            return []
    return [batch for capture in captures for batch in inspect([capture], options, unreadable)]


def _row(flow: Any) -> Row:
    return (
        flow.src_ip, flow.dst_ip, flow.src_port, flow.dst_port, flow.protocol,
        flow.bidirectional_first_seen_ms, flow.bidirectional_last_seen_ms, flow.application_name,
        flow.application_category_name, bool(flow.application_is_guessed), flow.application_confidence,
    )  # fmt: skip


def _batch(rows: list[Row]) -> pa.RecordBatch:
    columns = [pa.array([row[at] for row in rows], field.type) for at, field in enumerate(INSPECTED)]
    return pa.RecordBatch.from_arrays(columns, schema=INSPECTED)


def main() -> None:
    """Reads a JSON line {options, jobs: [[file, captures]]}; writes the files and a line {capture: reason}."""
    notice_crashes()
    order = json.loads(sys.stdin.readline())
    unreadable: dict[str, str] = {}
    for out, captures in order["jobs"]:
        with pa.ipc.new_file(out, INSPECTED) as writer:
            for batch in [_batch([]), *inspect(captures, order["options"], unreadable)]:
                writer.write_batch(batch)
    print(json.dumps(unreadable))


if __name__ == "__main__":
    main()
