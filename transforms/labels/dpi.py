"""Labels by deep packet inspection: nDPI, run by NFStream over captures, as label windows."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.label_windows import INSPECTED, UNKNOWN_LABEL
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.label_sources import Dpi
from flowloom.schemas.corpus.label_words import label_code
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.extras import require_installed
from flowloom.transforms.arrays.columns import column, view
from flowloom.transforms.arrays.ip_addresses import parse_addresses
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.records import END
from flowloom.transforms.windows.window_index import window_batch

TOLERANCE_NS = 1_000_000
"""NFStream cuts times to milliseconds."""

_MS = 1_000_000
_NEVER_S = 1_000_000_000
_PROGRAM = "flowloom.transforms.labels.nfstream_worker"


def require_nfstream() -> None:
    """Checks that NFStream is installed.

    Raises:
      FlowloomError: if it is not installed.
    """
    require_installed("labels by dpi need", ("nfstream",), "dpi")


def nfstream_options(definition: FlowDefinition) -> dict[str, object]:
    """Returns the options of NFStreamer that best match a flow definition: timeouts and tunnels."""
    return {
        "idle_timeout": max(1, round(definition.idle_s)),
        "active_timeout": _NEVER_S if definition.active_s is None else max(1, round(definition.active_s)),
        "decode_tunnels": "gtp-u" in definition.tunnels,
    }


def inspect_captures(
    jobs: Mapping[str, Sequence[str]], definition: FlowDefinition, python: str = sys.executable
) -> dict[str, str]:
    """Writes the flows that NFStream finds in captures as Arrow files of `schemas.label_windows.INSPECTED`.

    One process does all jobs, because loading nDPI takes seconds. Captures that are compressed or not local are copied
    beside the output file, and the copies are removed afterwards.

    Args:
      jobs: consecutive captures by output file.
      python: a Python interpreter with NFStream and this package.

    Returns:
      The reason for each capture that cannot be read.
    """
    plain: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for out, uris in jobs.items():
        for at, uri in enumerate(uris):
            try:
                plain[uri] = _plain(uri, f"{out}.{at}")
            except CaptureError as error:
                unreadable[uri] = error.detail
    order = {
        "options": nfstream_options(definition),
        "jobs": [(out, [plain[uri] for uri in uris if uri in plain]) for out, uris in jobs.items()],
    }
    try:
        done = subprocess.run(
            [python, "-m", _PROGRAM],
            input=json.dumps(order) + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        for uri, path in plain.items():
            if path != uri:
                os.remove(path)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        for out in jobs:
            with pa.ipc.new_file(out, INSPECTED) as writer:
                writer.write_batch(pa.RecordBatch.from_pylist([], schema=INSPECTED))
        return unreadable | dict.fromkeys(plain, f"NFStream failed: {reason}")
    reasons = json.loads(done.stdout.splitlines()[-1])
    return unreadable | {uri: reasons[path] for uri, path in plain.items() if path in reasons}


def read_inspected(path: str) -> pa.RecordBatch:
    """Returns the flows in an output file of `inspect_captures`."""
    with pa.ipc.open_file(pa.memory_map(path)) as reader:
        return pa.concat_batches([reader.get_batch(at) for at in range(reader.num_record_batches)])


def dpi_windows(inspected: pa.RecordBatch, dpi: Dpi, task: Task) -> pa.RecordBatch:
    """Returns NFStream's flows (`INSPECTED`) as label windows, without flows of invalid times.

    A label is `UNKNOWN_LABEL` if nDPI guessed it, if its confidence is below `min_confidence`, or if neither the
    mapping of the source nor the vocabulary has it.
    """
    damaged = (view(inspected["first_ms"]) < 0) | (view(inspected["last_ms"]) >= END // _MS)
    if damaged.any():  # no metered packet has such times
        inspected = inspected.take(column(np.flatnonzero(~damaged), pa.int64()))
    names = inspected[dpi.field].dictionary_encode()
    mapped = [label_code(name, dpi.words, task) for name in names.dictionary.to_pylist()]
    codes = np.array([UNKNOWN_LABEL if code is None else code for code in mapped], np.int32)[view(names.indices)]
    confidence = view(inspected["confidence"])
    codes[confidence < dpi.min_confidence] = UNKNOWN_LABEL
    if dpi.guesses == "unknown":
        codes[pc.cast(inspected["guessed"], pa.uint8()).to_numpy() == 1] = UNKNOWN_LABEL
    (src, _), (dst, _) = (parse_addresses(inspected[name]) for name in ("src_ip", "dst_ip"))
    ends = {name: view(inspected[name]) for name in ("src_port", "dst_port", "protocol")}
    first_ns, last_ns = (view(inspected[name]) * _MS for name in ("first_ms", "last_ms"))
    return window_batch({"src_ip": src, "dst_ip": dst, **ends}, first_ns, last_ns + (_MS - 1), codes, confidence)


def _plain(uri: str, copy: str) -> str:
    """Returns the path of a local and uncompressed file of its own, which is the capture itself or a copy."""
    with contextlib.closing(CaptureBytes(uri)) as capture:
        if capture.compression == "none" and os.path.isfile(uri):
            return uri
        with open(copy, "wb") as file:
            while len(capture.window):
                file.write(capture.window.data)
                capture.advance(len(capture.window))
        return copy
