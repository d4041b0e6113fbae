"""PTransforms for pipelines of one's own: `flowloom.beam`.

Elements are record batches (`PCollection[pa.RecordBatch]`), so any transform on them can stand between these. They
run on any engine of Beam. No folder is shared between workers, except that of `WriteFlows`.

Example:

>>> import apache_beam as beam
>>> import flowloom as fl
>>> with fl.beam.embedded_pipeline(workers=1) as pipeline:
...     names = pipeline | beam.Create(["captures/web/nginx/plain-0*"])
...     flows = names | fl.beam.ReadCaptures() | fl.beam.MeterFlows("default")
...     files = flows | beam.Map(lambda batch: batch.slice(0, 1)) | fl.beam.WriteFlows("FIRST-FLOWS", files=1)
"""

import apache_beam as beam

from flowloom.pipelines.engines.embedded import EMBEDDED, start_pipeline
from flowloom.schemas.cores import usable_cores
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.capture_ptransforms import ReadCaptures
from flowloom.transforms.dataset.flow_file_ptransforms import WriteFlows
from flowloom.transforms.dataset.write_shards_ptransforms import LayoutPlan, PlanLayout, WriteShards
from flowloom.transforms.labels.label_ptransforms import LabelFlows, LabelledFlows, PlanLabels
from flowloom.transforms.metering.meter_flows_ptransforms import MeteredFlows, MeterFlows
from flowloom.transforms.splits.split_ptransforms import AssignSplits, SplitFlows

__all__ = [
    "AssignSplits",
    "LabelFlows",
    "LabelledFlows",
    "LayoutPlan",
    "MeterFlows",
    "MeteredFlows",
    "PlanLabels",
    "PlanLayout",
    "ReadCaptures",
    "SplitFlows",
    "WriteFlows",
    "WriteShards",
    "embedded_pipeline",
]


def embedded_pipeline(workers: int | None = None) -> beam.Pipeline:
    """Returns an empty pipeline on the embedded engine: threads of this process, without anything to install.

    Args:
      workers: number of threads; None for one on each core.

    Raises:
      FlowloomError: if there are fewer than 1 workers.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> with fl.beam.embedded_pipeline(workers=1) as pipeline:
      ...     lines = pipeline | beam.Create(["a", "b"])
    """
    if workers is not None and workers < 1:
        raise FlowloomError(f"workers must be at least 1, got {workers}")
    return start_pipeline(EMBEDDED, workers or usable_cores(), ())
