"""Content-addressed cache of metered captures, so that each is metered once.

Every capture of a timeline is metered as if other captures came before and after it. Its complete flows, fragments,
clock and account therefore stay valid when captures are appended.
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

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS, DropReason, RejectReason
from flowloom.schemas.arrow.rows import FLOWS, FRAGMENTS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import check_digest, file_sha256, sealed_text, unsealed
from flowloom.transforms.arrays.columns import column, text_column, view
from flowloom.transforms.captures.groups import CaptureGroup
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.flows.meter import WHOLE, RangePlace
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.metering.scheduling import MeterTask, first_within_lifetime

CACHE_VERSION = 6
"""Version of the cache; raised when metering gives different results for the same capture and definition."""

AMONG_OTHERS = RangePlace(position=1, last=False)
"""Place of one capture in a timeline: captures may come before and after it, and the clock before it is unknown."""

_META = "reading.json"
_AGAIN = "remove the folder, and the captures are metered again"
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")
"""Compressed, because the cache is kept for long and read once per run (docs/decisions/0023)."""
_MISSED = DropReason.FRAGMENT_WITHOUT_FIRST.column


@dataclasses.dataclass(frozen=True)
class CachedMetering:
    """Cached results of one task, by the names of a `GroupReader`.

    Attributes:
      folder: the folder of the result files.
      position: position of the task among the `of` tasks of its group.
      uris: current uris of the task's captures, by their digests.
      whole: whether the task is its group in one piece, with flows ended at `max_open_flows`; the results of another
        task above that bound are incomplete, and its group must be metered in one piece.
    """

    folder: str
    group: str
    position: int
    of: int
    uris: Mapping[str, str]
    whole: bool

    @property
    def captures_done(self) -> int:
        """Number of captures that end in the task."""
        return len(self.uris)

    @property
    def flows_short(self) -> int:
        """Number of flows below the definition's `min_packets`."""
        return _meta(self.folder)["flows_short"]

    @property
    def most_open(self) -> int:
        """Greatest number of flows that were open at once."""
        return _meta(self.folder)["most_open"]

    @property
    def ended_early(self) -> int:
        """Number of flows that ended for lack of resources."""
        return _meta(self.folder)["ended_early"]

    @property
    def clock_ns(self) -> int | None:
        """Latest time in the captures; None without packets."""
        return _meta(self.folder)["clock_ns"]

    def flows(self) -> list[pa.RecordBatch]:
        """Returns the complete flows (`schemas.rows.FLOWS`)."""
        return _read(self.folder, "flows", FLOWS)

    def fragments(self) -> list[pa.RecordBatch]:
        """Returns the fragments of flows that other captures may continue, in the order of their keys' hashes."""
        return [_placed(rows, self.position) for rows in _read(self.folder, "fragments", FRAGMENTS)]

    def captures(self) -> pa.RecordBatch:
        """Returns the account of the captures (`schemas.accounting.CAPTURES`)."""
        return _renamed(_read(self.folder, "captures", CAPTURES)[0], self.uris)

    def rejects(self) -> pa.RecordBatch:
        """Returns one row per place where reading stopped (`schemas.accounting.REJECTS`)."""
        return _renamed(_read(self.folder, "rejects", REJECTS)[0], self.uris)


