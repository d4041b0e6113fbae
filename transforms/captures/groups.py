"""Capture groups: the files that a manifest matches, grouped by content into timelines."""

import collections
import concurrent.futures
import dataclasses
import glob
import os
import re
from collections.abc import Iterable, Sequence

import pyarrow as pa

from flowloom.schemas.arrow.accounting import REJECTS, RejectReason
from flowloom.schemas.arrow.rows import GROUP_DIGITS
from flowloom.schemas.corpus.capture_limits import NO_LIMITS, CaptureLimits
from flowloom.schemas.corpus.manifest import FILE_GROUP, ROTATED_GROUP, CaptureSource, CorpusManifest, Entry
from flowloom.schemas.printable import printable
from flowloom.transforms.arrays.columns import batch, concatenated
from flowloom.transforms.captures.capture_files import (
    CaptureError,
    FileStamp,
    capture_digest,
    capture_fingerprint,
    match_captures,
    name_fault,
    open_stored,
    stamp_of,
)
from flowloom.transforms.captures.capture_folders import folder_captures
from flowloom.transforms.captures.formats import first_time_ns
from flowloom.transforms.io.rotation import rotation_stem


@dataclasses.dataclass(frozen=True)
class Capture:
    """Readable capture file, with the positions of the manifest's sources that match it, ascending.

    Attributes:
      size: its bytes as stored.
      digest: digest of all its bytes (`capture_digest.py`); None until metering finds it, unless two captures have the
        same fingerprint.
      first_ns: time of its first record with a time, in ns since the epoch; None if there is none.
      stamp: the stamp of a local file; None for a URL.
      limits: how many bytes it may become if it is compressed.
      copies: other paths of the same bytes.
    """

    uri: str
    size: int
    fingerprint: str
    digest: str | None
    first_ns: int | None
    sources: tuple[int, ...]
    stamp: FileStamp | None = None
    limits: CaptureLimits = NO_LIMITS
    copies: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Identifier of its content in the corpus: the digest of all its bytes if known, else its fingerprint."""
        return self.digest or self.fingerprint


@dataclasses.dataclass(frozen=True)
class CaptureGroup:
    """Files of one timeline, in the order of their first records."""

    group: str
    captures: tuple[Capture, ...]

    @property
    def sources(self) -> tuple[int, ...]:
        """Positions of the manifest's sources that match any of its files, ascending: the order of precedence."""
        return tuple(sorted({source for capture in self.captures for source in capture.sources}))

    @property
    def origins(self) -> dict[str, int]:
        """A 64-bit number of each capture by uri, from its fingerprint; part of flow ids.

        Of captures with the same fingerprint, which differ in their middle, it comes from the digest of all bytes.
        """
        bearers = collections.Counter(capture.fingerprint for capture in self.captures)
        return {
            capture.uri: origin_of(capture.fingerprint if bearers[capture.fingerprint] == 1 else capture.identity)
            for capture in self.captures
        }

    @property
    def has_records(self) -> bool:
        """True if any of its files has a readable record."""
        return any(capture.first_ns is not None for capture in self.captures)


@dataclasses.dataclass(frozen=True)
class GroupPlan:
    """Capture groups of a corpus by ascending id, and a reject row for every file rejected already."""

    groups: tuple[CaptureGroup, ...]
    rejects: pa.RecordBatch


@dataclasses.dataclass(frozen=True)
class MatchedFiles:
    """Files that the sources of a manifest match, listed once.

    Attributes:
      uris: the files of each source, sorted; none for published files.
      rejects: reject rows for sources without files, and for bad names.
    """

    uris: tuple[tuple[str, ...], ...]
    rejects: pa.RecordBatch

    def sources(self) -> dict[str, list[int]]:
        """Returns the positions of the sources that match each file, ascending."""
        found: dict[str, list[int]] = {}
        for position, uris in enumerate(self.uris):
            for uri in uris:
                found.setdefault(uri, []).append(position)
        return found


def origin_of(fingerprint: str) -> int:
    """Returns the number of a capture in flow ids: the first 64 bits of its fingerprint."""
    return int(fingerprint[:16] or "0", 16)


