"""Continuity: what a state of retraining can go on with, so that no row that trained a version ever tests another."""

from typing import TYPE_CHECKING

from flowloom.schemas.corpus.manifest import CaptureSource, CorpusManifest
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.models.retrain_state import RetrainState
from flowloom.transforms.captures.inventory import FoundCaptures

if TYPE_CHECKING:
    from flowloom.trainers.recipes.recipe import Recipe


def check_manifest(manifest: CorpusManifest) -> None:
    """Refuse a manifest under which more captures would change what an earlier run has relied on.

    Raises:
      FlowloomError: naming what is not the same when captures are appended, and what to write instead.
    """
    if manifest.splits.by != "flow":
        raise FlowloomError(
            f"retrain needs splits that stay when captures are appended, got by: {manifest.splits.by}; under it a flow "
            "that one model was trained on may be in the test split of the next: write splits: {by: flow}"
        )
    found = [task.name for task in manifest.tasks if task.dividers is not None and task.dividers.method != "given"]
    if found:
        raise FlowloomError(
            f"retrain needs tasks that mean the same in every run, and dividers of {', '.join(found)} are found anew "
            "in all train rows; take those of a first build from its card, and write method: given, at: [...]"
        )
    if manifest.identity == "drop":
        raise FlowloomError(
            "retrain needs flow ids that stay when captures are appended, and identity: drop derives them from all "
            "captures; write identity: pseudonym with a key_file"
        )
    if manifest.views != ("flows",) or manifest.published:
        raise FlowloomError(
            "retrain keeps the flows of captures: write views: [flows], and take out entries with published"
        )


def check_recipe(recipe: "Recipe") -> None:
    """Refuse a recipe that cannot be trained again and again.

    Raises:
      FlowloomError: if it trains in phases that a trained model is past, or not all tasks.
    """
    if recipe.schedule.paradigm in ("incremental", "transfer", "isolated"):
        raise FlowloomError(
            "schedule.paradigm must be one that continues from a trained model, got "
            f"{recipe.schedule.paradigm}; set schedule.paradigm=auto"
        )
    if recipe.model.reads_rows:
        raise FlowloomError(
            f"retrain keeps flows, of which model {recipe.model.kind} sees nothing; choose another recipe"
        )
    if recipe.schedule.mixed_precision:
        raise FlowloomError("retrain goes on with weights of float32, got mixed_precision=true; leave it out")
    if recipe.feed.tasks:
        raise FlowloomError(
            f"retrain trains all tasks of the manifest, got tasks={list(recipe.feed.tasks)}; leave it out"
        )


def check_continues(state: RetrainState, manifest: CorpusManifest) -> None:
    """Refuse a manifest whose rows or labels mean something else than those the state's models know.

    Raises:
      FlowloomError: naming what differs.
    """
    if state.manifest is None:
        return
    fixed = ("name", "definition", "layout", "missing", "splits", "deduplicate", "identity")
    for key in fixed:
        before, now = getattr(state.manifest, key), getattr(manifest, key)
        if before != now:
            raise FlowloomError(
                f"{key} of the manifest is another one than before, so that models of this state would see other rows: "
                f"{before!r} became {now!r}; put it back, or begin another state"
            )
    tasks = {task.name: task for task in manifest.tasks}
    for task in state.manifest.tasks:
        if tasks.get(task.name) != task:
            became = f"{tasks[task.name]!r}" if task.name in tasks else "nothing"
            raise FlowloomError(
                f"tasks may be added, but those there were have to stay: {task.name!r} was {task!r} and is {became}; "
                "put it back, add a task of another name, or begin another state"
            )
    order = [task.name for task in state.manifest.tasks]
    if [task.name for task in manifest.tasks][: len(order)] != order:
        raise FlowloomError(f"new tasks come behind those there were: {', '.join(order)}")


def check_gone(manifest: CorpusManifest, found: FoundCaptures) -> None:
    """Refuse to go on without captures that a source has to look into again.

    Raises:
      FlowloomError: naming the first, and what to do.
    """
    gone = set(found.gone)
    for group in found.plan.groups:
        for capture in group.captures:
            looking = [at for at in capture.sources if isinstance(entry := manifest.captures[at], CaptureSource) and (
                entry.dpi or entry.packet_table
            )]  # fmt: skip
            if capture.uri in gone and looking:
                raise FlowloomError(
                    f"capture {capture.uri} is gone, and {manifest.captures[looking[0]].name!r} labels its flows by "
                    "looking into it; put it back, or give the entry a label_table"
                )


def check_timelines(state: RetrainState, found: FoundCaptures) -> None:
    """Refuse captures under which flows that are known would get other ids, and with them other splits.

    Raises:
      FlowloomError: naming the first capture whose timeline has another name, and what to do.
    """
    now = {one.sha256: one for one in found.seen}
    written_over = {one.uri: one for one in found.seen}
    groups = {one.group for one in found.seen}
    for before in state.seen:
        if before.first_ns is None:
            continue
        if before.sha256 in now and now[before.sha256].group != before.group:
            raise FlowloomError(
                f"the timeline of capture {before.uri} has another first capture than before, by which it is named, so "
                "that its flows would get other ids and change their splits; give captures that come late and began "
                "before all others, and those that changed their group, an entry with a group of their own"
            )
        if before.sha256 not in now and before.uri in written_over and before.group not in groups:
            raise FlowloomError(
                f"capture {before.uri} holds other bytes than when it was taken up, and its timeline was named by "
                "them, so that flows would get other ids and change their splits; let its new bytes have another name, "
                "and take up captures when they are finished"
            )
