"""Checks that a run continues a state, so that no row that trained one version tests another."""

import json
from typing import TYPE_CHECKING, Any

import pydantic

from flowloom.schemas.arrow.rows import FLOW_IDS
from flowloom.schemas.corpus.manifest import CaptureSource, CorpusManifest
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.models.retrain_state import RetrainState
from flowloom.transforms.captures.inventory import FoundCaptures

if TYPE_CHECKING:
    from flowloom.trainers.recipes.recipe import Recipe


def check_manifest(manifest: CorpusManifest) -> None:
    """Rejects a manifest under which appended captures change splits, labels or ids of earlier rows.

    Raises:
      FlowloomError: if the manifest is of that kind; names the key and its mend.
    """
    if manifest.splits.by != "flow":
        raise FlowloomError(
            f"splits must be by: flow for retrain, got by: {manifest.splits.by}, which may move a flow from the train "
            "split of one version to the test split of the next; write splits: {by: flow}"
        )
    found = [task.name for task in manifest.tasks if task.dividers is not None and task.dividers.method != "given"]
    if found:
        raise FlowloomError(
            f"dividers of {', '.join(found)} must be given for retrain, as they would be recomputed from each run's "
            "train rows; take the dividers of a first build from its card, and write method: given, at: [...]"
        )
    if manifest.identity == "drop":
        raise FlowloomError(
            "identity must be keep or pseudonym for retrain, got drop, which changes all flow ids when captures are "
            "appended; write identity: pseudonym with a key_file"
        )
    if manifest.views != ("flows",) or manifest.published:
        raise FlowloomError(
            f"views must be [flows] without published entries for retrain, got [{', '.join(manifest.views)}]"
            f"{' and published entries' if manifest.published else ''}; write views: [flows] and remove the entries"
        )


def check_recipe(recipe: "Recipe") -> None:
    """Rejects a recipe that cannot continue from a trained model.

    Raises:
      FlowloomError: if the recipe trains in phases, in mixed precision, on other rows than flows, or not all tasks.
    """
    if recipe.schedule.paradigm in ("incremental", "transfer", "isolated"):
        raise FlowloomError(
            f"schedule.paradigm must be one that continues from a trained model, got {recipe.schedule.paradigm}; set "
            "schedule.paradigm=auto"
        )
    if recipe.view != "flows":
        raise FlowloomError(
            f"recipe must have a model of flows for retrain, got {recipe.model.kind} of {recipe.view}; choose another "
            "recipe"
        )
    if recipe.schedule.mixed_precision:
        raise FlowloomError(
            "schedule.mixed_precision must be false for retrain, which continues from float32 weights, got true; "
            "remove it"
        )
    if recipe.feed.tasks:
        raise FlowloomError(
            "feed.tasks must be empty for retrain, which trains all tasks of the manifest, got "
            f"{', '.join(recipe.feed.tasks)}; remove it"
        )


def check_continues(state: RetrainState, manifest: CorpusManifest) -> None:
    """Rejects a manifest whose rows or labels differ in meaning from those of the state.

    Raises:
      FlowloomError: if they differ; names the key.
    """
    if state.manifest is None:
        return
    if state.flow_ids != FLOW_IDS:
        raise FlowloomError(
            f"flow ids of a state must be of version {FLOW_IDS}, by which rows keep their splits, got {state.flow_ids} "
            "of an earlier Flowloom; begin another state from the same captures (the models of this one still score)"
        )
    fixed = ("name", "definition", "layout", "missing", "splits", "deduplicate", "identity")
    for key in fixed:
        before, now = getattr(state.manifest, key), getattr(manifest, key)
        if before != now:
            raise FlowloomError(
                f"{key} must stay the same within a state, got {_text(now)} instead of {_text(before)}; restore it, or "
                "begin another state"
            )
    tasks = {task.name: task for task in manifest.tasks}
    for task in state.manifest.tasks:
        if tasks.get(task.name) != task:
            now = _text(tasks[task.name]) if task.name in tasks else "nothing"
            raise FlowloomError(
                f"task {task.name} must stay the same within a state, got {now} instead of {_text(task)}; restore it, "
                "add a task of another name, or begin another state"
            )
    order = [task.name for task in state.manifest.tasks]
    if [task.name for task in manifest.tasks][: len(order)] != order:
        raise FlowloomError(f"new tasks must come after those of the state, {', '.join(order)}; move them to the end")


def check_gone(manifest: CorpusManifest, found: FoundCaptures) -> None:
    """Rejects missing captures that a label source has to read again.

    Raises:
      FlowloomError: if there is one; names the first.
    """
    gone = set(found.gone)
    for group in found.plan.groups:
        for capture in group.captures:
            readers = [at for at in capture.sources if isinstance(entry := manifest.captures[at], CaptureSource) and (
                entry.dpi or entry.packet_table
            )]  # fmt: skip
            if capture.uri in gone and readers:
                raise FlowloomError(
                    f"{capture.uri}: the capture is missing, but the entry {manifest.captures[readers[0]].name!r} "
                    "labels its flows from its packets; restore the capture, or give the entry a label_table"
                )


def check_timelines(state: RetrainState, found: FoundCaptures) -> None:
    """Rejects captures that would change the ids of known flows, and with them their splits.

    Raises:
      FlowloomError: if there is one; names the first capture whose timeline has another name.
    """
    now = {one.digest: one for one in found.seen}
    overwritten = {one.uri: one for one in found.seen}
    groups = {one.group for one in found.seen}
    for before in state.seen:
        if before.first_ns is None:
            continue
        if before.digest in now and now[before.digest].group != before.group:
            raise FlowloomError(
                f"{before.uri}: the first capture of its timeline must stay the same, because it names the timeline "
                "and its flows would get other ids and splits; give late captures that began before all others, and "
                "captures that changed their group, an entry with its own group"
            )
        if before.digest not in now and before.uri in overwritten and before.group not in groups:
            raise FlowloomError(
                f"{before.uri}: the bytes of the capture must stay the same, because they name its timeline and flows "
                "would get other ids and splits; store new bytes under another name, and add captures only when they "
                "are complete"
            )


def _text(value: Any) -> str:
    """Returns a value of a manifest as JSON, without fields that have their defaults."""
    fields = value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, pydantic.BaseModel) else value
    return json.dumps(fields)
