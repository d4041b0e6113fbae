"""`flowloom reproduce iot-sentinel`: one table of all models on the set-ups of IoT Sentinel, by several splits."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from flowloom.pipelines.reproduce.engine.datasets import built_once
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_data import (
    ALL_CAPTURES,
    FEW_CAPTURES,
    sentinel_folder,
    sentinel_manifest,
)
from flowloom.schemas.progress import Progress

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction

FINAL_SPLITS = (101, 102, 103, 104, 105)
"""Seeds of the capture splits of final figures, which development never looks at."""
QUICK_SETTINGS = ("schedule.epochs=1",)


def reproduce_iot_sentinel(options: "ReproduceOptions", progress: Callable[[Progress], None]) -> "Reproduction":
    """Trains every arm on each split of the captures, and compares macro F1 and cost.

    Development sees one split, of the seed of the options, and predicts its validation rows. Final figures are of the
    test rows of five other splits. A split has one training of each arm, with the seed of the split.

    Raises:
      FlowloomError: if there are no captures.
    """
    from flowloom.pipelines.reproduce.engine.experiments import run_experiments
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
    from flowloom.pipelines.reproduce.engine.single_thread import one_thread
    from flowloom.pipelines.reproduce.iot_sentinel.sentinel_arms import grid, known_arms
    from flowloom.pipelines.reproduce.iot_sentinel.sentinel_cells import SentinelCells
    from flowloom.pipelines.reproduce.iot_sentinel.sentinel_tables import SentinelOutcomes, claims, sections

    seeds, rows = _splits(options)
    folder = sentinel_folder(options.data)
    glob = FEW_CAPTURES if options.quick else ALL_CAPTURES
    built = {
        seed: built_once(
            f"iot-sentinel-{seed}", sentinel_manifest(folder, seed, glob), options.out / "datasets", progress
        )
        for seed in seeds
    }
    arms, unknown = known_arms()
    contents = {seed: card.content_hash for seed, (_, card) in built.items()}
    planned = grid(arms, contents, rows, QUICK_SETTINGS if options.quick else ())
    cells = SentinelCells({seed: str(path) for seed, (path, _) in built.items()}, str(options.out / "runs"))
    progress(Progress(f"{len(planned):,} experiments in {options.out / 'cells'}", stays=True))
    results = run_experiments(planned, cells, options.out / "cells", options.workers, one_thread, progress)
    outcomes = SentinelOutcomes(results.by_name, arms, tuple(seeds))
    flows = {
        str(seed): {split: counts.rows for split, counts in card.splits.items()} for seed, (_, card) in built.items()
    }
    lines = [
        "IoT Sentinel (Miettinen et al., ICDCS 2017): captures of smart-home devices while they are set up, each about "
        "20 times. Three tasks of one hierarchy: device, and the vendor and category that follow from it.",
        f"Captures are split 64 : 16 : 20 by {len(seeds)} seed(s), {', '.join(map(str, seeds))}; figures are of "
        f"{rows} rows. Every arm is trained once on each split, by the settings of its recipe.",
    ]
    if unknown:
        names = ", ".join(arm.name for arm in unknown)
        lines.append(f"This version lacks the recipes or settings of these arms, which are left out: {names}.")
    return Reproduction(
        paper="IoT Sentinel: all models on one table",
        lines=lines,
        data={
            "flows": flows,
            "contents": {str(seed): content for seed, content in contents.items()},
            "rows": rows,
            "cells": len(planned),
        },
        claims=claims(outcomes),
        sections=sections(outcomes),
        note=(
            "Differences are paired: both models use the same splits. Intervals are of Student's t over the splits, in "
            "points of macro F1."
        ),
    )


def _splits(options: "ReproduceOptions") -> tuple[tuple[int, ...], str]:
    """Returns the seeds of the splits, and the rows that are predicted."""
    if getattr(options, "final", False):
        return FINAL_SPLITS, "test"
    return (options.seed,), "validation"