@dataclasses.dataclass(frozen=True)
class MeterCache:
    """Folder of cached metering results by key; an entry appears when it is complete and never changes.

    Args:
      root: the folder, made for the first entry.
      definition: the flow definition.
    """

    root: str
    definition: FlowDefinition

    def key(self, task: MeterTask) -> str:
        """Returns the digest of everything that determines the results of a task; paths have no influence."""
        decisive = {
            "version": CACHE_VERSION,
            "definition": self.definition.model_dump(mode="json"),
            "group": task.group,
            "whole": task.place == WHOLE,
            "captures": [task.digests[part.uri] for part in task.ranges],
            "limits": [part.limits.model_dump() for part in task.ranges],
            "origins": [part.origin for part in task.ranges],
            "earlier": [task.digests[part.uri] for part in task.earlier],
            "earlier_clock_ns": task.earlier_clock_ns,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def folder(self, task: MeterTask) -> str:
        """Returns the folder of a task's results, whether or not they are cached."""
        return os.path.join(self.root, self.key(task))

    def __contains__(self, task: MeterTask) -> bool:
        """Returns whether the results of a task are cached; damaged ones are removed, to be made again."""
        folder = self.folder(task)
        if not os.path.exists(folder):
            return False
        try:
            for name, sha256 in _meta(folder)["files"].items():
                check_digest(f"{folder}/{name}", sha256, _AGAIN)
        except (FlowloomError, OSError, ValueError, KeyError, AttributeError):
            shutil.rmtree(folder, ignore_errors=True)
            return False
        return True

    def clear(self, wanted: Iterable[str] | None = None) -> None:
        """Removes unfinished entries, and if `wanted` folders are given, all other entries too."""
        names = None if wanted is None else set(map(os.path.basename, wanted))
        for name in os.listdir(self.root) if os.path.isdir(self.root) else []:
            if name.startswith(".") or (names is not None and name not in names):
                shutil.rmtree(os.path.join(self.root, name))


def plan_cached_group(group: CaptureGroup, digests: Mapping[str, str], alone: bool) -> list[MeterTask]:
    """Returns the cacheable tasks of a group: one for each capture, or one for all of them.

    Args:
      digests: digests of the group's captures, by uri.
      alone: whether one task meters the group, because nothing can be appended to it or it cannot be split.
    """
    origins = group.origins
    ranges = [
        CaptureRange(capture.uri, origin=origins[capture.uri], stamp=capture.stamp, limits=capture.limits)
        for capture in group.captures
    ]
    known = {part.uri: digests[part.uri] for part in ranges}
    if alone:
        return [MeterTask(group.group, tuple(ranges), known, WHOLE, ())]
    return [MeterTask(group.group, (part,), known, AMONG_OTHERS, ()) for part in ranges]


def cache_metering(tasks: Iterable[MeterTask], cache: MeterCache) -> list[str]:
    """Meters the tasks that are not cached yet, and returns the folders of all tasks.

    Nothing is stored of a task whose captures changed or could not be read: it is not in the cache afterwards.
    """
    return [_cache(task, cache) for task in tasks]


def _cache(task: MeterTask, cache: MeterCache) -> str:
    folder = cache.folder(task)
    if task in cache:
        return folder
    reader = GroupReader(
        task.ranges, task.group, cache.definition, place=task.place, earlier=task.earlier,
        earlier_clock_ns=task.earlier_clock_ns, gives_up=True,
    )  # fmt: skip
    partial = os.path.join(cache.root, f".{uuid.uuid4().hex}")
    os.makedirs(partial)
    try:
        if _write_results(task, reader, partial):
            os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write_results(task: MeterTask, reader: GroupReader, partial: str) -> bool:
    """Writes the results of a task into a folder; returns whether it may be kept.

    It is kept under the digests that its captures had before, so these must be those that were found while metering.
    """
    _write(partial, "flows", FLOWS, reader.flows())
    _write(partial, "fragments", FRAGMENTS, reader.fragments() if task.place != WHOLE else [])
    captures = reader.captures()
    _write(partial, "captures", CAPTURES, [_renamed(captures, task.digests)])
    rejects = reader.rejects()
    found = dict(zip(captures["uri"].to_pylist(), captures["digest"].to_pylist(), strict=True))
    if any(digest != task.digests[uri] for uri, digest in found.items()):
        return False
    if {RejectReason.CHANGED, RejectReason.UNREADABLE} & set(rejects["reason"].to_pylist()):
        return False
    _write(partial, "rejects", REJECTS, [_renamed(rejects, task.digests)])
    meta = {
        "clock_ns": reader.clock_ns,
        "flows_short": reader.flows_short,
        "most_open": reader.most_open,
        "ended_early": reader.ended_early,
        "missed": int(view(captures[_MISSED]).sum()),
        "files": {name: file_sha256(f"{partial}/{name}") for name in sorted(os.listdir(partial))},
    }
    with open(f"{partial}/{_META}", "w", encoding="utf-8") as file:
        file.write(sealed_text(json.dumps(meta), 1))
        file.flush()
        os.fsync(file.fileno())
    return True


def with_missed_fragments(tasks: Sequence[MeterTask], cache: MeterCache) -> list[MeterTask]:
    """Returns the tasks of a group with the earlier captures that they need.

    A capture that lacks the first IP fragment of a datagram must look for it in the captures of one datagram lifetime
    before it. Other captures do not depend on earlier ones.

    Args:
      tasks: tasks without earlier captures, whose results are cached.
    """
    metas = [_meta(cache.folder(task)) for task in tasks]
    clocks: list[int | None] = [None]
    for meta in metas:
        known = [clock for clock in (clocks[-1], meta["clock_ns"]) if clock is not None]
        clocks.append(max(known, default=None))
    wanted = []
    for at, (task, meta) in enumerate(zip(tasks, metas, strict=True)):
        if meta["missed"] and cache.definition.fragments == "join" and task.place != WHOLE:
            first = first_within_lifetime(clocks[: at + 1])
            earlier = tuple(each.ranges[0] for each in tasks[first:at])
            digests = {**task.digests, **{uri: sha for each in tasks[:at] for uri, sha in each.digests.items()}}
            task = dataclasses.replace(task, earlier=earlier, earlier_clock_ns=clocks[first], digests=digests)
        wanted.append(task)
    return wanted


def cached_metering(tasks: Sequence[MeterTask], cache: MeterCache) -> list[CachedMetering]:
    """Returns the cached results of a group's tasks, in the group's order."""
    return [
        CachedMetering(
            cache.folder(task),
            task.group,
            at,
            len(tasks),
            {task.digests[part.uri]: part.uri for part in task.ranges},
            task.place == WHOLE,
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
    """Returns cached batches."""
    reader = pa.ipc.open_file(pa.memory_map(f"{folder}/{name}.arrow"))
    assert reader.schema == schema, "CACHE_VERSION must be raised with a schema"
    return [reader.get_batch(at) for at in range(reader.num_record_batches)]


def _meta(folder: str) -> dict[str, Any]:
    with open(f"{folder}/{_META}", encoding="utf-8") as file:
        return dict(unsealed(json.load(file), f"{folder}/{_META}", _AGAIN))


def _renamed(rows: pa.RecordBatch, names: Mapping[str, str]) -> pa.RecordBatch:
    """Returns rows with their uris replaced."""
    uris = text_column([names[uri] for uri in rows["uri"].to_pylist()])
    return rows.set_column(rows.schema.get_field_index("uri"), rows.schema.field("uri"), uris)


def _placed(fragments: pa.RecordBatch, position: int) -> pa.RecordBatch:
    """Returns fragments with another position in their group."""
    field = fragments.schema.field("range")
    places = column(np.full(fragments.num_rows, position, np.int32), field.type)
    return fragments.set_column(fragments.schema.get_field_index("range"), field, places)
