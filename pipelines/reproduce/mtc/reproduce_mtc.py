"""`flowloom reproduce mtc`: the experiments of MTC, on ISCX as sessions of 784 bytes and a subset of CICIDS2017."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flowloom.pipelines.reproduce.mtc.mtc_data import row_sets
from flowloom.schemas.dataset.dataset_card import ByteRule, read_card
from flowloom.schemas.progress import Progress

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction


def reproduce_mtc(options: "ReproduceOptions", progress: Callable[[Progress], None]) -> "Reproduction":
    """Repeats the experiments of Wang, Gao and Lei.

    The paper is "MTC: A Multi-Task Model for Encrypted Network Traffic Classification".
    """
    from flowloom.pipelines.reproduce.engine.experiments import run_experiments
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
    from flowloom.pipelines.reproduce.engine.single_thread import one_thread
    from flowloom.pipelines.reproduce.mtc.mtc_claims import claims
    from flowloom.pipelines.reproduce.mtc.mtc_experiments import MTCExperiments
    from flowloom.pipelines.reproduce.mtc.mtc_grid import HEADERS, MTCOutcomes, MTCScale, grid
    from flowloom.pipelines.reproduce.mtc.mtc_tables import sections

    scale = MTCScale.quick() if options.quick else MTCScale()
    sets, lines = row_sets(options, scale, progress)
    planned = grid(sets, scale, options.seed)
    progress(Progress(f"{len(planned):,} experiments in {options.out / 'cells'}", stays=True))
    experiments = MTCExperiments({rows.name: rows for rows in sets})

    results = run_experiments(planned, experiments, options.out / "cells", options.workers, one_thread, progress)
    outcomes = MTCOutcomes(results.by_name, scale)
    headers = next((rows for rows in sets if rows.name == HEADERS), None)
    rule = None if headers is None else _byte_rule(Path(headers.directory))
    lines.append(
        f"Each figure is a mean over {scale.repeats} stratified splits (64 % train, 16 % validation, 20 % test) with "
        "its 95 % interval. Of rows with equal bytes or features only one is kept, so that none is in two splits. "
        "MTC and its rivals are compared at about equal processor time, not at equal updates; both costs are below."
    )
    return Reproduction(
        paper="MTC: A Multi-Task Model for Encrypted Network Traffic Classification (Wang, Gao and Lei)",
        lines=lines,
        data={
            "sets": {rows.name: {"rows_per_class": rows.limit, "content_hash": rows.content} for rows in sets},
            "cells": len(planned),
            "cpu_s": round(sum(result["cpu_s"] for result in results.by_name.values()), 1),
        },
        claims=claims(sets, outcomes, rule),
        sections=sections(sets, outcomes, rule),
        note="Differences are paired: both methods on the same splits. Intervals are of Student's t over the repeats, "
        "in points of macro F1.",
    )  # fmt: skip


def _byte_rule(directory: Path) -> ByteRule | None:
    return next((rule for rule in read_card(directory).byte_rules if rule.task == "vpn"), None)
