"""`flowloom retrain`: new captures into the dataset, a challenger trained on it, and by a rule a new champion."""

import datetime as dt
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.build_steps import MeteredCaptures
from flowloom.pipelines.engines.embedded import EMBEDDED, start_pipeline, usable_cores
from flowloom.pipelines.manifests import read_manifest
from flowloom.pipelines.retrain.continuity import (
    check_continues,
    check_gone,
    check_manifest,
    check_recipe,
    check_timelines,
)
from flowloom.pipelines.retrain.model_registry import NO_REGISTRY, default_registry, publish, require_mlflow
from flowloom.pipelines.retrain.retrain_page import write_report
from flowloom.pipelines.retrain.state_lock import locked
from flowloom.pipelines.terminal.progress_display import ProgressDisplay
from flowloom.schemas.corpus.manifest import FILE_GROUP, CaptureSource, CorpusManifest
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.extras import require_installed
from flowloom.schemas.models.retrain_state import (
    DATASET,
    FROZEN,
    METER_CACHE,
    NEWEST,
    RUN,
    VERSIONS,
    Figures,
    Promotion,
    PromotionRule,
    RetrainState,
    Version,
    read_state,
    write_state,
)
from flowloom.schemas.models.score_card import MAX_SKEW
from flowloom.transforms.captures.groups import relative_uri
from flowloom.transforms.captures.inventory import FoundCaptures, find_captures
from flowloom.transforms.dataset.increments import drop_shards, freeze_test, judgeable_tasks, write_newest
from flowloom.transforms.io.progress import watched
from flowloom.transforms.io.staging import file_sha256
from flowloom.transforms.metering.meter_cache import (
    MeterCache,
    cached_metering,
    plan_cached_group,
    with_missed_fragments,
)
from flowloom.transforms.metering.metering_ptransforms import CacheMetering
from flowloom.transforms.metering.scheduling import MeterTask
from flowloom.transforms.score.skew import model_skew


@dataclass(frozen=True)
class RetrainOptions:
    """What to retrain, on which corpus, and when to promote.

    Attributes:
      state: the folder of everything that is kept between runs, made by the first.
      recipe, overrides: as `flowloom train` takes them.
      max_drift: from which divergence between new rows and the champion's a feature counts as drifted, in bits.
      registry: `sqlite:///FILE` or the address of an MLflow server; None: a file in the state; "none": no registry.
    """

    state: Path
    manifest: Path
    recipe: str = "multa"
    overrides: tuple[str, ...] = ()
    rule: PromotionRule = field(default_factory=PromotionRule)
    max_drift: float = MAX_SKEW
    registry: str | None = None
    workers: int = field(default_factory=usable_cores)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise FlowloomError(f"workers must be at least 1, got {self.workers}")
        if not 0 <= self.max_drift <= 1:
            raise FlowloomError(f"max_drift must be from 0 to 1 bit, got {self.max_drift:g}")


@dataclass(frozen=True)
class RetrainResult:
    """What came of a run.

    Attributes:
      champion: the version in use now.
      version: what this run made; None where it found nothing to learn from.
      report: its page.
    """

    champion: int
    version: Version | None
    report: Path | None


def retrain(options: RetrainOptions, display: ProgressDisplay) -> RetrainResult:
    """Take up new captures, train a challenger if they gave new rows, and promote it if the rule lets it pass.

    Whatever ends a run, the state is that before it or that behind it; the next run goes on from there.

    Raises:
      FlowloomError: if another run holds the state, manifest or recipe cannot be retrained on or do not continue what
        the state holds, or a step fails.
    """
    # before the first state is made; TensorFlow is imported only when there is something to learn
    manifest = read_manifest(options.manifest)
    check_manifest(manifest)
    require_installed("training needs", ("keras", "sklearn", "tensorflow", "tfx_bsl"), "retrain")

    from flowloom.trainers.recipes.recipe import Recipe

    recipe = Recipe.named(options.recipe, options.overrides)
    check_recipe(recipe)
    if options.registry != NO_REGISTRY:
        require_mlflow()
    with locked(options.state):
        state = read_state(options.state)
        sweep(state, options.state)
        check_continues(state, manifest)
        folder = os.path.dirname(os.path.abspath(options.manifest))
        found = find_captures(manifest.captures, folder, state.seen, options.workers)
        check_gone(manifest, found)
        check_timelines(state, found)
        inputs = inputs_digest(manifest, folder, found)
        version, report = None, None
        if inputs == state.inputs:
            display.line("nothing new: captures, labels and manifest are those of the last run")
            if found.seen != state.seen:  # files were renamed: they need not be digested again
                state = state.model_copy(update={"seen": found.seen})
                write_state(state, options.state)
        else:
            display.line(f"{len(found.new):,} new captures, {len(found.gone):,} gone, {len(found.seen):,} in all")
            state, version, report = _take_up(options, recipe, state, manifest, found, inputs, display)
        if options.registry != NO_REGISTRY:
            publish(state, options.state, options.registry or default_registry(options.state), manifest.name)
        assert state.champion is not None
        return RetrainResult(state.champion, version, report)


