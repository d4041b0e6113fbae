"""Capture groups: which files a manifest means, and which of them continue each other, told by content, not name."""

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
from flowloom.schemas.corpus.manifest import FILE_GROUP, ROTATED_GROUP, CaptureSource, CorpusManifest, Entry
from flowloom.transforms.arrays.columns import batch, concatenated
from flowloom.transforms.captures.capture_files import (
    FINGERPRINT_BYTES,
    CaptureError,
    capture_fingerprint,
    capture_sha256,
    match_captures,
    open_stored,
)
from flowloom.transforms.captures.formats import first_time_ns
from flowloom.transforms.captures.rotation import rotation_stem


@dataclasses.dataclass(frozen=True)
class Capture:
    """One file that could be opened, and the positions of the manifest's sources that match it, ascending.

    Attributes:
      size: its bytes as stored.
      sha256: None while nobody needs it: all bytes of a large capture take as long to digest as to meter.
      first_ns: time of its first record that has one, in ns since the epoch; None where none can be read.
    """

    uri: str
    size: int
    fingerprint: str
    sha256: str | None
    first_ns: int | None
    sources: tuple[int, ...]

    @property
    def identity(self) -> str:
        """What tells its content from that of all others of the corpus: its fingerprint, or all of its bytes."""
        return self.sha256 or self.fingerprint


@dataclasses.dataclass(frozen=True)
class CaptureGroup:
    """Files that are one timeline, in the order of their first records, and the sources that know of them."""

    group: str
    captures: tuple[Capture, ...]

    @property
    def sources(self) -> tuple[int, ...]:
        """Positions of the manifest's sources that match any of its files, ascending: the order of precedence."""
        return tuple(sorted({source for capture in self.captures for source in capture.sources}))

    @property
    def has_records(self) -> bool:
        """Whether any of its files has a record that can be read."""
        return any(capture.first_ns is not None for capture in self.captures)


@dataclasses.dataclass(frozen=True)
class GroupPlan:
    """All capture groups of a corpus by ascending id, and a reject row for every file that is set aside already."""

    groups: tuple[CaptureGroup, ...]
    rejects: pa.RecordBatch


def match_source(source: CaptureSource, folder: str) -> tuple[list[str], pa.RecordBatch]:
    """Return the files that a source's glob matches, sorted, and a reject row if there are none.

    Args:
      folder: what relative globs are relative to.
    """
    local = "://" not in source.glob
    # a folder named [x] must not be taken for a pattern; join keeps a glob that is absolute
    pattern = os.path.join(glob.escape(folder), source.glob) if local else source.glob
    try:
        uris = match_captures(pattern)
        reason, detail = RejectReason.NO_MATCH, "matches no file; check the path and the spelling"
    except OSError as error:
        uris = []
        reason, detail = RejectReason.UNREADABLE, f"cannot list the files ({error}); check path and rights"
    if uris:
        return [os.path.normpath(uri) if local else uri for uri in uris], reject_rows([])
    if not re.search(r"[*?\[]", source.glob):
        reason = RejectReason.UNREADABLE
        detail = "no such file; check the path: a relative one is looked for beside the manifest, or here"
    return [], reject_rows([(source.glob, 0, reason, detail)])


def identify_capture(uri: str, sources: Iterable[int]) -> Capture:
    """Read a file's fingerprint and the time of its first record; of a small one also the digest of all its bytes.

    Raises:
      CaptureError: if the file cannot be opened. What else is wrong with it shows when it is read.
    """
    with open_stored(uri) as file:
        size, fingerprint = capture_fingerprint(uri, file)
        sha256 = capture_sha256(uri, file) if size <= FINGERPRINT_BYTES else None
        try:
            first_ns = first_time_ns(uri, file)
        except CaptureError:
            first_ns = None
    return Capture(uri, size, fingerprint, sha256, first_ns, tuple(sorted(set(sources))))


def tell_apart(captures: Iterable[Capture]) -> list[Capture]:
    """Digest all bytes of those files that agree in their fingerprint: they are copies, or differ in their middle."""
    bearers: dict[str, list[Capture]] = {}
    for capture in captures:
        bearers.setdefault(capture.fingerprint, []).append(capture)
    for alike in bearers.values():
        if len(alike) > 1:
            alike[:] = [dataclasses.replace(one, sha256=one.sha256 or capture_sha256(one.uri)) for one in alike]
    return [capture for alike in bearers.values() for capture in alike]