def match_source(source: CaptureSource, folder: str) -> tuple[list[str], pa.RecordBatch]:
    """Returns the files that a source's glob matches, sorted, and reject rows for none and for bad names.

    Args:
      folder: the folder of relative globs.
    """
    local = "://" not in source.glob
    # a folder named [x] is no pattern; join keeps an absolute glob as it is
    pattern = os.path.join(glob.escape(folder), source.glob) if local else source.glob
    try:
        uris = match_captures(pattern)
        reason, detail = RejectReason.NO_MATCH, "matches no file; check the path and the spelling"
    except OSError as error:
        uris = []
        reason, detail = RejectReason.UNREADABLE, f"cannot list the files ({error}); check path and permissions"
    if uris:
        uris = [os.path.normpath(uri) if local else uri for uri in uris]
        faults = {uri: fault for uri in uris if (fault := name_fault(uri))}
        rejected = [(printable(uri), 0, RejectReason.UNREADABLE, fault) for uri, fault in faults.items()]
        return [uri for uri in uris if uri not in faults], reject_rows(rejected)
    if not re.search(r"[*?\[]", source.glob):
        reason = RejectReason.UNREADABLE
        detail = "no such file; check the path: a relative path is searched beside the manifest, or here"
    return [], reject_rows([(source.glob, 0, reason, detail)])


def match_sources(sources: Sequence[Entry], folder: str) -> MatchedFiles:
    """Returns the files that every source's glob matches; see `match_source`."""
    matched = [
        match_source(source, folder) if isinstance(source, CaptureSource) else ([], reject_rows([]))
        for source in sources
    ]
    rejects = concatenated([rejected for _, rejected in matched], REJECTS)
    return MatchedFiles(tuple(tuple(uris) for uris, _ in matched), rejects)


def identify_capture(uri: str, sources: Iterable[int]) -> Capture:
    """Reads a file's fingerprint and the time of its first record.

    Raises:
      CaptureError: if the file cannot be opened. Other damage shows when it is read.
    """
    with open_stored(uri) as file:
        stamp = stamp_of(uri, file)
        size, fingerprint = capture_fingerprint(uri, file)
        try:
            first_ns = first_time_ns(uri, file)
        except CaptureError:
            first_ns = None
    return Capture(uri, size, fingerprint, None, first_ns, tuple(sorted(set(sources))), stamp)


def tell_apart(captures: Iterable[Capture]) -> list[Capture]:
    """Digests all bytes of files with the same fingerprint: they are copies, or differ in their middle."""
    bearers: dict[str, list[Capture]] = {}
    for capture in captures:
        bearers.setdefault(capture.fingerprint, []).append(capture)
    for alike in bearers.values():
        if len(alike) > 1:
            alike[:] = [
                dataclasses.replace(one, digest=one.digest or capture_digest(one.uri, one.stamp)) for one in alike
            ]
    return [capture for alike in bearers.values() for capture in alike]


def relative_uri(uri: str, folder: str) -> str:
    """Returns a uri relative to the manifest's folder if it lies below, else unchanged."""
    below = os.path.join(folder, "")
    return uri.removeprefix(below)


def plan_groups(captures: Iterable[Capture], sources: Sequence[Entry], folder: str = "") -> GroupPlan:
    """Puts captures into groups that depend on their content alone.

    Files with the same bytes are one capture: it is read once, from the first path in order, with the labels of every
    source that matches any of its paths. A capture belongs to the group named by its first source that names one, or
    under `rotated` to the group of its name's stem; every other capture is a group of its own.
    """
    by_content: dict[tuple[str, str], list[Capture]] = {}
    for capture in sorted(captures, key=lambda capture: capture.uri):
        # files without records stay separate, so that each has a reject row of its own
        apart = "" if capture.first_ns is not None else capture.uri
        by_content.setdefault((capture.identity, apart), []).append(capture)
    rejected: list[tuple[str, int, RejectReason, str]] = []
    members: dict[tuple[str, str], list[Capture]] = {}
    for (identity, apart), copies in by_content.items():
        known = tuple(sorted({source for copy in copies for source in copy.sources}))
        named = next((sources[at].group for at in known if sources[at].group != FILE_GROUP), FILE_GROUP)
        within = {FILE_GROUP: identity + apart, ROTATED_GROUP: rotation_stem(copies[0].uri)}
        timeline = (named, within.get(named, ""))
        others = tuple(copy.uri for copy in copies[1:])
        members.setdefault(timeline, []).append(dataclasses.replace(copies[0], sources=known, copies=others))
        first = relative_uri(copies[0].uri, folder)
        same = f"has the same bytes as {first}, which is read once with the labels of both"
        rejected += [(copy.uri, 0, RejectReason.DUPLICATE, same) for copy in copies[1:]]
    groups = [_group(files) for files in members.values()]
    bearers = collections.Counter(group.group for group in groups)
    # large files can have the same fingerprint; the digests of all their bytes differ
    groups = [group if bearers[group.group] == 1 else _group(group.captures, whole=True) for group in groups]
    return GroupPlan(
        groups=tuple(sorted(groups, key=lambda group: (group.group, group.captures[0].uri))),
        rejects=reject_rows(rejected),
    )


