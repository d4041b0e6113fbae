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
DEVELOPMENT = (
    "This is a development run: its splits were looked at while methods were made. Figures to report are those of "
    "--final, from splits that nobody has looked at."
)

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
    into new datasets beside the present ones. Final figures are written into `out/final`, once for each configuration.

    Returns:
      The content of results.json.

    Raises:
      FlowloomError: if the data of the paper's first set is missing, a step fails, or final figures of the same
        configuration were shown before.
    """
    from flowloom.pipelines.reproduce.engine.final_log import FinalLog
    from flowloom.pipelines.reproduce.engine.single_thread import machine

    found = _REPRODUCTIONS[options.paper](options, progress)
    log = FinalLog(options.out)
    standing = log.standing(options.paper) if options.final else QUICK if options.quick else DEVELOPMENT
    seeds = sorted({repeat.seed for repeat in options.repeats(1)})
    complete = dataclasses.replace(
        found,
        lines=[*found.lines, standing],
        data={**found.data, "seeds": seeds, "quick": options.quick, "final": options.final, "machine": machine()},
        command=options.command,
    )
    document = complete.write(options.folder)
    if options.final:
        log.shown(options.paper)
    return document