def relative_uri(uri: str, folder: str) -> str:
    """Return a uri as the manifest could write it: relative to its folder where it lies below, else as it is."""
    below = os.path.join(folder, "")
    return uri.removeprefix(below)


def plan_groups(captures: Iterable[Capture], sources: Sequence[Entry], folder: str = "") -> GroupPlan:
    """Put captures into groups that depend on their content alone.

    Files with the same bytes are one capture: it is read once, from the first path in order, and every source that
    matches any of its paths knows its labels. A capture belongs to the group that its first source with a named group
    names, under `rotated` to that of its name's stem; all others are groups of their own.
    """
    by_content: dict[tuple[str, str], list[Capture]] = {}
    for capture in sorted(captures, key=lambda capture: capture.uri):
        # files without records are kept apart, so that each says for itself what is wrong with it
        apart = "" if capture.first_ns is not None else capture.uri
        by_content.setdefault((capture.identity, apart), []).append(capture)
    rejected: list[tuple[str, int, RejectReason, str]] = []
    members: dict[tuple[str, str], list[Capture]] = {}
    for (identity, apart), copies in by_content.items():
        known = tuple(sorted({source for copy in copies for source in copy.sources}))
        named = next((sources[at].group for at in known if sources[at].group != FILE_GROUP), FILE_GROUP)
        within = {FILE_GROUP: identity + apart, ROTATED_GROUP: rotation_stem(copies[0].uri)}
        timeline = (named, within.get(named, ""))
        members.setdefault(timeline, []).append(dataclasses.replace(copies[0], sources=known))
        first = relative_uri(copies[0].uri, folder)
        same = f"has the same bytes as {first}, which is read once with the labels of both"
        rejected += [(copy.uri, 0, RejectReason.DUPLICATE, same) for copy in copies[1:]]
    groups = [_group(files) for files in members.values()]
    bearers = collections.Counter(group.group for group in groups)
    # large files can agree in what a fingerprint sees; all their bytes tell them apart
    groups = [group if bearers[group.group] == 1 else _group(group.captures, whole=True) for group in groups]
    return GroupPlan(
        groups=tuple(sorted(groups, key=lambda group: (group.group, group.captures[0].uri))),
        rejects=reject_rows(rejected),
    )


def reject_rows(rows: Sequence[tuple[str, int, RejectReason, str]]) -> pa.RecordBatch:
    """Return `REJECTS` rows from (uri, offset, reason, detail)."""
    return batch([dict(zip(REJECTS.names, row, strict=True)) for row in rows], REJECTS)


def _group(files: Sequence[Capture], *, whole: bool = False) -> CaptureGroup:
    ordered = sorted(files, key=lambda file: (file.first_ns is None, file.first_ns or 0, file.identity, file.uri))
    first = ordered[0].identity if whole else ordered[0].fingerprint
    # by its first capture alone: flows, whose ids begin with it, are the same when a timeline goes on
    return CaptureGroup(first[:GROUP_DIGITS], tuple(ordered))


def plan_corpus(manifest: CorpusManifest, folder: str, workers: int = 1) -> GroupPlan:
    """Match every source of a manifest, identify every file once, and put them into groups; see `plan_captures`."""
    return plan_captures(manifest.captures, folder, workers)


def plan_captures(sources: Sequence[Entry], folder: str, workers: int = 1) -> GroupPlan:
    """Match every source, identify every file once, and put them into groups.

    It reads no more of a capture than its ends and its first records, so it is done before any worker starts.

    Args:
      folder: what relative globs are relative to.
      workers: files that are looked at side by side.
    """
    matches: dict[str, list[int]] = {}
    rejects = []
    for position, source in enumerate(sources):
        if not isinstance(source, CaptureSource):
            continue
        uris, unmatched = match_source(source, folder)
        rejects.append(unmatched)
        for uri in uris:
            matches.setdefault(uri, []).append(position)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        looked_at = list(pool.map(_identified, matches.items()))
    captures = tell_apart(found for found in looked_at if isinstance(found, Capture))
    plan = plan_groups(captures, sources, folder)
    rejects += [found for found in looked_at if isinstance(found, pa.RecordBatch)]
    return GroupPlan(plan.groups, concatenated([*rejects, plan.rejects], REJECTS))


def _identified(match: tuple[str, list[int]]) -> Capture | pa.RecordBatch:
    """Return a file as a capture, or the reject row that says why it is none."""
    uri, sources = match
    try:
        return identify_capture(uri, sources)
    except CaptureError as error:
        return reject_rows([(uri, error.offset, error.reason, error.detail)])
