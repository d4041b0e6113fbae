"""Flow table: all flows of a dataset in memory, for experiments with their own splits."""

import dataclasses
import functools
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.pipelines.reproduce.multitask_cnn.auxiliary_labels import quantities
from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.parquet_files import read_table
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.flow_spec import CHANNELS, STANDARDISED, FeatureSpec, Scaling

_MEASURED = ("duration_ns", "bytes_fwd", "bytes_bwd")


@dataclasses.dataclass(frozen=True)
class FlowTable:
    """Flows in the order of their ids, and the labels of one task; make one with `FlowTable.read`."""

    name: str
    content_hash: str
    task: Task
    flows: pa.RecordBatch

    @classmethod
    def read(cls, path: str | Path, task: str, channels: tuple[str, ...] = ("gap", "size", "direction")) -> Self:
        """Reads the flows of all splits of an Aurora dataset.

        Raises:
          FlowloomError: if the dataset cannot be read, is laid out in stripes, or has no such task.
        """
        dataset = Dataset.open(path)
        named = {each.name: each for each in dataset.tasks}
        if task not in named:
            raise FlowloomError(f"{path}: task must be one of {', '.join(named)}, got {task!r}; name another one")
        if dataset.card.layout != "aurora":
            raise FlowloomError(
                f"{path}: layout must be aurora, got {dataset.card.layout}; convert it: flowloom weave --layout aurora"
            )
        sequences = (CHANNELS[channel].column for channel in channels)
        columns = ["flow_id", label_column(task), *_MEASURED, *sequences]
        groups = (group.path for split in SPLITS if split in dataset.card.splits for group in dataset.row_groups(split))
        tables = [read_table(each, columns) for each in dict.fromkeys(groups)]
        if not any(table.num_rows for table in tables):
            raise FlowloomError(f"{path}: the dataset has no flows; build it from captures with flows")
        whole = pa.concat_tables(tables).sort_by("flow_id").combine_chunks()
        return cls(dataset.card.name, dataset.card.content_hash, named[task], whole.to_batches()[0])

    @property
    def flow_ids(self) -> pa.FixedSizeBinaryArray:
        """Ids of flows, fixed binary of 16 bytes [N]."""
        return self.flows["flow_id"]

    @functools.cached_property
    def labels(self) -> npt.NDArray[np.int32]:
        """Labels of the task, int32 [N], -1 where unknown."""
        return pc.fill_null(self.flows[label_column(self.task.name)], -1).to_numpy()

    @functools.cached_property
    def quantities(self) -> dict[str, npt.NDArray[np.float64]]:
        """Bandwidth in bits per second and duration in seconds, float64 [N]."""
        return quantities(self.flows)

    def features(
        self, k: int, channels: tuple[str, ...], scaling: Scaling, signed: bool, train: npt.NDArray[np.int64]
    ) -> FeatureSpec:
        """Returns a feature specification whose moments, if the scaling needs any, come from the train rows."""
        moments = {}
        for channel in (name for name in channels if name in STANDARDISED and scaling == "standard"):
            lists = self.flows[CHANNELS[channel].column].take(pa.array(train))
            logs = np.log1p(np.maximum(lists.flatten().to_numpy().astype(np.float64), 0))
            moments[channel] = (float(logs.mean()), float(logs.std()))
        return FeatureSpec(k=k, channels=channels, scaling=scaling, signed=signed, moments=moments)
