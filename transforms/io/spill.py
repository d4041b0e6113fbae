"""Spill files: rows between two steps of a job lie in files, and only their places are shuffled.

A shuffle that carries rows holds them in memory several times, and copies them through coders and sockets. A reader
maps the files instead. A bundle that is tried again writes new files; nobody reads those of the first attempt, and they
are removed with the folder.
"""

import dataclasses
import os
import shutil
import uuid
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa

from flowloom.schemas.atomic_files import UNFINISHED, file_named
from flowloom.transforms.arrays.columns import concatenated

SCRATCH = "spill"
"""Folder of the spill files below a job's folder; it is no part of the dataset."""

PENDING_BYTES = 64 << 20
"""Bytes of rows that one worker holds in memory before it spills them."""

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True, slots=True)
class Spilled:
    """The place of one record batch: an Arrow IPC file and its position in it.

    Attributes:
      stream: the batch itself as an Arrow IPC stream, in a job without a folder; the path is empty then.
    """

    path: str
    batch: int
    stream: bytes | None = None


def spill_batches(batches: Sequence[pa.RecordBatch], job: str | None) -> list[Spilled]:
    """Writes batches of one schema into a new file below a job's folder and returns their places, in order.

    Args:
      job: the job's folder; None if its workers share none: the places then carry the rows.
    """
    if job is None:
        return [Spilled("", at, _stream(batch)) for at, batch in enumerate(batches)]
    path = _new_file(job)
    with file_named(path), pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return [Spilled(path, at) for at in range(len(batches))]


def spill_bytes(content: bytes, job: str) -> str:
    """Writes bytes into a new file below a job's folder and returns its path."""
    path = _new_file(job)
    with file_named(path), open(path, "wb") as file:
        file.write(content)
    return path


class SpillBuffer(Generic[Key]):
    """Rows by key, held in memory until they fill a spill file.

    Rows of equal schemas are spilled into one file, so that a bundle makes few files however many keys it has.

    Args:
      job: the job's folder; None if there is none.
      limit_bytes: bytes of rows from which on everything is spilled.
      joined: whether all rows of a key become one batch in the file; otherwise batches stay as they were added.
    """

    def __init__(self, job: str | None, limit_bytes: int = PENDING_BYTES, *, joined: bool = True):
        self._job = job
        self._limit_bytes = limit_bytes
        self._joined = joined
        self._pending: dict[Key, list[pa.RecordBatch]] = {}
        self._bytes = 0

    def add(self, parts: Iterable[tuple[Key, pa.RecordBatch]]) -> list[tuple[Key, Spilled]]:
        """Adds rows, and spills everything once all of them are in and the limit is reached.

        Args:
          parts: keys and rows; the rows of one key have one schema.

        Returns:
          Keys and places of what was spilled, empty below the limit.
        """
        for key, rows in parts:
            self._pending.setdefault(key, []).append(rows)
            self._bytes += rows.nbytes
        return self.flush() if self._bytes >= self._limit_bytes else []

    def flush(self) -> list[tuple[Key, Spilled]]:
        """Spills the rows that are left; returns their keys and places, by schema and in the order of adding."""
        pending, self._pending, self._bytes = self._pending, {}, 0
        files: dict[pa.Schema, list[Key]] = {}
        for key, batches in pending.items():
            files.setdefault(batches[0].schema, []).append(key)
        places: list[tuple[Key, Spilled]] = []
        for schema, keys in files.items():
            rows = [(key, batch) for key in keys for batch in self._batches(pending[key], schema)]
            places += zip((key for key, _ in rows), spill_batches([batch for _, batch in rows], self._job), strict=True)
        return places

    def _batches(self, rows: list[pa.RecordBatch], schema: pa.Schema) -> list[pa.RecordBatch]:
        return [concatenated(rows, schema)] if self._joined else rows


def _new_file(job: str) -> str:
    folder = f"{job}/{SCRATCH}"
    os.makedirs(folder, exist_ok=True)
    return f"{folder}/{uuid.uuid4().hex}"


def _stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def read_spilled(places: Iterable[Spilled]) -> pa.RecordBatch:
    """Returns spilled rows as one batch, in the order of `read_batches`; there must be at least one place."""
    batches = read_batches(places)
    return concatenated(batches, batches[0].schema)


def read_batches(places: Iterable[Spilled]) -> list[pa.RecordBatch]:
    """Returns spilled batches as views of their mapped files, in the order of paths and positions."""
    by_path: dict[str, list[int]] = {}
    batches = []
    for place in places:
        if place.stream is None:
            by_path.setdefault(place.path, []).append(place.batch)
        else:
            batches.append(pa.ipc.open_stream(place.stream).read_next_batch())
    for path in sorted(by_path):
        reader = pa.ipc.open_file(pa.memory_map(path))
        batches += [reader.get_batch(at) for at in sorted(by_path[path])]
    return batches


def clear(job: str) -> None:
    """Removes all spill files of a job, and the unfinished files of workers that were lost."""
    shutil.rmtree(f"{job}/{SCRATCH}", ignore_errors=True)
    for path in Path(job).rglob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)
