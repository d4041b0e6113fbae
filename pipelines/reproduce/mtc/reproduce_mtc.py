"""`flowloom reproduce mtc`: the experiments of MTC, on ISCX as sessions of 784 bytes and a subset of CICIDS2017."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flowloom.pipelines.reproduce.mtc.mtc_data import row_sets
from flowloom.schemas.dataset.card_parts import ByteRule
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.progress import Progress

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction


def reproduce_mtc(options: "ReproduceOptions", progress: Callable[[Progress], None]) -> "Reproduction":
    """Repeats the experiments of Wang, Gao and Lei.

    The paper is "MTC: A Multi-Task Model for Encrypted Network Traffic Classification".
    """
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
    from flowloom.pipelines.reproduce.engine.run_grid import run_grid
    from flowloom.pipelines.reproduce.mtc.mtc_claims import claims
    from flowloom.pipelines.reproduce.mtc.mtc_experiments import MTCExperiments
    from flowloom.pipelines.reproduce.mtc.mtc_grid import HEADERS, MTCOutcomes, MTCScale, grid
    from flowloom.pipelines.reproduce.mtc.mtc_tables import sections

    scale = MTCScale.quick() if options.quick else MTCScale()
    sets, lines = row_sets(options, scale, progress)
    repeats = options.repeats(scale.repeats)
    planned = grid(sets, scale, repeats)
    experiments = MTCExperiments({rows.name: rows for rows in sets})

    results = run_grid(planned, experiments, options, progress)
    outcomes = MTCOutcomes(results.by_name, scale, repeats)
    headers = next((rows for rows in sets if rows.name == HEADERS), None)
    rule = None if headers is None else _byte_rule(Path(headers.directory))
    lines.append(
        f"Each figure is a mean over {len(repeats)} stratified splits (64 % train, 16 % validation, 20 % test) with "
        "its 95 % interval. Of rows with equal bytes or features only one is kept, so that none is in two splits. "
        "All networks keep the weights of the best validation macro F1 of the first task. Claims are about methods "
        "that were trained near convergence. The paper's MTC, its Transformer and its 1D-CNN were not: their figures "
        "are those of a budget of processor time, in tables of their own, and decide nothing about the paper."
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
        "corrected for the rows that repeated splits share (Nadeau and Bengio, 2003), in points of macro F1.",
    )  # fmt: skip


def _byte_rule(directory: Path) -> ByteRule | None:
    return next((rule for rule in read_card(directory).byte_rules if rule.task == "vpn"), None)
