"""`flowloom build`: builds a dataset from a corpus manifest."""

import dataclasses
import os
from collections.abc import Callable
from typing import NamedTuple

from flowloom.pipelines.build_steps import MeteredCaptures, compose, prepare_corpus
from flowloom.pipelines.engines.embedded import EMBEDDED, START_LIMIT_S, running
from flowloom.pipelines.job_events import card_event, report_files
from flowloom.pipelines.manifests import corpus_folder, read_corpus
from flowloom.pipelines.publish import publish, require_vacant
from flowloom.pipelines.whole_groups import require_room, run_with_room, tell_ended_early
from flowloom.schemas.cores import usable_cores
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.dataset.dataset_card import CARD, DatasetCard, read_card
from flowloom.schemas.dataset.dataset_findings import report_problems, require_usable
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.captures.groups import MatchedFiles
from flowloom.transforms.io.filesystems import is_url
from flowloom.transforms.io.spill import clear
from flowloom.transforms.io.staging import staged_folder, temporary_folder
from flowloom.transforms.io.tally import tally, watched
from flowloom.transforms.io.verdict import require_success
from flowloom.transforms.labels.window_sources import label_folder


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """Options of `flowloom build`: the corpus, the output and the engine.

    Attributes:
      out: a directory, or a URL that the finished dataset is published at.
      start_limit_s: seconds that the workers of another engine than the embedded one have for coming up.
      job_folder: where a dataset is built that goes to a URL; all workers have to share it. None: among the temporary
        files of this machine. A directory is built beside its place.
      sha256: whether captures are read again for the SHA-256 of their stored bytes, for the captures table.
      data: the folder of the manifest's relative paths; None: the folder of the manifest.
      allow_empty: whether a dataset is built that lacks a split or a class, or whose manifest names files that are not
        there; its card states what it lacks.
    """

    manifest: str | os.PathLike[str]
    out: str | os.PathLike[str]
    workers: int = dataclasses.field(default_factory=usable_cores)
    runner: str = EMBEDDED
    beam_args: tuple[str, ...] = ()
    start_limit_s: float = START_LIMIT_S
    job_folder: str | os.PathLike[str] | None = None
    sha256: bool = False
    data: str | os.PathLike[str] | None = None
    allow_empty: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise FlowloomError(f"workers must be at least 1, got {self.workers}")
        if self.start_limit_s <= 0:
            raise FlowloomError(f"start_limit_s must be > 0, got {self.start_limit_s}")
        if self.job_folder is not None and not is_url(os.fspath(self.out)):
            raise FlowloomError(f"a job folder is for datasets that go to a URL; {self.out} is built beside its place")

    @property
    def equal_workers(self) -> int | None:
        """Number of workers that get an equal share of the work; None if the runner gives work to idle workers."""
        return self.workers if self.runner == EMBEDDED else None


class _Inputs(NamedTuple):
    """A manifest, the folder of its relative paths, and the files of its captures or their cached results."""

    manifest: CorpusManifest
    folder: str
    captures: MatchedFiles | MeteredCaptures


def build(
    options: BuildOptions,
    progress: Callable[[Progress], None] = ignore_progress,
    metered: MeteredCaptures | None = None,
) -> DatasetCard:
    """Builds a dataset and returns its card.

    Args:
      progress: called about twice a second, from another thread.
      metered: cached captures to build from, instead of the captures that the manifest names.

    Raises:
      FlowloomError: if the manifest, its key file or a label table is invalid, the output exists, no flow could be
        built, a split or a class is empty without `allow_empty`, the engine fails, or the dataset cannot be published;
        `CrowdedGroupsError`, if cached groups must be metered in one piece.
    """
    if metered:
        inputs = _Inputs(metered.manifest, corpus_folder(options.manifest, options.data), metered)
    else:
        inputs = _Inputs(*read_corpus(options.manifest, options.data, allow_empty=options.allow_empty))
    out = os.fspath(options.out)
    if not is_url(out):
        with staged_folder(out) as staging:
            card = _build(options, inputs, staging, progress)
    else:
        require_vacant(out)
        with temporary_folder(os.fspath(options.job_folder) if options.job_folder else None) as staging:
            _build(options, inputs, staging, progress)
            card = publish(staging, out)
    progress(card_event(out, card))
    return card


def _build(
    options: BuildOptions,
    inputs: _Inputs,
    staging: str,
    progress: Callable[[Progress], None],
) -> DatasetCard:
    def run(whole: tuple[str, ...]) -> None:
        _run(options, inputs, staging, progress, whole)

    if not isinstance(inputs.captures, MeteredCaptures):
        run_with_room(run, staging, inputs.manifest.definition, progress)
    else:
        run(())
        require_room(staging)
    require_success(staging, CARD)
    clear(staging)
    card = read_card(staging)
    if not options.allow_empty:
        require_usable(card)
    report_problems(card, progress)
    tell_ended_early(card.accounting.flows_ended_early, card.definition, progress)
    report_files(staging, card, progress, os.fspath(options.out))
    return card


def _run(
    options: BuildOptions,
    inputs: _Inputs,
    staging: str,
    progress: Callable[[Progress], None],
    whole: tuple[str, ...],
) -> None:
    """Runs the pipeline of a build; groups in `whole` are metered in one piece."""
    with label_folder(staging) as scratch, watched(staging, progress):
        prepared = prepare_corpus(*inputs, staging, scratch, options.workers, whole, sha256=options.sha256)
        if options.runner == EMBEDDED and prepared.cached is None:  # workers elsewhere count for themselves
            captures = (capture for group in prepared.plan.groups for capture in group.captures)
            tally(staging).sizes = {capture.uri: capture.size for capture in captures}
        engine = (options.runner, options.workers, options.beam_args)
        with running(*engine, staging, options.start_limit_s) as pipeline:
            compose(pipeline, prepared, staging, options.equal_workers)
