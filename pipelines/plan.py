"""`flowloom plan`: estimates time, memory and disk of a build from small builds of the corpus' captures."""

import dataclasses
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import IO, Literal

from rich import box
from rich.table import Table

from flowloom.pipelines.build_steps import compose, prepare_corpus
from flowloom.pipelines.engines.embedded import EMBEDDED, running
from flowloom.pipelines.manifests import read_corpus
from flowloom.schemas.cores import usable_cores
from flowloom.schemas.corpus.manifest import CaptureSource, CorpusManifest
from flowloom.schemas.dataset.dataset_card import CARD, read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.captures.capture_files import open_stored
from flowloom.transforms.captures.groups import Capture, GroupPlan, match_sources, plan_corpus
from flowloom.transforms.io.archives import MemberFile
from flowloom.transforms.io.compressions import uncompressed
from flowloom.transforms.io.staging import temporary_folder
from flowloom.transforms.io.verdict import require_success
from flowloom.transforms.labels.window_sources import label_folder
from flowloom.transforms.metering.build_estimate import (
    STORED,
    BuildEstimate,
    Range,
    Rates,
    estimate_build,
    work_pieces,
)

SAMPLES = 3
"""Small builds that are measured; their lowest and highest rates are the bounds of the estimate."""
SAMPLE_CAPTURES = 16
SAMPLE_BYTES = 16 << 20
"""Captures, and bytes of them, of one sample at most."""
_FIRST_BYTES = 64 << 10


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Options of `flowloom plan`: the build to estimate, and rates `measured` on samples or `stored`.

    Attributes:
      data: the folder of the manifest's relative paths; None: the folder of the manifest.
    """

    manifest: str | os.PathLike[str]
    workers: int = dataclasses.field(default_factory=usable_cores)
    rates: Literal["measured", "stored"] = "measured"
    data: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise FlowloomError(f"workers must be at least 1, got {self.workers}")
        if self.rates not in ("measured", "stored"):
            raise FlowloomError(f"rates must be measured or stored, got {self.rates!r}")


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Measurements of one small build."""

    bytes: int
    cpu_s: float
    packets: int
    flows: int
    dataset_bytes: int
    spill_bytes: int


def plan(options: PlanOptions, progress: Callable[[Progress], None] = ignore_progress) -> BuildEstimate:
    """Estimates time, memory and disk of a build.

    Raises:
      FlowloomError: if the manifest is invalid, names no capture that can be read, or its samples cannot be built.
    """
    manifest, folder, files = read_corpus(options.manifest, options.data)
    cores = usable_cores()
    corpus = plan_corpus(manifest, folder, files, cores)
    captures = [capture for group in corpus.groups for capture in group.captures if capture.first_ns is not None]
    if not captures:
        raise FlowloomError(
            f"{options.manifest} names no capture with records, and published files are not estimated; "
            "check its globs, or just build it"
        )
    pieces = work_pieces(corpus.groups, manifest.definition, manifest.output.split_bytes)
    rates = STORED if options.rates == "stored" else measure_rates(manifest, folder, corpus, progress)
    found = estimate_build(pieces, len(captures), rates, options.workers, cores, manifest.output.shards)
    left_out = [entry.name for entry in manifest.captures if not isinstance(entry, CaptureSource)]
    if left_out:
        bases = (*found.bases, f"published files are not in the estimate: {', '.join(left_out)}")
        found = dataclasses.replace(found, bases=bases)
    return found


