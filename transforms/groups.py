"""Capture groups: which files a manifest means, and which of them continue each other, told by content, not name."""

import collections
import dataclasses
import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa

from flowloom.schemas.accounting import REJECTS, RejectReason
from flowloom.schemas.manifest import FILE_GROUP, ROTATED_GROUP, CaptureSource, CorpusManifest
from flowloom.transforms.captures import CaptureError, capture_fingerprint, capture_sha256, match_captures
from flowloom.transforms.columns import batch
from flowloom.transforms.formats import first_time_ns
from flowloom.transforms.meter import GROUP_DIGITS
from flowloom.transforms.rotation import rotation_stem


@dataclasses.dataclass(frozen=True)
class Capture:
    """One file that could be opened, and the positions of the manifest's sources that match it, ascending."""

    uri: str
    sha256: str
    fingerprint: str
    first_ns: int | None
    """Time of its first record in ns since the epoch; None where no record can be read."""
    sources: tuple[int, ...]


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
        detail = "no such file; check the path, which is relative to the manifest unless it is absolute"
    return [], reject_rows([(source.glob, 0, reason, detail)])


def identify_capture(uri: str, sources: Iterable[int]) -> Capture:
    """Read a file's digest and the time of its first record.

    Raises:
      CaptureError: if the file cannot be opened. What else is wrong with it shows when it is read.
    """
    sha256, fingerprint = capture_sha256(uri), capture_fingerprint(uri)
    try:
        first_ns = first_time_ns(uri)
    except CaptureError:
        first_ns = None
    return Capture(uri, sha256, fingerprint, first_ns, tuple(sorted(set(sources))))


def relative_uri(uri: str, folder: str) -> str:
    """Return a uri as the manifest could write it: relative to its folder where it lies below, else as it is."""
    below = os.path.join(folder, "")
    return uri.removeprefix(below)


def plan_groups(captures: Iterable[Capture], sources: Sequence[CaptureSource], folder: str = "") -> GroupPlan:
    """Put captures into groups that depend on their content alone.

    Files with the same bytes are one capture: it is read once, from the first path in order, and every source that
    matches any of its paths knows its labels. A capture belongs to the group that its first source with a named group
    names, under `rotated` to that of its name's stem; all others are groups of their own.
    """
    by_content: dict[tuple[str, str], list[Capture]] = {}
    for capture in sorted(captures, key=lambda capture: capture.uri):
        # files without records are kept apart, so that each says for itself what is wrong with it
        apart = "" if capture.first_ns is not None else capture.uri
        by_content.setdefault((capture.sha256, apart), []).append(capture)
    rejected: list[tuple[str, int, RejectReason, str]] = []
    members: dict[tuple[str, str], list[Capture]] = {}
    for (sha256, apart), copies in by_content.items():
        known = tuple(sorted({source for copy in copies for source in copy.sources}))
        named = next((sources[at].group for at in known if sources[at].group != FILE_GROUP), FILE_GROUP)
        within = {FILE_GROUP: sha256 + apart, ROTATED_GROUP: rotation_stem(copies[0].uri)}
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


def group_id(digests: Sequence[str]) -> str:
    """Return the id of a group whose files, in the order of their first records, have these fingerprints in hex."""
    if len(digests) == 1:
        return digests[0][:GROUP_DIGITS]
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()[:GROUP_DIGITS]


def reject_rows(rows: Sequence[tuple[str, int, RejectReason, str]]) -> pa.RecordBatch:
    """Return `REJECTS` rows from (uri, offset, reason, detail)."""
    return batch([dict(zip(REJECTS.names, row, strict=True)) for row in rows], REJECTS)


def _group(files: Sequence[Capture], *, whole: bool = False) -> CaptureGroup:
    ordered = sorted(files, key=lambda file: (file.first_ns is None, file.first_ns or 0, file.sha256, file.uri))
    prints = [(file.sha256 if whole else file.fingerprint, file.first_ns) for file in ordered]
    readable = [name for name, first_ns in prints if first_ns is not None]
    return CaptureGroup(group_id(readable or [prints[0][0]]), tuple(ordered))


@dataclasses.dataclass
class PlanGroups(beam.PTransform):
    """From a pipeline to its `GroupPlan` (one element): match every source, identify every file once, `plan_groups`."""

    manifest: CorpusManifest
    folder: str

    def expand(self, root: Any) -> Any:
        """Return the plan, and a reject batch for every file that is set aside."""
        sources = self.manifest.captures
        matches, unmatched = (
            root
            | "Sources" >> beam.Create(list(enumerate(sources)))
            | "Match" >> beam.ParDo(_Match(self.folder)).with_outputs("rejects", main="matches")
        )
        captures, unread = (
            matches
            | "OncePerFile" >> beam.GroupByKey()
            | "Identify" >> beam.ParDo(_Identify()).with_outputs("rejects", main="captures")
        )
        plan = (
            captures
            | "AllCaptures" >> beam.combiners.ToList()
            | "Plan" >> beam.Map(plan_groups, sources, self.folder).with_output_types(GroupPlan)
        )
        rejects = (unmatched, unread, plan | "Duplicates" >> beam.Map(lambda plan: plan.rejects)) | beam.Flatten()
        return plan, rejects


class _Match(beam.DoFn):
    def __init__(self, folder: str):
        self._folder = folder

    def process(self, element: tuple[int, CaptureSource]) -> Iterator[Any]:
        position, source = element
        uris, rejects = match_source(source, self._folder)
        for uri in uris:
            yield uri, position
        if rejects.num_rows:
            yield beam.pvalue.TaggedOutput("rejects", rejects)


class _Identify(beam.DoFn):
    def process(self, element: tuple[str, Iterable[int]]) -> Iterator[Any]:
        uri, sources = element
        try:
            yield identify_capture(uri, sources)
        except CaptureError as error:
            yield beam.pvalue.TaggedOutput("rejects", reject_rows([(uri, error.offset, error.reason, error.detail)]))