def rollback(folder: Path, registry: str | None = None) -> RetrainState:
    """Bring back the champion before the present one, and return the state.

    Raises:
      FlowloomError: if there was none before, or a run holds the state.
    """
    if registry != NO_REGISTRY:
        require_mlflow()
    with locked(folder):
        state = read_state(folder)
        if len(state.line) < 2:
            raise FlowloomError(f"state {folder} has no champion before the present one; nothing was changed")
        back = Promotion(at=_now(), champion=state.line[-2], rollback=True)
        state = state.model_copy(update={"promotions": (*state.promotions, back)})
        write_state(state, folder)
        if registry != NO_REGISTRY:
            assert state.manifest is not None
            publish(state, folder, registry or default_registry(folder), state.manifest.name)
        return state


def _take_up(
    options: RetrainOptions,
    recipe: Any,
    state: RetrainState,
    manifest: CorpusManifest,
    found: FoundCaptures,
    inputs: str,
    display: ProgressDisplay,
) -> tuple[RetrainState, Version | None, Path | None]:
    """Build the dataset of all captures and, if its rows are others, make a version; commit what is true then."""
    root = options.state
    number = len(state.versions) + 1
    place = version_folder(root, number)
    place.mkdir(parents=True)
    cache = MeterCache(str(root / METER_CACHE), manifest.definition)
    metered = meter_new(manifest, found, cache, options.workers, str(place), display)
    card = build(BuildOptions(options.manifest, place / DATASET, options.workers), display.built, metered)
    if state.key_id is not None and card.key_id != state.key_id:
        raise FlowloomError(
            f"the key of the pseudonyms is another one ({card.key_id} instead of {state.key_id}), so that flows have "
            "other ids than before; put the old key file back, or begin another state"
        )
    grown = state.model_copy(update={"manifest": manifest, "key_id": card.key_id, "inputs": inputs, "seen": found.seen})
    version, report = None, None
    if state.versions and state.versions[-1].content_hash == card.content_hash:
        display.line("the new captures gave no new rows: there is nothing to learn")
        shutil.rmtree(place)
    else:
        version = challenge(options, recipe, state, card, found, place, display)
        report = write_report(version, place)
        promotions = (Promotion(at=version.finished, champion=number),) if version.verdict.promoted else ()
        grown = grown.model_copy(
            update={"versions": (*state.versions, version), "promotions": (*state.promotions, *promotions)}
        )
    write_state(grown, root)
    sweep(grown, root)
    cache.clear(each.folder for each in metered.cached)
    return grown, version, report


def meter_new(
    manifest: CorpusManifest,
    found: FoundCaptures,
    cache: MeterCache,
    workers: int,
    job: str,
    display: ProgressDisplay,
) -> MeteredCaptures:
    """Meters the captures that are not cached yet, and returns the cached results of all."""
    cache.clear()
    sizes = {one.uri: one.size for one in found.seen}
    groups = []
    for group in found.plan.groups:
        named = any(manifest.captures[at].group != FILE_GROUP for at in group.sources)
        alone = not (named and manifest.definition.associative)
        groups.append(plan_cached_group(group, found.sha256, alone))
    _cache([task for tasks in groups for task in tasks], sizes, cache, workers, job, display)
    groups = [with_missed_fragments(tasks, cache) for tasks in groups]
    _cache([task for tasks in groups for task in tasks], sizes, cache, workers, job, display)
    return MeteredCaptures(found.plan, tuple(each for tasks in groups for each in cached_metering(tasks, cache)))


