"""Run of a paper's grid: from the experiments that a paper plans to the results that its page shows."""

from collections.abc import Callable, Sequence

from flowloom.pipelines.reproduce.engine.experiments import Compute, Experiment, Results, run_experiments
from flowloom.pipelines.reproduce.engine.final_log import FinalLog
from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
from flowloom.pipelines.reproduce.engine.single_thread import PINNED, one_thread
from flowloom.schemas.progress import Progress, ignore_progress

CELLS = "cells"


def run_grid(
    experiments: Sequence[Experiment],
    compute: Compute,
    options: ReproduceOptions,
    progress: Callable[[Progress], None] = ignore_progress,
) -> Results:
    """Returns the results of a paper's experiments, each computed by one thread of a process.

    Under `options.final` the configuration is logged before anything is computed (`FinalLog`).

    Raises:
      FlowloomError: if two experiments have one name, or final figures of this configuration were shown before.
    """
    if options.final:
        FinalLog(options.out).begin(options.paper, experiments, options.command)
    folder = options.folder / CELLS
    progress(Progress(f"{len(experiments):,} experiments in {folder}", stays=True))
    return run_experiments(experiments, compute, folder, options.workers, one_thread, progress, PINNED)
