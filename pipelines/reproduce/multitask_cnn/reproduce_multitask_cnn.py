"""`flowloom reproduce multitask-cnn`: the experiments of Rezaei and Liu, on the data that is present."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flowloom.pipelines.reproduce.engine.datasets import built_once
from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_data import flow_sources, labelled_totals
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.progress import Progress

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction


def reproduce_multitask_cnn(options: "ReproduceOptions", progress: Callable[[Progress], None]) -> "Reproduction":
    """Repeats the experiments of Rezaei and Liu, Multitask Learning for Network Traffic Classification.

    Raises:
      FlowloomError: if the flows of the first set are missing.
    """
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
    from flowloom.pipelines.reproduce.engine.run_grid import run_grid
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_claims import claims
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_experiments import RezaeiLiuExperiments
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_grid import (
        FlowSet,
        RezaeiLiuOutcomes,
        RezaeiLiuScale,
        grid,
    )
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_tables import sections

    sources = flow_sources(options.data, options.quick)
    sets = []
    for source in sources:
        directory, card = built_once(source.name, source.manifest, options.out / "datasets", progress)
        classes = next(task.vocabulary for task in card.tasks if task.name == source.task)
        sets.append(
            FlowSet(
                source.name, os.fspath(directory), source.task, classes, source.title, card.content_hash, source.signed,
                card.definition.k, source.name.startswith("quic"), source.name == "quic-texts",
            )
        )  # fmt: skip
    scale = RezaeiLiuScale.quick() if options.quick else RezaeiLiuScale()
    repeats = options.repeats(scale.repeats)
    planned = grid(sets, scale, repeats)
    experiments = RezaeiLiuExperiments({flows.name: (flows.directory, flows.task) for flows in sets})

    outcomes = RezaeiLiuOutcomes(run_grid(planned, experiments, options, progress).by_name, scale, repeats)
    totals = labelled_totals(options.data)
    lines = [source.line for source in sources]
    lines.append(
        f"Each figure is a mean over {len(repeats)} stratified splits by flow (64 % train, 16 % validation, 20 % "
        f"test), with its 95 % interval. Each network has {scale.updates} updates on all train flows. All networks "
        "keep their last weights: the labels of validation rows, more than those that a network with few labels may "
        "know, choose nothing."
    )
    return Reproduction(
        paper="Multitask Learning for Network Traffic Classification (Rezaei and Liu)",
        lines=lines,
        data={
            "sets": {flows.name: {"flows": _flows(flows.directory), "content_hash": flows.content} for flows in sets},
            "cells": len(planned),
        },
        claims=claims(sets, outcomes, totals),
        sections=sections(sets, outcomes, totals),
    )  # fmt: skip


def _flows(directory: str) -> int:
    return sum(counts.rows for counts in read_card(Path(directory)).splits.values())
