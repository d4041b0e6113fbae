"""Kitsune on MULTA's sets of packets: its experiments, and their settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowloom.pipelines.reproduce.engine.experiments import Experiment, Settings
from flowloom.pipelines.reproduce.kitsune.kitsune_baseline import KitsuneOptions, kitsune_baseline
from flowloom.pipelines.reproduce.multa.multa_data import MULTASource
from flowloom.pipelines.reproduce.multa.multa_experiments import MULTAExperiments
from flowloom.pipelines.reproduce.multa.multa_grid import MULTAScale, TaskSet, kitsune_name


@dataclasses.dataclass(frozen=True)
class MULTAAndKitsune:
    """Computes Kitsune's experiments and, through `MULTAExperiments`, all others, on datasets {name: directory}."""

    datasets: Mapping[str, str]

    def __call__(self, settings: Settings) -> dict[str, Any]:
        """Returns the result of an experiment, without times, which differ from run to run."""
        if "cluster" not in settings:
            return MULTAExperiments(self.datasets)(settings)
        figures = kitsune_baseline(kitsune_options(settings, self.datasets)).figures
        return {name: value for name, value in figures.items() if not name.endswith("_us")}


def kitsune_options(settings: Settings, datasets: Mapping[str, str]) -> KitsuneOptions:
    """Returns the options of an experiment."""
    return KitsuneOptions(
        Path(datasets[settings["dataset"]]), settings["task"], map_rows=settings["map_rows"],
        cluster=settings["cluster"], benign=settings["benign"],
    )  # fmt: skip


def kitsune_experiments(sources: Sequence[MULTASource], sets: Sequence[TaskSet], scale: MULTAScale) -> list[Experiment]:
    """Returns one experiment for each task of sets of packets and each size of Kitsune; none depends on the seed."""
    return [
        Experiment(kitsune_name(tasks, task, cluster), kitsune_settings(source, tasks.content, task, cluster))
        for source, tasks in zip(sources, sets, strict=True) if source.kitsune
        for task in tasks.tasks
        for cluster in scale.clusters
    ]  # fmt: skip


def kitsune_settings(source: MULTASource, content: str, task: str, cluster: int) -> dict[str, Any]:
    """Returns the settings of an experiment: all inputs of its result."""
    return {
        "dataset": source.name, "content": content, "task": task, "cluster": cluster, "map_rows": source.map_rows,
        "benign": source.kitsune, "protocol": 1,
    }  # fmt: skip