def reject_rows(rows: Sequence[tuple[str, int, RejectReason, str]]) -> pa.RecordBatch:
    """Returns `REJECTS` rows from (uri, offset, reason, detail)."""
    return batch([dict(zip(REJECTS.names, row, strict=True)) for row in rows], REJECTS)


def _group(files: Sequence[Capture], *, whole: bool = False) -> CaptureGroup:
    ordered = sorted(files, key=lambda file: (file.first_ns is None, file.first_ns or 0, file.identity, file.uri))
    first = ordered[0].identity if whole else ordered[0].fingerprint
    # by its first capture alone, so that flow ids, which depend on it, stay the same when a timeline grows
    return CaptureGroup(first[:GROUP_DIGITS], tuple(ordered))


def limited(plan: GroupPlan, limits: CaptureLimits) -> GroupPlan:
    """Returns a plan whose captures have limits."""
    groups = (
        dataclasses.replace(group, captures=tuple(dataclasses.replace(each, limits=limits) for each in group.captures))
        for group in plan.groups
    )
    return dataclasses.replace(plan, groups=tuple(groups))


def plan_corpus(manifest: CorpusManifest, folder: str, files: MatchedFiles, workers: int = 1) -> GroupPlan:
    """Identifies every file of a manifest once, and puts them into groups; see `plan_files`."""
    return limited(plan_files(manifest.captures, folder, files, workers), manifest.limits)


def plan_captures(sources: Sequence[Entry], folder: str, workers: int = 1) -> GroupPlan:
    """Matches every source, identifies every file once, and puts them into groups; see `plan_files`."""
    return plan_files(sources, folder, match_sources(sources, folder), workers)


def plan_files(sources: Sequence[Entry], folder: str, files: MatchedFiles, workers: int = 1) -> GroupPlan:
    """Identifies every file once, and puts them into groups.

    It reads only the ends and the first records of a capture, before any worker starts.

    Args:
      folder: the folder of relative globs.
      files: the files that the sources match.
      workers: the number of files that are read in parallel.
    """
    matches = files.sources()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        looked_at = list(pool.map(identified, matches, matches.values()))
    captures = tell_apart(found for found in looked_at if isinstance(found, Capture))
    plan = plan_groups(captures, sources, folder)
    unread = [found for found in looked_at if isinstance(found, pa.RecordBatch)]
    return GroupPlan(plan.groups, concatenated([files.rejects, *unread, plan.rejects], REJECTS))


def read_captures(names: Iterable[str], group: str = FILE_GROUP) -> list[GroupPlan]:
    """Returns a plan for each group of captures. Rejects, if any, are one more plan without groups.

    Args:
      names: paths, folders, globs or URLs.
      group: as in a manifest: `file`, `rotated`, or the name of one group of all captures.
    """
    source = CaptureSource(glob="", group=group)
    found: dict[str, Capture | pa.RecordBatch] = {}
    for name in names:
        uris, rejects = match_name(name)
        found |= {uri: identified(uri, [0]) for uri in uris if uri not in found}
        found |= {name: rejects} if rejects.num_rows else {}
    return plan_each_group(found.values(), source)


def match_name(name: str) -> tuple[list[str], pa.RecordBatch]:
    """Returns the files of a path, folder, glob or URL, and reject rows for none."""
    if not os.path.isdir(name):
        return match_source(CaptureSource(glob=name), "")
    found = folder_captures(name)
    return list(found.captures), reject_rows([(uri, 0, reason, detail) for uri, reason, detail in found.rejects(name)])


def plan_each_group(found: Iterable[Capture | pa.RecordBatch], source: CaptureSource) -> list[GroupPlan]:
    """Returns a plan for each group of captures of one source, and one for all rejects, if any."""
    captures: list[Capture] = []
    rejects: list[pa.RecordBatch] = []
    for each in found:
        if isinstance(each, Capture):
            captures.append(each)
        else:
            rejects.append(each)
    plan = plan_groups(tell_apart(captures), [source])
    rejected = concatenated([*rejects, plan.rejects], REJECTS)
    plans = [GroupPlan((group,), reject_rows([])) for group in plan.groups]
    return [*plans, GroupPlan((), rejected)] if rejected.num_rows else plans


def identified(uri: str, sources: Iterable[int]) -> Capture | pa.RecordBatch:
    """Returns a file as a capture, or the reject row of a file that cannot be opened."""
    try:
        return identify_capture(uri, sources)
    except CaptureError as error:
        return reject_rows([(uri, error.offset, error.reason, error.detail)])
