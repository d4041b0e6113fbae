"""Cells of the IoT Sentinel table: a model trained and measured by the functions of `flowloom train` and `evaluate`."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import sklearn.neighbors

from flowloom.pipelines.reproduce.engine.experiments import Settings
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_arms import SentinelCell
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_figures import figures, perfect_memory
from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.evaluation.baselines import labelled_rows
from flowloom.trainers.evaluation.predictions import Predictions, compiled, predict
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.recipes.run_directory import FINISHED, Run
from flowloom.trainers.training.train import TrainOptions, train

BATCH = 1024
NEIGHBOURS, NEIGHBOUR_PACKETS = 5, 20


@dataclasses.dataclass(frozen=True)
class SentinelCells:
    """Computes cells; an interrupted training goes on from its last checkpoint.

    Attributes:
      directories: dataset by the seed of its split.
      runs: folder of the trainings.
    """

    directories: Mapping[int, str]
    runs: str

    def __call__(self, settings: Settings) -> dict[str, Any]:
        """Returns figures by target and unit, and the cost of the model."""
        cell = SentinelCell.of(settings)
        dataset = Dataset.open(self.directories[cell.split_seed])
        if cell.method == "recipe":
            key = cell.experiment.key
            predictions, cost = self._trained(cell, dataset, Path(self.runs) / f"{cell.name}-{key}")
        else:
            predictions, cost = {"neighbours": neighbours, "ceiling": ceiling}[cell.method](dataset, cell.rows)
        labels, captures = labels_and_captures(str(dataset.root), cell.rows)
        for task, found in predictions.items():
            if not np.array_equal(found.labels, labels[task]):
                raise FlowloomError(f"{cell.name}: the labels of task {task!r} must be those of {dataset.root}")
        vocabularies = {task.name: task.vocabulary for task in dataset.tasks}
        return {"figures": figures(predictions, vocabularies, captures), "rows": len(captures), **cost}

    def _trained(self, cell: SentinelCell, dataset: Dataset, root: Path) -> tuple[dict[str, Predictions], Any]:
        """Returns the predictions of a recipe, which is trained unless the run is finished, and its cost."""
        if not (root / FINISHED).is_file():
            train(TrainOptions(dataset.root, root, cell.recipe, cell.overrides))
        run = Run.open(root)
        model = run.load_model()
        feed = Feed(dataset.restricted([task.name for task in run.tasks]), cell.rows, run.features, BATCH)
        parameters, macs = model.count_params(), model.macs
        cost = {"parameters": parameters, "macs": macs, "seconds": run.summary["seconds"]}
        return predict(compiled(model, feed), feed), {**cost, "epochs": run.summary["epochs"]}


@functools.lru_cache(maxsize=4)
def labels_and_captures(root: str, rows: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the labels of each task and the number of each flow's capture, in the order of the feed."""
    dataset = Dataset.open(root)
    columns = [label_column(task.name) for task in dataset.tasks]
    tables = [
        pq.ParquetFile(group.path).read_row_group(group.index, [*columns, "group"])
        for group in dataset.row_groups(rows)
    ]
    labels = {
        task.name: np.concatenate([table[column].to_numpy() for table in tables])
        for task, column in zip(dataset.tasks, columns, strict=True)
    }
    names = np.concatenate([table["group"].to_numpy() for table in tables])
    return labels, np.unique(names, return_inverse=True)[1]


def neighbours(dataset: Dataset, rows: str) -> tuple[dict[str, Predictions], dict[str, float]]:
    """Returns the votes of the nearest train flows for each flow of a split, weighted by their inverse distance.

    A flow is the sizes, gaps and directions of its first packets under `feed.scaling=fixed`; distances are Euclidean.
    """
    spec = FeatureSpec.of(dataset.card, NEIGHBOUR_PACKETS, ("size", "gap", "direction"), "fixed")
    known, asked = (labelled_rows(Feed(dataset, split, spec, BATCH)) for split in ("train", rows))
    found = {}
    for task in dataset.tasks:
        (inputs, labels), (given, actual) = known[task.name], asked[task.name]
        model = sklearn.neighbors.KNeighborsClassifier(NEIGHBOURS, weights="distance").fit(inputs[:, :-1], labels)
        probabilities = np.zeros((len(actual), len(task.vocabulary)), np.float32)
        probabilities[:, model.classes_] = model.predict_proba(given[:, :-1])
        found[task.name] = Predictions(actual, probabilities)
    stored = inputs[:, :-1].size
    return found, {"parameters": stored, "macs": stored, "seconds": 0.0, "epochs": 0}


def ceiling(dataset: Dataset, rows: str) -> tuple[dict[str, Predictions], dict[str, float]]:
    """Returns the predictions of a perfect memory of a split's own flows by their sizes and directions."""
    keys: list[bytes] = []
    for group in dataset.row_groups(rows):
        table = pq.ParquetFile(group.path).read_row_group(group.index, ["pkt_size", "pkt_dir"])
        signed = zip(table["pkt_size"].to_pylist(), table["pkt_dir"].to_pylist(), strict=True)
        keys += [(np.array(sizes, np.int32) * np.array(sides, np.int32)).tobytes() for sizes, sides in signed]
    labels, _ = labels_and_captures(str(dataset.root), rows)
    found = {task.name: perfect_memory(keys, labels[task.name], len(task.vocabulary)) for task in dataset.tasks}
    return found, {"parameters": 0, "macs": 0, "seconds": 0.0, "epochs": 0}
