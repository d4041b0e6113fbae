"""Measurements after MULTA's experiments: costs of inference, the streaming scorer, and times of Kitsune."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flowloom.pipelines.reproduce.engine.options import Repeat, ReproduceOptions
from flowloom.pipelines.reproduce.engine.single_thread import processor
from flowloom.pipelines.reproduce.kitsune.kitsune_baseline import kitsune_baseline
from flowloom.pipelines.reproduce.multa.costs import action_costs, streaming_figures
from flowloom.pipelines.reproduce.multa.kitsune_experiments import kitsune_options, kitsune_settings
from flowloom.pipelines.reproduce.multa.multa_data import MULTASource
from flowloom.pipelines.reproduce.multa.multa_experiments import examples, tuned_overrides
from flowloom.pipelines.reproduce.multa.multa_grid import MULTAScale, TaskSet, dataset_of
from flowloom.pipelines.reproduce.multa.multa_tables import actions, chosen_actions
from flowloom.pipelines.reproduce.multa.sizes import Sizes
from flowloom.schemas.atomic_files import write_json
from flowloom.schemas.progress import Progress
from flowloom.trainers.deploy.export import ExportOptions, export
from flowloom.trainers.evaluation.cost import Form
from flowloom.trainers.recipes.run_directory import FINISHED
from flowloom.trainers.training.train import TrainOptions, train


def measure(
    sources: list[MULTASource], sets: list[TaskSet], found: Mapping[str, Mapping[int, Sizes]],
    chosen: Mapping[str, Sizes], datasets: Mapping[str, str], scale: MULTAScale, options: ReproduceOptions,
    progress: Callable[[Progress], None],
) -> dict[str, Any]:  # fmt: skip
    """Measures the fields `costs`, `streaming` and `kitsune_times` of `MULTAResults`.

    Times differ from run to run, so they are not experiments. They are measured after all training, and stored in
    `OUT/costs.json`.
    """
    wanted = actions(sets, found, scale)
    first = options.repeats(scale.seeds)[0]
    tuned = {tasks.name: _tuned_name(tasks, chosen[tasks.name], scale, first) for tasks in sets}
    path, basis = options.folder / "costs.json", {"actions": wanted, "tuned": tuned, "processor": processor()}
    if path.is_file() and (stored := json.loads(path.read_bytes()))["basis"] == basis:
        return stored["measured"]
    runs = {}
    for tasks in sets:
        size, data = chosen[tasks.name].tuning, datasets[dataset_of(tasks.name, "", first)]
        overrides = tuned_overrides(data, size.experts, size.units, scale.shared_updates(tasks), first.training_seed)
        training = TrainOptions(Path(data), options.folder / "tuned" / tuned[tasks.name], "multa", overrides)
        runs[tasks.name] = _exported(training, progress)
    progress(Progress(f"measuring {len(wanted)} actions in two runtimes", stays=True))
    forms: dict[Form, list[str]] = {"trained": list(wanted)}
    if not options.quick:
        forms["fused"] = chosen_actions(sets, chosen)
    measured = {
        "costs": action_costs(wanted, forms),
        "streaming": {name: _streamed(*run, datasets[dataset_of(name, "", first)]) for name, run in runs.items()},
        "kitsune_times": {
            source.name: _packet_times(source, first, datasets, scale) for source in sources if source.kitsune
        },
    }
    write_json(path, {"basis": basis, "measured": measured})
    return measured


def _packet_times(
    source: MULTASource, repeat: Repeat, datasets: Mapping[str, str], scale: MULTAScale
) -> dict[str, Any]:
    """Returns Kitsune's times for one packet and one task, by the size of its autoencoders."""
    found = {}
    for cluster in scale.clusters:
        settings = kitsune_settings(source, repeat, "", source.tasks[0], cluster)
        figures = kitsune_baseline(kitsune_options(settings, datasets)).figures
        found[str(cluster)] = {name: value for name, value in figures.items() if name.endswith("_us")}
    return found


def _tuned_name(tasks: TaskSet, size: Sizes, scale: MULTAScale, repeat: Repeat) -> str:
    """Returns a name for the run of a tuned MULTA, made of everything that determines it."""
    found, updates, content = size.tuning, scale.shared_updates(tasks), tasks.contents[repeat.seed][:8]
    return f"{tasks.name}-{found.experts}x{found.units}-{content}-{updates}-seed-{repeat.training_seed}"


def _exported(training: TrainOptions, progress: Callable[[Progress], None]) -> tuple[Path, Path]:
    """Trains and exports a tuned MULTA unless that is done; returns the run and the exported folder."""
    run = training.run
    exported = run.with_name(f"{run.name}-litert")
    if not (run / FINISHED).exists():
        progress(Progress(f"training {run}", stays=True))
        train(training, progress)
    if not exported.exists():
        export(ExportOptions(run, exported, "litert"))
    return run, exported


def _streamed(run: Path, exported: Path, dataset: str) -> dict[str, Any]:
    """Returns the figures of the streaming scorer of a tuned MULTA on test rows."""
    test = examples(dataset)[2]
    return streaming_figures(run, exported, test.sequence, test.length)
