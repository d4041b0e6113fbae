"""Spill: rows on their way from worker to worker lie in files of the job's folder, and only their places are shuffled.

A shuffle that carries rows holds them in memory several times over, and copies them through coders and sockets. Files
are mapped by whoever reads them. A bundle that is tried again writes new files; what the first attempt left is never
asked for, and goes away with the folder.
"""

import dataclasses
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.io.staging import UNFINISHED

SCRATCH = "spill"
"""Below a job's folder, what is not for the dataset."""

PENDING_BYTES = 64 << 20
"""Bytes of rows that one worker holds back before it spills them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spilled:
    """The place of one record batch: an Arrow IPC file and its position in it."""

    path: str
    batch: int


def spill(batches: Sequence[pa.RecordBatch], job: str) -> list[Spilled]:
    """Write batches of one schema into one new file below a job's folder and return their places, in order."""
    path = _new_file(job)
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return [Spilled(path, at) for at in range(len(batches))]


def spill_bytes(content: bytes, job: str) -> str:
    """Write bytes into one new file below a job's folder and return its path."""
    path = _new_file(job)
    with open(path, "wb") as file:
        file.write(content)
    return path


def _new_file(job: str) -> str:
    folder = f"{job}/{SCRATCH}"
    os.makedirs(folder, exist_ok=True)
    return f"{folder}/{uuid.uuid4().hex}"


def recall(places: Iterable[Spilled]) -> pa.RecordBatch:
    """Return spilled rows as one batch, in the order of `recall_each`; there must be at least one place."""
    batches = recall_each(places)
    return concatenated(batches, batches[0].schema)


def recall_each(places: Iterable[Spilled]) -> list[pa.RecordBatch]:
    """Return spilled batches, whose pages are mapped, in the order of the places' files and positions."""
    by_path: dict[str, list[int]] = {}
    for place in places:
        by_path.setdefault(place.path, []).append(place.batch)
    batches = []
    for path in sorted(by_path):
        reader = pa.ipc.open_file(pa.memory_map(path))
        batches += [reader.get_batch(at) for at in sorted(by_path[path])]
    return batches


def clear(job: str) -> None:
    """Remove everything that a job spilled, and what workers left that were lost while they wrote."""
    shutil.rmtree(f"{job}/{SCRATCH}", ignore_errors=True)
    for path in Path(job).rglob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)
