"""Kept readings: what metering gave of a capture lies in files named by content, so that it is metered once.

Every capture of a timeline is metered as if others came before and behind it, so that what it gave stays true whatever
is appended: its whole flows, its fragments, its clock and its account.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS, DropReason
from flowloom.schemas.arrow.rows import FLOWS, FRAGMENTS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.columns import column, text_column, view
from flowloom.transforms.captures.groups import CaptureGroup
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.flows.meter import WHOLE, RangePlace
from flowloom.transforms.metering.group_reader import GroupReading
from flowloom.transforms.metering.scheduling import ReadingTask
from flowloom.transforms.packets.ip_fragments import LIFETIME_NS

KEPT_VERSION = 1
"""Raised when metering gives something else of the same capture and definition: what was kept is metered again."""

AMONG_OTHERS = RangePlace(position=1, last=False)
"""The place of a capture of a timeline: something may lie before it and behind it, and no clock is known."""

_META = "reading.json"
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")
"""Readings are kept for long and read once a run (docs/decisions/0023)."""
_MISSED = DropReason.FRAGMENT_WITHOUT_FIRST.column


@dataclasses.dataclass(frozen=True)
class KeptReading:
    """What metering gave of one reading of a group, by the names that a `GroupReading` has for it.

    Attributes:
      folder: where its files are.
      position: its number in its group, one of `of`.
      uris: what its captures are called now, by SHA-256.
    """

    folder: str
    group: str
    position: int
    of: int
    uris: Mapping[str, str]

    @property
    def captures_done(self) -> int:
        """Captures that end in it."""
        return len(self.uris)

    @property
    def flows_short(self) -> int:
        """Flows left out because they had fewer packets than the definition's `min_packets`."""
        return _meta(self.folder)["flows_short"]

    @property
    def clock_ns(self) -> int | None:
        """The latest time in its captures; None without any."""
        return _meta(self.folder)["clock_ns"]

    def flows(self) -> list[pa.RecordBatch]:
        """Return the flows that are whole (`schemas.rows.FLOWS`)."""
        return _read(self.folder, "flows", FLOWS)

    def fragments(self) -> list[pa.RecordBatch]:
        """Return the pieces of flows that other captures may continue, in the order of their keys' hashes."""
        return [_placed(rows, self.position) for rows in _read(self.folder, "fragments", FRAGMENTS)]

    def captures(self) -> pa.RecordBatch:
        """Return the account of its captures (`schemas.accounting.CAPTURES`)."""
        return _renamed(_read(self.folder, "captures", CAPTURES)[0], self.uris)

    def rejects(self) -> pa.RecordBatch:
        """Return one row per place where reading stopped (`schemas.accounting.REJECTS`)."""
        return _renamed(_read(self.folder, "rejects", REJECTS)[0], self.uris)


