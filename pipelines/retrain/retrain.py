"""`flowloom retrain`: adds new captures to a dataset, trains a challenger, and promotes it by a rule."""

import dataclasses
import datetime as dt
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.build_steps import MeteredCaptures
from flowloom.pipelines.engines.embedded import EMBEDDED, running
from flowloom.pipelines.job_events import report_version
from flowloom.pipelines.manifests import corpus_folder, read_corpus, read_manifest
from flowloom.pipelines.retrain.continuity import (
    check_continues,
    check_gone,
    check_manifest,
    check_recipe,
    check_timelines,
)
from flowloom.pipelines.retrain.increments import drop_shards, freeze_test, judgeable_tasks, write_newest
from flowloom.pipelines.retrain.model_registry import NO_REGISTRY, default_registry, publish, require_mlflow
from flowloom.pipelines.retrain.retrain_page import write_report
from flowloom.pipelines.whole_groups import CrowdedGroupsError
from flowloom.schemas.cores import usable_cores
from flowloom.schemas.corpus.manifest import FILE_GROUP, CaptureSource, CorpusManifest
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.extras import require_installed
from flowloom.schemas.file_digests import file_sha256
from flowloom.schemas.folder_lock import locked_folder
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
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.captures.groups import limited, relative_uri
from flowloom.transforms.captures.inventory import FoundCaptures, find_captures
from flowloom.transforms.io.tally import watched
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
    """Options of `retrain`.

    Attributes:
      state: the folder of datasets, models and verdicts, created by the first run.
      manifest: the corpus manifest.
      recipe, overrides: as for `flowloom train`.
      rule: decides whether a challenger is promoted.
      max_drift: divergence between new rows and those of the champion from which a feature counts as drifted, in bits.
      data: the folder of the manifest's relative paths; None: the folder of the manifest.
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
    data: Path | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise FlowloomError(f"workers must be at least 1, got {self.workers}")
        if not 0 <= self.max_drift <= 1:
            raise FlowloomError(f"max_drift must be from 0 to 1 bit, got {self.max_drift:g}")


@dataclass(frozen=True)
class RetrainResult:
    """Result of a run.

    Attributes:
      champion: number of the version in use.
      version: the version made by this run; None if there were no new rows.
      report: the page of that version.
    """

    champion: int
    version: Version | None
    report: Path | None


def retrain(options: RetrainOptions, progress: Callable[[Progress], None] = ignore_progress) -> RetrainResult:
    """Adds new captures, trains a challenger if they gave new rows, and promotes it if it passes the rule.

    However a run ends, the state is either the old one or the complete new one, and the next run continues from it.

    Raises:
      FlowloomError: if another run holds the state, the manifest or recipe does not suit retraining or does not
        continue the state, or a step fails.
    """
    # checked before the first state is made; TensorFlow is imported only if there is something to learn
    check_manifest(read_manifest(options.manifest))
    require_installed("training needs", ("keras", "sklearn", "tensorflow", "tfx_bsl"), "retrain")

    from flowloom.trainers.recipes.recipe import Recipe

    recipe = Recipe.named(options.recipe, options.overrides)
    check_recipe(recipe)
    if options.registry != NO_REGISTRY:
        require_mlflow()
    with locked_folder(options.state):
        state = read_state(options.state)
        remove_leftovers(state, options.state)
        known = [one.uri for one in state.seen]
        manifest, folder, files = read_corpus(options.manifest, options.data, known, allow_empty=True)
        check_continues(state, manifest)
        found = find_captures(manifest.captures, folder, files, state.seen, options.workers)
        found = dataclasses.replace(found, plan=limited(found.plan, manifest.limits))
        check_gone(manifest, found)
        check_timelines(state, found)
        inputs = inputs_digest(manifest, folder, found)
        version, report = None, None
        if inputs == state.inputs:
            text = "nothing new: captures, labels and manifest are unchanged since the last run"
            progress(Progress(text, stays=True))
            if found.seen != state.seen:  # renamed files: store their new places, so that they are not digested again
                state = state.model_copy(update={"seen": found.seen})
                write_state(state, options.state)
        else:
            text = f"{len(found.new):,} new captures, {len(found.gone):,} gone, {len(found.seen):,} in all"
            progress(Progress(text, stays=True))
            state, version, report = _add_captures(options, recipe, state, manifest, found, inputs, progress)
        if options.registry != NO_REGISTRY:
            publish(state, options.state, options.registry or default_registry(options.state), manifest.name)
        assert state.champion is not None
        return RetrainResult(state.champion, version, report)


def rollback(folder: Path, registry: str | None = None) -> RetrainState:
    """Restores the previous champion, and returns the state.

    Raises:
      FlowloomError: if there is no previous champion, or another run holds the state.
    """
    if registry != NO_REGISTRY:
        require_mlflow()
    with locked_folder(folder):
        state = read_state(folder)
        if len(state.line) < 2:
            raise FlowloomError(f"{folder}: the state has no previous champion; nothing was changed")
        restored = Promotion(at=_now(), champion=state.line[-2], rollback=True)
        state = state.model_copy(update={"promotions": (*state.promotions, restored)})
        write_state(state, folder)
        if registry != NO_REGISTRY:
            assert state.manifest is not None
            publish(state, folder, registry or default_registry(folder), state.manifest.name)
        return state


def _add_captures(
    options: RetrainOptions,
    recipe: Any,
    state: RetrainState,
    manifest: CorpusManifest,
    found: FoundCaptures,
    inputs: str,
    progress: Callable[[Progress], None],
) -> tuple[RetrainState, Version | None, Path | None]:
    """Builds the dataset of all captures, makes a version if its rows changed, and commits the new state."""
    root = options.state
    number = len(state.versions) + 1
    place = version_folder(root, number)
    place.mkdir(parents=True)
    cache = MeterCache(str(root / METER_CACHE), manifest.definition)
    metered = meter_new(manifest, found, cache, options.workers, str(place), progress)
    # the first nights of a state may lack a class; `challenge` judges the tasks that can be judged
    build_options = BuildOptions(
        options.manifest, place / DATASET, options.workers, data=options.data, allow_empty=True
    )
    try:
        card = build(build_options, progress, metered)
    except CrowdedGroupsError as error:
        metered = meter_new(manifest, found, cache, options.workers, str(place), progress, error.groups)
        card = build(build_options, progress, metered)
    if state.key_id is not None and card.key_id != state.key_id:
        raise FlowloomError(
            f"the key of pseudonyms must be {state.key_id}, got {card.key_id}, which changes the ids of all flows; "
            "restore the old key file, or begin another state"
        )
    grown = state.model_copy(update={"manifest": manifest, "key_id": card.key_id, "inputs": inputs, "seen": found.seen})
    version, report = None, None
    if state.versions and state.versions[-1].content_hash == card.content_hash:
        progress(Progress("the new captures gave no new rows, so no challenger is trained", stays=True))
        shutil.rmtree(place)
    else:
        version = challenge(options, recipe, state, card, found, place, progress)
        report = write_report(version, place)
        report_version(version, progress)
        promotions = (Promotion(at=version.finished, champion=number),) if version.verdict.promoted else ()
        grown = grown.model_copy(
            update={"versions": (*state.versions, version), "promotions": (*state.promotions, *promotions)}
        )
    write_state(grown, root)
    remove_leftovers(grown, root)
    cache.clear(each.folder for each in metered.cached)
    return grown, version, report


def meter_new(
    manifest: CorpusManifest,
    found: FoundCaptures,
    cache: MeterCache,
    workers: int,
    job: str,
    progress: Callable[[Progress], None],
    whole: Sequence[str] = (),
) -> MeteredCaptures:
    """Meters captures that are not in the meter cache, and returns the metered captures of the whole corpus.

    Args:
      whole: names of groups that are metered in one piece.
    """
    cache.clear()
    sizes = {one.uri: one.size for one in found.seen}
    groups = []
    for group in found.plan.groups:
        named = any(manifest.captures[at].group != FILE_GROUP for at in group.sources)
        alone = group.group in whole or not (named and manifest.definition.associative)
        groups.append(plan_cached_group(group, found.digests, alone))
    _cache([task for tasks in groups for task in tasks], sizes, cache, workers, job, progress)
    groups = [with_missed_fragments(tasks, cache) for tasks in groups]
    _cache([task for tasks in groups for task in tasks], sizes, cache, workers, job, progress)
    cached = tuple(each for tasks in groups for each in cached_metering(tasks, cache))
    return MeteredCaptures(manifest, found.plan, cached)


def challenge(
    options: RetrainOptions,
    recipe: Any,
    state: RetrainState,
    card: DatasetCard,
    found: FoundCaptures,
    place: Path,
    progress: Callable[[Progress], None],
) -> Version:
    """Trains a challenger on a new dataset, and compares it with the champion."""
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

    progress(Progress(f"training {place / RUN}", stays=True))
    _, start, reason = train_challenger(recipe, place / DATASET, place / RUN, champion, progress)
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
        new_captures=tuple(relative_uri(uri, corpus_folder(options.manifest, options.data)) for uri in found.new),
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


def remove_leftovers(state: RetrainState, folder: Path) -> None:
    """Removes versions of interrupted runs, and the shards of datasets that later ones contain."""
    known = {version_folder(folder, version.number).name for version in state.versions}
    for place in (folder / VERSIONS).iterdir() if (folder / VERSIONS).is_dir() else ():
        if place.name not in known:
            shutil.rmtree(place)
    for version in state.versions[:-1]:
        drop_shards(str(version_folder(folder, version.number) / DATASET))


def version_folder(state: Path, number: int) -> Path:
    """Returns the folder of a version."""
    return state / VERSIONS / f"{number:04d}"


def inputs_digest(manifest: CorpusManifest, folder: str, found: FoundCaptures) -> str:
    """Returns a digest of all inputs of a dataset: manifest, captures with their sources, and label tables."""
    tables = sorted(
        {spec.path for entry in manifest.captures if isinstance(entry, CaptureSource) for spec in entry.window_specs
         if hasattr(spec, "path")}
    )  # fmt: skip
    groups = [
        [group.group, [[found.digests[each.uri], each.sources] for each in group.captures]]
        for group in found.plan.groups
    ]
    inputs = [
        manifest.model_dump(mode="json"),
        groups,
        [[path, file_sha256(os.path.join(folder, path))] for path in tables],
    ]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _cache(
    tasks: Sequence[MeterTask],
    sizes: Mapping[str, int],
    cache: MeterCache,
    workers: int,
    job: str,
    progress: Callable[[Progress], None],
) -> None:
    """Meters the captures that are not in the meter cache, in one small pipeline."""
    unknown = [task for task in tasks if task not in cache]
    if unknown:
        count = watched(job, progress, "{captures:,} captures metered")
        with count, running(EMBEDDED, workers, (), job) as pipeline:
            pipeline | "CacheMetering" >> CacheMetering(unknown, sizes, cache, job, workers)
    lost = [part.uri for task in unknown if task not in cache for part in task.ranges]
    if lost:
        more = f" and {len(lost) - 3:,} more" if len(lost) > 3 else ""
        raise FlowloomError(
            f"captures must not change while they are metered, got {', '.join(lost[:3])}{more} changed or unreadable; "
            "run again when they are complete"
        )


def _with_best(figures: Figures, task: str, state: RetrainState) -> Figures:
    """Adds the highest AUC of any champion of the line on the same rows."""
    earlier = [state.version(number).frozen.get(task) for number in state.line]
    known = [each.challenger for each in earlier if each is not None and each.challenger is not None]
    return figures.model_copy(update={"best": max(known, default=None)})


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