def measure_rates(
    manifest: CorpusManifest, folder: str, corpus: GroupPlan, progress: Callable[[Progress], None] = ignore_progress
) -> Rates:
    """Builds samples of a corpus' captures with one worker, in a folder that goes away, and returns what they took.

    What a build costs whatever it reads is measured on the beginning of a single capture, and taken off the others.

    Raises:
      FlowloomError: if a sample cannot be built.
    """
    captures = [capture for group in corpus.groups for capture in group.captures if capture.first_ns is not None]
    samples = choose_samples(captures)
    with temporary_folder(None, "flowloom-plan") as scratch:
        smallest = min(captures, key=lambda capture: capture.size)
        progress(Progress("starting up", 0, len(samples), stays=True))
        _build(manifest, folder, [(smallest, _FIRST_BYTES)], f"{scratch}/first")
        startup_s = time.process_time()
        least = _build(manifest, folder, [(smallest, _FIRST_BYTES)], f"{scratch}/least")
        taken = []
        for number, sample in enumerate(samples):
            text = f"building sample {number + 1} of {len(samples)}"
            progress(Progress(text, number, len(samples), stays=True))
            taken.append(_build(manifest, folder, sample, f"{scratch}/{number}"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    costs = [max(each.cpu_s - least.cpu_s, 0.1 * each.cpu_s) / each.bytes for each in taken]
    read = sum(each.bytes for each in taken)
    count = sum(map(len, samples))
    return Rates(
        source=f"measured: {len(taken)} samples of {count} captures, {read / 1e6:.1f} MB, built on this machine",
        startup_s=startup_s,
        cpu_s_per_byte=Range(min(costs), statistics.median(costs), max(costs)),
        packets_per_byte=sum(each.packets for each in taken) / read,
        flows_per_byte=sum(each.flows for each in taken) / read,
        dataset_bytes=sum(each.dataset_bytes for each in taken) / read,
        spill_bytes=sum(each.spill_bytes for each in taken) / read,
        peak_bytes=float(peak),
    )


def choose_samples(captures: Sequence[Capture]) -> list[list[tuple[Capture, int]]]:
    """Returns up to `SAMPLES` sets of captures, and how many of their first bytes are read of each.

    Captures are chosen at equal distances in the order of their size, the largest among them; each is in one sample.
    """
    ordered = sorted(captures, key=lambda capture: (capture.size, capture.uri))
    wanted = min(SAMPLES * SAMPLE_CAPTURES, len(ordered))
    last = len(ordered) - 1
    chosen = [ordered[last - number * last // max(wanted - 1, 1)] for number in range(wanted)]
    sets = [chosen[at::SAMPLES] for at in range(min(SAMPLES, len(chosen)))]
    return [[(capture, SAMPLE_BYTES // len(part)) for capture in part] for part in sets]


def _first_bytes(source: IO[bytes], count: int) -> bytes:
    """Returns the first bytes of a file as it is stored, or of an inflated member of an archive."""
    if isinstance(source, MemberFile) and source.compression:
        pieces, found = uncompressed(source, source.compression), b""
        while len(found) < count and (piece := next(pieces, b"")):
            found += piece
        return found[:count]
    return source.read(count)


def _build(manifest: CorpusManifest, folder: str, sample: Sequence[tuple[Capture, int]], staging: str) -> _Measured:
    """Builds a dataset of the first bytes of some captures, and returns what that took."""
    os.makedirs(f"{staging}/captures")
    entries, size = [], 0
    for number, (capture, first) in enumerate(sample):
        copy = f"{staging}/captures/{number}"
        with open_stored(capture.uri) as source, open(copy, "wb") as target:
            target.write(_first_bytes(source, first))
        size += os.path.getsize(copy)
        entries += [manifest.captures[at].model_copy(update={"glob": copy}) for at in capture.sources]
    # splits that look for classes in the captures could not be made of a few of them
    changed = {"captures": tuple(entries), "splits": manifest.splits.model_copy(update={"by": "flow"})}
    small = manifest.model_copy(update=changed)
    begun = time.process_time()
    with label_folder(staging) as scratch:
        corpus = prepare_corpus(small, folder, match_sources(entries, folder), staging, scratch, 1)
        with running(EMBEDDED, 1, (), staging) as pipeline:
            compose(pipeline, corpus, staging, 1)
    taken = time.process_time() - begun
    try:
        require_success(staging, CARD)
    except FlowloomError as error:
        raise FlowloomError(f"a sample of the corpus cannot be built ({error}); use --rates stored") from None
    account = read_card(staging).accounting
    spilled = _folder_bytes(f"{staging}/spill")
    shards = sum(_folder_bytes(f"{staging}/{view}") for view in small.views)
    return _Measured(size, taken, account.metered, account.flows, shards, spilled)


def _folder_bytes(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


def plan_table(found: BuildEstimate) -> Table:
    """Returns an estimate as a table for people."""
    workers = f"{found.workers} worker{'s' if found.workers > 1 else ''}"
    title = f"{found.captures:,} captures, {found.bytes / 1e9:.3g} GB, by {workers}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("estimate", no_wrap=True)
    for name in ("low", "likely", "high"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = {
        "time, s": (found.seconds, 1.0),
        "memory of this machine, GB": (found.memory_bytes, 1e9),
        "dataset, GB": (found.dataset_bytes, 1e9),
        "temporary files, GB": (found.temporary_bytes, 1e9),
    }
    for name, (values, unit) in rows.items():
        table.add_row(name, *(f"{value / unit:,.3g}" for value in (values.low, values.likely, values.high)))
    table.add_section()
    table.add_row("packets", "", f"{found.packets:,}", "")
    table.add_row("flows", "", f"{found.flows:,}", "")
    return table
