"""Kitsune on MULTA's sets of packets: its experiments, and their settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowloom.pipelines.reproduce.engine.experiments import Experiment, Settings
from flowloom.pipelines.reproduce.engine.options import Repeat
from flowloom.pipelines.reproduce.kitsune.kitsune_baseline import KitsuneOptions, kitsune_baseline
from flowloom.pipelines.reproduce.multa.multa_data import MULTASource
from flowloom.pipelines.reproduce.multa.multa_experiments import MULTAExperiments
from flowloom.pipelines.reproduce.multa.multa_grid import MULTAScale, TaskSet, dataset_of, kitsune_name


@dataclasses.dataclass(frozen=True)
class MULTAAndKitsune:
    """Computes Kitsune's experiments and, through `MULTAExperiments`, all others, on datasets {name: directory}."""

    datasets: Mapping[str, str]

    def __call__(self, settings: Settings) -> dict[str, Any]:
        """Returns the result of an experiment, without times, which differ from run to run."""
        if "cluster" not in settings:
            return MULTAExperiments(self.datasets)(settings)
        options = kitsune_options(settings, self.datasets)
        figures = kitsune_baseline(options).figures
        # the size is chosen by the validation rows
        validation = kitsune_baseline(dataclasses.replace(options, split="validation")).figures["auc"]
        stored = {name: value for name, value in figures.items() if not name.endswith("_us")}
        return {**stored, "validation_auc": validation}


def kitsune_options(settings: Settings, datasets: Mapping[str, str]) -> KitsuneOptions:
    """Returns the options of an experiment."""
    return KitsuneOptions(
        Path(datasets[settings["dataset"]]), settings["task"], map_rows=settings["map_rows"],
        cluster=settings["cluster"], benign=settings["benign"],
    )  # fmt: skip


def kitsune_experiments(sources: Sequence[MULTASource], sets: Sequence[TaskSet], scale: MULTAScale) -> list[Experiment]:
    """Returns one experiment for each task of sets of packets, seed of their splits, and size of Kitsune."""
    return [
        Experiment(
            kitsune_name(tasks, task, cluster, seed),
            kitsune_settings(source, Repeat(seed), content, task, cluster),
        )
        for source, tasks in zip(sources, sets, strict=True) if source.kitsune
        for seed, content in tasks.contents.items()
        for task in tasks.tasks
        for cluster in scale.clusters
    ]  # fmt: skip


def kitsune_settings(source: MULTASource, repeat: Repeat, content: str, task: str, cluster: int) -> dict[str, Any]:
    """Returns the settings of an experiment: all inputs of its result."""
    return {
        "dataset": dataset_of(source.name, "", repeat), "content": content, "task": task, "cluster": cluster,
        "map_rows": source.map_rows, "benign": source.kitsune, "protocol": 2,
    }  # fmt: skip
