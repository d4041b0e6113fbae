"""`flowloom reproduce`: a paper's experiments on what there is of its data, side by side with the paper's figures."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
from flowloom.pipelines.reproduce.mtc.reproduce_mtc import reproduce_mtc
from flowloom.pipelines.reproduce.multa.reproduce_multa import reproduce_multa
from flowloom.pipelines.reproduce.multitask_cnn.reproduce_multitask_cnn import reproduce_multitask_cnn
from flowloom.pipelines.terminal.progress_display import ProgressDisplay

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction

QUICK = "This was a quick run: it shows the road, and its figures mean little."


_REPRODUCTIONS: Mapping[str, Callable[[ReproduceOptions, ProgressDisplay], "Reproduction"]] = {
    "multitask-cnn": reproduce_multitask_cnn,
    "multa": reproduce_multa,
    "mtc": reproduce_mtc,
}
"""Every paper that can be reproduced."""


def reproduce(options: ReproduceOptions, display: ProgressDisplay) -> dict[str, Any]:
    """Build the datasets, run the paper's experiments on them, and write index.html and results.json into `out`.

    What is in `out` already from the same data and options is kept, so that an interrupted call goes on where it was;
    of other data datasets are built anew beside those that are there.

    Returns:
      what results.json holds.

    Raises:
      FlowloomError: if the data of the paper's first set is not there, or a step fails.
    """
    found = _REPRODUCTIONS[options.paper](options, display)
    told = dataclasses.replace(
        found,
        lines=[*found.lines, *([QUICK] if options.quick else [])],
        data={**found.data, "seed": options.seed, "quick": options.quick},
        command=options.command,
    )
    return told.write(options.out)