@dataclasses.dataclass(frozen=True)
class ReadingStore:
    """A folder of kept readings, by key; one appears when it is complete, and is never changed.

    Args:
      root: the folder, made when the first reading is kept.
      definition: what counts as one flow.
    """

    root: str
    definition: FlowDefinition

    def key(self, task: ReadingTask) -> str:
        """Return what decides a reading, as a hexadecimal digest: no path is in it."""
        decisive = {
            "version": KEPT_VERSION,
            "definition": self.definition.model_dump(mode="json"),
            "group": task.group,
            "whole": task.place == WHOLE,
            "captures": [task.sha256[part.uri] for part in task.ranges],
            "earlier": [task.sha256[part.uri] for part in task.earlier],
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def folder(self, task: ReadingTask) -> str:
        """Return where a reading is kept, or would be."""
        return os.path.join(self.root, self.key(task))

    def __contains__(self, task: ReadingTask) -> bool:
        return os.path.exists(self.folder(task))

    def clear(self, wanted: Iterable[str] | None = None) -> None:
        """Remove what was not finished and, if told which folders are wanted, all others."""
        kept = None if wanted is None else set(map(os.path.basename, wanted))
        for name in os.listdir(self.root) if os.path.isdir(self.root) else []:
            if name.startswith(".") or (kept is not None and name not in kept):
                shutil.rmtree(os.path.join(self.root, name))


def group_readings(group: CaptureGroup, sha256: Mapping[str, str], alone: bool) -> list[ReadingTask]:
    """Return the readings of a group: one of each capture, or one of all of them.

    Args:
      sha256: of the group's captures, by uri.
      alone: whether nothing can be appended to the group, or it has to be metered in one piece.
    """
    ranges = [CaptureRange(capture.uri) for capture in group.captures]
    digests = {part.uri: sha256[part.uri] for part in ranges}
    if alone:
        return [ReadingTask(group.group, tuple(ranges), digests, WHOLE, ())]
    return [ReadingTask(group.group, (part,), digests, AMONG_OTHERS, ()) for part in ranges]


def keep_reading(task: ReadingTask, store: ReadingStore) -> None:
    """Meter a task and keep what it gives."""
    if task in store:
        return
    reading = GroupReading(
        task.ranges, task.group, store.definition, sha256=task.sha256, place=task.place, earlier=task.earlier
    )
    partial = os.path.join(store.root, f".{uuid.uuid4().hex}")
    os.makedirs(partial)
    _write(partial, "flows", FLOWS, reading.flows())
    _write(partial, "fragments", FRAGMENTS, reading.fragments() if task.place != WHOLE else [])
    captures = reading.captures()
    _write(partial, "captures", CAPTURES, [_renamed(captures, task.sha256)])
    _write(partial, "rejects", REJECTS, [_renamed(reading.rejects(), task.sha256)])
    meta = {
        "clock_ns": reading.clock_ns,
        "flows_short": reading.flows_short,
        "missed": int(view(captures[_MISSED]).sum()),
    }
    with open(f"{partial}/{_META}", "w", encoding="utf-8") as file:
        json.dump(meta, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, store.folder(task))


def with_missed_fragments(tasks: Sequence[ReadingTask], store: ReadingStore) -> list[ReadingTask]:
    """Return the readings of a group as they have to be, of kept ones that were metered without a look before them.

    One that missed the first fragment of a datagram has to look for it in the captures before it that were on the wire
    within the lifetime of a datagram; for all others these make no difference.
    """
    metas = [_meta(store.folder(task)) for task in tasks]
    wanted = []
    for at, (task, meta) in enumerate(zip(tasks, metas, strict=True)):
        if meta["missed"] and store.definition.fragments == "join" and task.place != WHOLE:
            (first_ns,) = _read(store.folder(task), "captures", CAPTURES)[0]["first_ns"].to_pylist()
            near = [
                earlier.ranges[0]
                for earlier, known in zip(tasks[:at], metas, strict=False)
                if known["clock_ns"] is not None and known["clock_ns"] >= first_ns - LIFETIME_NS
            ]
            digests = {**task.sha256, **{uri: sha for each in tasks[:at] for uri, sha in each.sha256.items()}}
            task = dataclasses.replace(task, earlier=tuple(near), sha256=digests)
        wanted.append(task)
    return wanted


def kept_readings(tasks: Sequence[ReadingTask], store: ReadingStore) -> list[KeptReading]:
    """Return the places of a group's kept readings, in the group's order."""
    return [
        KeptReading(
            store.folder(task),
            task.group,
            at,
            len(tasks),
            {task.sha256[part.uri]: part.uri for part in task.ranges},
        )
        for at, task in enumerate(tasks)
    ]


def _write(folder: str, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with open(f"{folder}/{name}.arrow", "wb") as file:
        with pa.ipc.new_file(file, schema, options=_COMPRESSED) as writer:
            for rows in batches:
                writer.write_batch(rows)
        file.flush()
        os.fsync(file.fileno())


def _read(folder: str, name: str, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Return kept batches."""
    reader = pa.ipc.open_file(pa.memory_map(f"{folder}/{name}.arrow"))
    assert reader.schema == schema, "KEPT_VERSION has to be raised with a schema"
    return [reader.get_batch(at) for at in range(reader.num_record_batches)]


def _meta(folder: str) -> dict[str, Any]:
    with open(f"{folder}/{_META}", encoding="utf-8") as file:
        return json.load(file)


def _renamed(rows: pa.RecordBatch, names: Mapping[str, str]) -> pa.RecordBatch:
    """Return rows with other uris."""
    uris = text_column([names[uri] for uri in rows["uri"].to_pylist()])
    return rows.set_column(rows.schema.get_field_index("uri"), rows.schema.field("uri"), uris)


def _placed(fragments: pa.RecordBatch, position: int) -> pa.RecordBatch:
    """Return fragments at another position of their group."""
    field = fragments.schema.field("range")
    places = column(np.full(fragments.num_rows, position, np.int32), field.type)
    return fragments.set_column(fragments.schema.get_field_index("range"), field, places)
