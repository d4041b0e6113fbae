"""`flowloom reproduce multa`: the experiments of MULTA, on its own captures or on data that stands in for them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flowloom.pipelines.reproduce.multa.multa_data import multa_sources, prepare_tasks
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.progress import Progress

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
    from flowloom.pipelines.reproduce.multa.multa_grid import TaskSet

QUICK = ("corpus", "packets")
"""Sets of a quick run: flows and packets, both from the source tree."""


def reproduce_multa(options: "ReproduceOptions", progress: Callable[[Progress], None]) -> "Reproduction":
    """Repeats the experiments of Guo et al., MULTA: Enabling Cost-efficient Multi-task Network Traffic Analysis."""
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
    from flowloom.pipelines.reproduce.engine.run_grid import run_grid
    from flowloom.pipelines.reproduce.engine.single_thread import processor
    from flowloom.pipelines.reproduce.multa.kitsune_experiments import MULTAAndKitsune, kitsune_experiments
    from flowloom.pipelines.reproduce.multa.multa_claims import claims
    from flowloom.pipelines.reproduce.multa.multa_grid import MULTAOutcomes, MULTAScale, dataset_of, grid
    from flowloom.pipelines.reproduce.multa.multa_measure import measure
    from flowloom.pipelines.reproduce.multa.multa_tables import MULTAResults, sections
    from flowloom.pipelines.reproduce.multa.sizes import best_hand, sizes

    scale = MULTAScale.quick() if options.quick else MULTAScale()
    sources = multa_sources(options.data)
    if options.quick:
        sources = [source for source in sources if source.name in QUICK]
    repeats = options.repeats(scale.seeds)
    sets: list[TaskSet] = []
    datasets: dict[str, str] = {}
    for source in sources:
        tasks, directories = prepare_tasks(source, scale, repeats, options.out / "datasets", progress)
        sets.append(tasks)
        datasets |= directories
    planned = [*kitsune_experiments(sources, sets, scale), *grid(sets, scale, repeats)]

    results = run_grid(planned, MULTAAndKitsune(datasets), options, progress).by_name
    outcomes = MULTAOutcomes(results, scale, repeats)
    found = {
        tasks.name: {units: sizes(tasks, outcomes, units) for units in scale.hand} for tasks in sets
    }  # fmt: skip
    chosen = {tasks.name: found[tasks.name][best_hand(tasks, outcomes)] for tasks in sets}
    measured = measure(sources, sets, found, chosen, datasets, scale, options, progress)
    findings = MULTAResults(sets, outcomes, found, chosen, results, processor=processor(), **measured)
    lines = [source.line for source in sources]
    repeated = (
        f"{len(repeats)} splits, with one seed of weights and order of rows each"
        if options.final
        else f"{len(repeats)} seeds of weights and order of rows, on one split"
    )
    lines.append(
        f"Each figure is a mean over {repeated}, with its 95 % interval. Sizes, epochs and targets are chosen on the "
        f"validation split; figures are of the test split. LSTMs of one task have {scale.updates} updates, and a MULTA "
        "has as many for each of its tasks, so that both see each row equally often. Costs were measured on: "
        f"{findings.processor}."
    )
    return Reproduction(
        paper="MULTA: Enabling Cost-efficient Multi-task Network Traffic Analysis (Guo et al.)",
        lines=lines,
        data={
            "sets": {
                tasks.name: {
                    "rows": _rows(Path(datasets[dataset_of(tasks.name, "", repeats[0])])),
                    "content_hash": list(tasks.contents.values()), "tasks": list(tasks.tasks),
                }
                for tasks in sets
            },
            "cells": len(planned), "processor": findings.processor,
            **measured,
        },
        claims=claims(findings),
        sections=sections(findings),
        digits=4,
        note="Differences are of mean AUC, paired by repeat. Intervals are of Student's t over the repeats; they are "
        "corrected for the rows that repeated splits share (Nadeau and Bengio, 2003), and do not extend to other rows "
        "where repeats are seeds on one split.",
    )  # fmt: skip


def _rows(directory: Path) -> int:
    return sum(counts.rows for counts in read_card(directory).splits.values())
