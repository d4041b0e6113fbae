"""`flowloom reproduce`: a paper's experiments on what there is of its data, side by side with the paper's figures."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowloom.pipelines.progress import ProgressDisplay
from flowloom.pipelines.reproduce_mtc import reproduce_mtc
from flowloom.pipelines.reproduce_multa import reproduce_multa
from flowloom.pipelines.reproduce_multitask_cnn import reproduce_multitask_cnn
from flowloom.pipelines.runners import usable_cores
from flowloom.schemas.errors import FlowloomError, did_you_mean

if TYPE_CHECKING:
    from flowloom.trainers.reproduction import Reproduction

QUICK = "This was a quick run: it shows the road, and its figures mean little."


@dataclasses.dataclass(frozen=True)
class ReproduceOptions:
    """What to reproduce, from which data, and where to."""

    paper: str
    data: Path
    out: Path
    seed: int = 7
    quick: bool = False
    """A small grid: shows the road, not the figures."""
    workers: int = dataclasses.field(default_factory=usable_cores)

    def __post_init__(self) -> None:
        if self.paper not in PAPERS:
            near = did_you_mean(self.paper, PAPERS)
            raise FlowloomError(f"paper must be one of {', '.join(PAPERS)}, got {self.paper!r}{near}")
        if self.workers < 1:
            raise FlowloomError(f"workers must be at least 1, got {self.workers}")

    @property
    def command(self) -> str:
        """What gives the same again."""
        return (
            f"flowloom reproduce {self.paper} --data DATA -o OUT --seed {self.seed}{' --quick' if self.quick else ''}"
        )


PAPERS: Mapping[str, Callable[[ReproduceOptions, ProgressDisplay], "Reproduction"]] = {
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
    found = PAPERS[options.paper](options, display)
    told = dataclasses.replace(
        found,
        lines=[*found.lines, *([QUICK] if options.quick else [])],
        data={**found.data, "seed": options.seed, "quick": options.quick},
        command=options.command,
    )
    return told.write(options.out)
