"""Datasets from labelled and split rows: plan the layout, write shards and card, and finish in one step."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import pyarrow as pa

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import CorpusManifest, Deduplicate
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import CARD, read_card
from flowloom.schemas.dataset.dataset_findings import find_problems, require_usable
from flowloom.schemas.dataset.views import StoredViews
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.dataset.build_results import gather_results
from flowloom.transforms.dataset.duplicates import drop_duplicates, find_duplicates
from flowloom.transforms.dataset.layouts import FLOWS_ALONE, LaidOut, count_layout, lay_out
from flowloom.transforms.dataset.shards import spill_rows, write_spilled_shards
from flowloom.transforms.dataset.write_card import write_card
from flowloom.transforms.io.spill import clear
from flowloom.transforms.io.staging import staged_folder
from flowloom.transforms.io.verdict import require_success
from flowloom.transforms.labels.label_bins import LabelBins, find_label_bins, label_quantities
from flowloom.transforms.labels.plan_labels import LabelPlan
from flowloom.transforms.metering.accounts import GroupAccount
from flowloom.transforms.published.plan_published import NO_PUBLISHED
from flowloom.transforms.splits.splits import SplitPlan


def plan_layout(
    flows: Sequence[pa.RecordBatch],
    tasks: Sequence[Task],
    layout: Literal["aurora", "rainbow"] = "aurora",
    deduplicate: Deduplicate = "none",
) -> tuple[LabelBins, dict[str, bytes]]:
    """Returns all tasks with the bins of measured ones, and the ids of duplicate flows by stripe."""
    bins = find_label_bins(flows, tasks)
    if deduplicate == "none":
        return bins, {}
    measured = (label_quantities(batch, bins.tasks) for batch in flows)
    stripes = (stripe for batch in measured for stripe in lay_out(batch, tasks, layout))
    return bins, find_duplicates(stripes, deduplicate)


def write_views(
    views: Mapping[View, Iterable[pa.RecordBatch]],
    manifest: CorpusManifest,
    staging: str,
    labels: LabelPlan,
    split_plan: SplitPlan,
    label_bins: LabelBins,
    accounts: Sequence[GroupAccount] = (),
    rejects: Iterable[pa.RecordBatch] = (),
    duplicates: Mapping[str, bytes] | None = None,
    stored: StoredViews = FLOWS_ALONE,
) -> str:
    """Writes labelled and split rows as the shards, tables and card of a dataset, or its faults (see `write_card`).

    Leakage is not measured.
    """
    places, layouts = [], []
    for view, batches in views.items():
        for rows in batches:
            stripes = dict(lay_out(rows, manifest.tasks, manifest.layout, stored, view))
            layouts.append(count_layout(rows, stripes, manifest.tasks, view))
            for stripe, part in stripes.items():
                kept, dropped = drop_duplicates(stripe, part, duplicates) if duplicates else (part, LaidOut({}))
                layouts.append(dropped)
                places += spill_rows([(stripe, kept)], manifest.output.shards, staging, view)
    shards = write_spilled_shards(places, staging, label_bins.tasks, manifest.output)
    known = (*rejects, labels.rejects)
    results = gather_results(
        labels.labels, NO_PUBLISHED, split_plan, label_bins, shards, accounts, layouts=layouts, known_rejects=known
    )
    quiet = manifest.model_copy(update={"leakage": "skip"})
    return write_card(results, quiet, "", staging, stored=stored, closed=False)


def write_shards(
    flows: Sequence[pa.RecordBatch],
    folder: str,
    manifest: CorpusManifest,
    labels: LabelPlan,
    split_plan: SplitPlan,
    accounts: Sequence[GroupAccount] = (),
    *,
    allow_empty: bool = False,
) -> list[str]:
    """Writes labelled and split flows as a dataset, and returns the warnings about it.

    Args:
      manifest: names the tasks and the layout of the dataset.

    Raises:
      FlowloomError: as `check_dataset`; if the folder exists.
    """
    with staged_folder(folder) as staging:
        bins, duplicates = plan_layout(flows, manifest.tasks, manifest.layout, manifest.deduplicate)
        measured = [label_quantities(batch, bins.tasks) for batch in flows]
        write_views({"flows": measured}, manifest, staging, labels, split_plan, bins, accounts, (), duplicates)
        return check_dataset(staging, allow_empty=allow_empty)


def with_labels(manifest: CorpusManifest, labels: CorpusManifest, definition: FlowDefinition) -> CorpusManifest:
    """Returns the description of a dataset with the entries and rules of its labels, and its flow definition."""
    rules = {name: getattr(labels, name) for name in ("captures", "missing", "on_conflict")}
    return manifest.model_copy(update={**rules, "definition": definition})


def without_rejects(account: GroupAccount) -> GroupAccount:
    """Returns an account without its reject rows, which are told apart from it."""
    return dataclasses.replace(account, rejects=account.rejects.slice(0, 0))


def finish_dataset(staging: str, folder: str, *, allow_empty: bool = False) -> list[str]:
    """Gives a written dataset its place, and returns the warnings about it; a repeated attempt changes nothing.

    Raises:
      FlowloomError: with the faults of the job; if the dataset lacks a split or a class without `allow_empty`, or
        the folder appeared meanwhile.
    """
    if not os.path.exists(staging) and os.path.exists(f"{folder}/{CARD}"):
        return []
    problems = check_dataset(staging, allow_empty=allow_empty)
    try:
        os.rename(staging, folder)
    except OSError as error:
        raise FlowloomError(
            f"output folder {folder} appeared while it was written ({error.strerror}); remove it and run again"
        ) from None
    return problems


def check_dataset(staging: str, *, allow_empty: bool = False) -> list[str]:
    """Checks a written dataset, removes its temporary files, and returns the warnings about it.

    Raises:
      FlowloomError: with the faults of the job; if the dataset lacks a split or a class without `allow_empty`.
    """
    require_success(staging, CARD)
    clear(staging)
    card = read_card(staging)
    if not allow_empty:
        require_usable(card, "write it with allow_empty=True")
    return [finding.text for finding in find_problems(card)]
