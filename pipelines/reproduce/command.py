"""`flowloom reproduce`: a paper's experiments on the data that is present, beside the paper's figures."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
from flowloom.pipelines.reproduce.iot_sentinel.reproduce_iot_sentinel import reproduce_iot_sentinel
from flowloom.pipelines.reproduce.mtc.reproduce_mtc import reproduce_mtc
from flowloom.pipelines.reproduce.multa.reproduce_multa import reproduce_multa
from flowloom.pipelines.reproduce.multitask_cnn.reproduce_multitask_cnn import reproduce_multitask_cnn
from flowloom.schemas.progress import Progress, ignore_progress

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction

QUICK = "This was a quick run: it shows that everything runs, and its figures mean little."


_REPRODUCTIONS: Mapping[str, Callable[[ReproduceOptions, Callable[[Progress], None]], "Reproduction"]] = {
    "multitask-cnn": reproduce_multitask_cnn,
    "multa": reproduce_multa,
    "mtc": reproduce_mtc,
    "iot-sentinel": reproduce_iot_sentinel,
}
"""Reproductions by the name of the paper."""


def reproduce(options: ReproduceOptions, progress: Callable[[Progress], None] = ignore_progress) -> dict[str, Any]:
    """Builds the datasets, runs the paper's experiments, and writes index.html and results.json into `out`.

    Results in `out` from the same data and options are reused, so an interrupted call continues. Other data is built
    into new datasets beside the present ones.

    Returns:
      The content of results.json.

    Raises:
      FlowloomError: if the data of the paper's first set is missing, or a step fails.
    """
    found = _REPRODUCTIONS[options.paper](options, progress)
    complete = dataclasses.replace(
        found,
        lines=[*found.lines, *([QUICK] if options.quick else [])],
        data={**found.data, "seed": options.seed, "quick": options.quick},
        command=options.command,
    )
    return complete.write(options.out)