def challenge(
    options: RetrainOptions,
    recipe: Any,
    state: RetrainState,
    card: DatasetCard,
    found: FoundCaptures,
    place: Path,
    display: ProgressDisplay,
) -> Version:
    """Train a challenger on a new dataset, and hold it against the champion."""
    from flowloom.trainers.native_logs import native_stderr_muted

    with native_stderr_muted():
        from flowloom.trainers.training.challenger import compare, judge, profiles, train_challenger
    root, number = options.state, len(state.versions) + 1
    champion = None if state.champion is None else version_folder(root, state.champion) / RUN
    newest, drifted = None, None
    if state.versions:
        newest = write_newest(
            str(place / DATASET), str(version_folder(root, number - 1) / DATASET), str(place / NEWEST)
        )
        if champion and newest.splits["train"].rows and (pair := profiles(champion, place / NEWEST)):
            drifted = model_skew(*pair, options.max_drift)
    frozen_before = {task for version in state.versions for task in version.frozen_tasks}
    frozen_now = tuple(task for task in judgeable_tasks(card) if task not in frozen_before)
    if frozen_now:
        freeze_test(str(place / DATASET), frozen_now, str(place / FROZEN))

    display.line(f"training {place / RUN}")
    _, start, reason = train_challenger(recipe, place / DATASET, place / RUN, champion, display.trained)
    frozen_places = [version_folder(root, each.number) / FROZEN for each in state.versions if each.frozen_tasks]
    if frozen_now:
        frozen_places.append(place / FROZEN)
    frozen = compare(champion, place / RUN, frozen_places)
    frozen = {task: _with_best(each, task, state) for task, each in frozen.items()}
    known = {task for version in state.versions for task in version.tasks}
    tasks = tuple(task.name for task in card.tasks)
    return Version(
        number=number,
        finished=_now(),
        content_hash=card.content_hash,
        captures=card.accounting.captures,
        new_captures=tuple(relative_uri(uri, os.path.dirname(os.path.abspath(options.manifest))) for uri in found.new),
        gone_captures=len(found.gone),
        rows={split: counts.rows for split, counts in card.splits.items()},
        new_rows={split: counts.rows for split, counts in (newest or card).splits.items()},
        tasks=tasks,
        new_tasks=tuple(task for task in tasks if task not in known),
        frozen_tasks=frozen_now,
        recipe=recipe.name,
        start=start,
        start_reason=reason,
        champion=state.champion,
        frozen=frozen,
        newest=compare(champion, place / RUN, [place / NEWEST]) if newest else {},
        drift=drifted,
        rule=options.rule,
        verdict=judge(options.rule, frozen, first=champion is None),
    )


def sweep(state: RetrainState, folder: Path) -> None:
    """Remove what a run left that died before it was true, and the rows of datasets that later ones hold."""
    known = {version_folder(folder, version.number).name for version in state.versions}
    for place in (folder / VERSIONS).iterdir() if (folder / VERSIONS).is_dir() else ():
        if place.name not in known:
            shutil.rmtree(place)
    for version in state.versions[:-1]:
        drop_shards(str(version_folder(folder, version.number) / DATASET))


def version_folder(state: Path, number: int) -> Path:
    """Return where a version is."""
    return state / VERSIONS / f"{number:04d}"


def inputs_digest(manifest: CorpusManifest, folder: str, found: FoundCaptures) -> str:
    """Return a digest of all that a dataset is built of: manifest, captures and their sources, tables of labels."""
    tables = sorted(
        {spec.path for entry in manifest.captures if isinstance(entry, CaptureSource) for spec in entry.window_specs
         if hasattr(spec, "path")}
    )  # fmt: skip
    groups = [
        [group.group, [[found.sha256[each.uri], each.sources] for each in group.captures]]
        for group in found.plan.groups
    ]
    told = [
        manifest.model_dump(mode="json"),
        groups,
        [[path, file_sha256(os.path.join(folder, path))] for path in tables],
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _cache(
    tasks: Sequence[MeterTask],
    sizes: Mapping[str, int],
    cache: MeterCache,
    workers: int,
    job: str,
    display: ProgressDisplay,
) -> None:
    """Meters those tasks that are not cached yet, in one small pipeline."""
    unknown = [task for task in tasks if task not in cache]
    if unknown:
        with watched(job, display.metered), start_pipeline(EMBEDDED, workers, ()) as pipeline:
            pipeline | "CacheMetering" >> CacheMetering(unknown, sizes, cache, job, workers)


def _with_best(figures: Figures, task: str, state: RetrainState) -> Figures:
    """Add the highest AUC that champions of the line had on the same rows."""
    had = [state.version(number).frozen.get(task) for number in state.line]
    known = [each.challenger for each in had if each is not None and each.challenger is not None]
    return figures.model_copy(update={"best": max(known, default=None)})


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
