"""Inventory of captures: new files of a manifest, by the digest of all their bytes, and missing known ones."""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from flowloom.schemas.arrow.accounting import REJECTS
from flowloom.schemas.corpus.manifest import CaptureSource, Entry
from flowloom.schemas.models.retrain_state import SeenCapture, Stamp
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.captures.capture_files import (
    CaptureError,
    FileStamp,
    capture_digest,
    change,
    glob_names,
)
from flowloom.transforms.captures.groups import (
    Capture,
    GroupPlan,
    MatchedFiles,
    identify_capture,
    plan_groups,
    reject_rows,
)


@dataclasses.dataclass(frozen=True)
class FoundCaptures:
    """Captures of a corpus: those that are present, and known ones that are gone.

    Attributes:
      plan: their groups, and the files rejected already.
      seen: all of them, in the order of their uris.
      new: uris of captures whose bytes were unknown.
      gone: former uris of known captures that are no longer found.
      digests: digest of each capture by uri.
    """

    plan: GroupPlan
    seen: tuple[SeenCapture, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]
    digests: Mapping[str, str]


def find_captures(
    sources: Sequence[Entry], folder: str, files: MatchedFiles, known: Iterable[SeenCapture], workers: int = 1
) -> FoundCaptures:
    """Digests every file that was not digested before, and puts all captures into groups.

    A file is not read again while its path, size, times and inode are the same. A known capture that is not found stays
    in its group as long as a source's glob matches its path and no other file lies there.

    Args:
      folder: the folder of relative globs.
      files: the files that the sources match.
      known: the captures of earlier runs.
      workers: the number of files that are read in parallel.
    """
    known = list(known)
    matches = files.sources()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        looked_at = list(pool.map(functools.partial(_seen, {one.uri: one for one in known}), matches))
    present = [found for found in looked_at if isinstance(found, SeenCapture)]
    unread = [found for found in looked_at if isinstance(found, pa.RecordBatch)]

    there = {one.digest for one in present}
    gone = []
    for one in known:
        named = [at for at, source in enumerate(sources) if _names(source, folder, one.uri)]
        if one.digest not in there and one.uri not in matches and named:
            matches[one.uri] = named
            there.add(one.digest)
            gone.append(one)
    seen = sorted([*present, *gone], key=lambda one: one.uri)
    plan = plan_groups([_capture(*one, matches[one[0].uri]) for one in _told_apart(seen)], sources, folder)
    before = {one.digest for one in known}
    digests = {one.uri: one.digest for one in seen}
    group_of = {digests[capture.uri]: group.group for group in plan.groups for capture in group.captures}
    return FoundCaptures(
        GroupPlan(plan.groups, concatenated([files.rejects, *unread, plan.rejects], REJECTS)),
        tuple(one.model_copy(update={"group": group_of[one.digest]}) for one in seen),
        tuple(one.uri for one in present if one.digest not in before),
        tuple(one.uri for one in gone),
        digests,
    )


def _names(source: Entry, folder: str, uri: str) -> bool:
    if not isinstance(source, CaptureSource):
        return False
    if "://" in source.glob or os.path.isabs(source.glob):
        return glob_names(source.glob, uri)
    below = os.path.join(folder, "")
    wanted = os.path.normpath(source.glob)
    return uri.startswith(below) and glob_names(wanted, uri.removeprefix(below))


def _seen(known: Mapping[str, SeenCapture], uri: str) -> SeenCapture | pa.RecordBatch:
    """Returns a file as a capture, read if it may have changed, or the reject row of an unreadable one."""
    try:
        stamp = _stamp(uri)
        if stamp is not None and uri in known and known[uri].stamp == stamp:
            return known[uri]
        found = identify_capture(uri, ())
        before = _file_stamp(stamp)
        if changed := change(before, found.stamp, 0):
            raise changed
        digest = found.digest or capture_digest(uri, before)
    except CaptureError as error:
        return reject_rows([(uri, error.offset, error.reason, error.detail)])
    return SeenCapture(
        uri=uri,
        size=found.size,
        digest=digest,
        fingerprint=found.fingerprint,
        first_ns=found.first_ns,
        stamp=stamp,
    )


def _stamp(uri: str) -> Stamp | None:
    """Returns the metadata of a local file, before its bytes are read; None for a URL or a missing file."""
    try:
        status = os.stat(uri)
    except OSError:
        return None
    return Stamp(size=status.st_size, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns, inode=status.st_ino)


def _told_apart(seen: Sequence[SeenCapture]) -> list[tuple[SeenCapture, str | None]]:
    """Returns captures, with the digest where `tell_apart` would compute one for groups."""
    bearers: dict[str, int] = {}
    for one in seen:
        bearers[one.fingerprint] = bearers.get(one.fingerprint, 0) + 1
    return [(one, one.digest if bearers[one.fingerprint] > 1 else None) for one in seen]


def _capture(one: SeenCapture, digest: str | None, sources: Iterable[int]) -> Capture:
    stamp = _file_stamp(one.stamp)
    return Capture(one.uri, one.size, one.fingerprint, digest, one.first_ns, tuple(sorted(set(sources))), stamp)


def _file_stamp(stamp: Stamp | None) -> FileStamp | None:
    return None if stamp is None else FileStamp(stamp.size, stamp.mtime_ns, stamp.inode)
