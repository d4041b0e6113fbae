"""PTransforms that plan a layout and write a dataset, in a pipeline of one's own and in a build."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import apache_beam as beam
import pyarrow as pa

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import CorpusManifest, Deduplicate
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.views import StoredViews
from flowloom.transforms.dataset.dataset_ptransforms import FindDuplicates, LayOut, ViewRows, WriteCard, WriteViews
from flowloom.transforms.dataset.layouts import FLOWS_ALONE
from flowloom.transforms.dataset.write_views import finish_dataset, with_labels, without_rejects
from flowloom.transforms.io.io_ptransforms import single
from flowloom.transforms.io.staging import held_folder
from flowloom.transforms.labels.label_bins import LabelBins, has_measured_bins, label_quantities
from flowloom.transforms.labels.label_ptransforms import FindLabelBins
from flowloom.transforms.labels.plan_labels import LabelPlan, describe_labels
from flowloom.transforms.metering.meter_flows_ptransforms import MeteredFlows
from flowloom.transforms.published.plan_published import NO_PUBLISHED
from flowloom.transforms.splits.splits import SplitPlan

_LOGGER = logging.getLogger(__name__)


class LayoutPlan(NamedTuple):
    """Outputs of `PlanLayout`: all tasks with the bins of measured ones, and ids of duplicates; one element each.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> app = fl.Task(name="app", kind="multiclass", vocabulary=("nginx", "ssh"))
      >>> captures = ["captures/web/nginx/plain-01.pcap.zst"] | fl.beam.ReadCaptures()
      >>> (labels,) = captures | fl.beam.PlanLabels([app], {"captures/web/nginx": {"app": "nginx"}})
      >>> labelled = captures | fl.beam.MeterFlows() | fl.beam.LabelFlows(labels)
      >>> plan = labelled | fl.beam.AssignSplits("flow") | fl.beam.PlanLayout([app], deduplicate="all")
      >>> [sorted(stripes) for stripes in plan.duplicates]  # Aurora's only stripe has no name
      [['']]
    """

    label_bins: beam.PCollection[LabelBins]
    duplicates: beam.PCollection[dict[str, bytes]]


@dataclasses.dataclass
class PlanLayout(beam.PTransform):
    """Finds what the layout of a dataset needs to know of all flows: bins of measured tasks, and duplicates.

    `WriteShards` plans by itself; with this transform a pipeline can read its flows again instead of keeping them.

    Args:
      tasks: the tasks.
      layout: `aurora` (fused) or `rainbow` (striped).
      deduplicate: the rows that stay of those with equal sizes and directions: `none` for all, `split` for the first of
        each split, `all` for the first of all.
      label_bins: known bins; None to find them.
      stored: the columns of the views.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> pace = fl.Task(name="pace", kind="auto", quantity="duration", dividers={"method": "quantiles", "classes": 2})
      >>> captures = ["captures/web/nginx/plain-01.pcap.zst"] | fl.beam.ReadCaptures()
      >>> flows = captures | fl.beam.MeterFlows() | fl.beam.AssignSplits("flow")
      >>> plan = flows | fl.beam.PlanLayout([pace])
      >>> [len(task.vocabulary) for task in plan.label_bins[0].tasks]
      [2]
    """

    tasks: Sequence[Task]
    layout: Literal["aurora", "rainbow"] = "aurora"
    deduplicate: Deduplicate = "none"
    label_bins: LabelBins | beam.PCollection[LabelBins] | None = None
    stored: StoredViews = FLOWS_ALONE

    @beam.typehints.no_annotations
    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> LayoutPlan:
        """Returns the plan of labelled and split flows."""
        tasks = tuple(self.tasks)
        bins = self.label_bins
        if bins is None:
            bins = LabelBins(tasks)
            if any(map(has_measured_bins, tasks)):
                bins = flows | "FindLabelBins" >> FindLabelBins(tasks)
        known = flows.pipeline | "Known" >> beam.Create([bins]) if isinstance(bins, LabelBins) else bins
        if self.deduplicate == "none":
            return LayoutPlan(known, flows.pipeline | "NoDuplicates" >> beam.Create([{}]))
        measured = flows | "Measure" >> beam.Map(_measured, single(bins)).with_output_types(pa.RecordBatch)
        stripes = measured | "LayOut" >> LayOut(tasks, self.layout, self.stored)
        return LayoutPlan(known, stripes.rows | "FindDuplicates" >> FindDuplicates(self.deduplicate))


def _measured(flows: pa.RecordBatch, bins: LabelBins) -> pa.RecordBatch:
    return label_quantities(flows, bins.tasks)


@dataclasses.dataclass
class WriteShards(beam.PTransform):
    """Writes labelled and split flows as a dataset, which `fl.open_dataset` opens: shards, tables and the card.

    The same captures and options give the same bytes as `flowloom build`, on any engine. Flows may be dropped or
    changed before: the card counts those that were metered and are absent. The dataset appears when it is complete.

    Until then it is a hidden folder `.NAME.building-*` beside its place. A failed block
    `with fl.beam.embedded_pipeline()` removes it. The folder of any other pipeline that failed is removed by the next
    run with the same output, once the process has ended.

    Args:
      folder: the folder to create; workers on other machines have to share it.
      tasks: the tasks, as for `PlanLabels`.
      metered: the outputs of `MeterFlows(...).with_accounts()`, for the accounts on the card.
      splits: the plan of `AssignSplits(...).with_plan()`.
      labels: the output of `PlanLabels`; None if label columns are a pipeline's own.
      layout: `aurora` (fused): one row with all labels; `rainbow` (striped): a stripe of shards for each task.
      deduplicate: see `PlanLayout`.
      plan: the outputs of `PlanLayout`; None to plan here.
      leakage: `measure`, or `skip` to leave out what occurs in more than one split.
      output: sizes of the files, as in a manifest: `shards`, `row_group_rows`.
      name: name of the dataset; None for that of the folder.
      allow_empty: whether a dataset is written that lacks a split or a class.

    Raises:
      FlowloomError: if an option is invalid or the folder exists. The pipeline fails with one if no flow was left, or a
        split or a class is empty without `allow_empty`.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> app = fl.Task(name="app", kind="multiclass", vocabulary=("nginx", "ssh"))
      >>> labels = {"captures/web/nginx": {"app": "nginx"}, "captures/terminal/ssh": {"app": "ssh"}}
      >>> with fl.beam.embedded_pipeline(workers=1) as pipeline:
      ...     captures = pipeline | beam.Create(list(labels)) | fl.beam.ReadCaptures()
      ...     plan = captures | fl.beam.PlanLabels([app], labels)
      ...     metered = captures | fl.beam.MeterFlows().with_accounts()
      ...     split = metered.flows | fl.beam.LabelFlows(plan) | fl.beam.AssignSplits("flow").with_plan()
      ...     written = split.flows | fl.beam.WriteShards("OF-A-SCRIPT", [app], metered, split.plan, plan)
      >>> fl.open_dataset("OF-A-SCRIPT").tasks[0].name
      'app'
    """

    folder: str | os.PathLike[str]
    tasks: Sequence[Task]
    metered: MeteredFlows
    splits: SplitPlan | beam.PCollection[SplitPlan]
    labels: LabelPlan | beam.PCollection[LabelPlan] | None = None
    layout: Literal["aurora", "rainbow"] = "aurora"
    deduplicate: Deduplicate = "none"
    plan: LayoutPlan | None = None
    leakage: Literal["measure", "skip"] = "measure"
    output: Mapping[str, int] = dataclasses.field(default_factory=dict)
    name: str | None = None
    allow_empty: bool = False

    def __post_init__(self) -> None:
        name = self.name or os.path.basename(os.path.abspath(self.folder))
        self._manifest = describe_labels(
            self.tasks, {"*": {}}, name=name, layout=self.layout, deduplicate=self.deduplicate, leakage=self.leakage,
            output=dict(self.output),
        )  # fmt: skip

    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[str]:
        """Returns the path of the dataset."""
        manifest, tasks = self._manifest, self._manifest.tasks
        staging = held_folder(os.fspath(self.folder), flows.pipeline)
        plan = self.plan
        if plan is None:
            plan = flows | "PlanLayout" >> PlanLayout(tasks, self.layout, self.deduplicate)
        if any(task.kind == "auto" for task in tasks):
            bins = single(plan.label_bins)
            flows = flows | "Measure" >> beam.Map(_measured, bins).with_output_types(pa.RecordBatch)
        labels = LabelPlan(manifest) if self.labels is None else self.labels
        described = self.metered.definition | "Describe" >> beam.Map(_described, single(labels), manifest)
        card = WriteCard(described, "", staging, None, labels, NO_PUBLISHED, self.splits, plan.label_bins, closed=False)
        accounts = self.metered.accounts | "Accounts" >> beam.Map(without_rejects)
        counts = {"accounts": [accounts], "rejects": [self.metered.rejects]}
        measured = self.leakage == "measure"
        write = WriteViews(tasks, self.layout, manifest.output, card, counts, plan.duplicates, measured)
        written = ViewRows((flows,)) | "WriteViews" >> write
        finish = beam.Map(_finished, staging, os.path.abspath(self.folder), self.allow_empty)
        return written | "Finish" >> finish.with_output_types(str)


def _described(definition: FlowDefinition, labels: LabelPlan, manifest: CorpusManifest) -> CorpusManifest:
    return with_labels(manifest, labels.manifest, definition)


def _finished(_written: str, staging: str, folder: str, allow_empty: bool) -> str:
    for problem in finish_dataset(staging, folder, allow_empty=allow_empty):
        _LOGGER.warning("%s: %s", folder, problem)
    return folder
