"""Options of `flowloom reproduce`."""

import dataclasses
from pathlib import Path

from flowloom.pipelines.engines.embedded import usable_cores
from flowloom.schemas.errors import FlowloomError, did_you_mean

PAPERS = ("multitask-cnn", "multa", "mtc", "iot-sentinel")
"""Names of the papers, as the command takes them."""


@dataclasses.dataclass(frozen=True)
class ReproduceOptions:
    """A paper, its data, and the output folder."""

    paper: str
    data: Path
    out: Path
    seed: int = 7
    quick: bool = False
    """A small grid, which shows that the command works, not the paper's figures."""
    workers: int = dataclasses.field(default_factory=usable_cores)

    def __post_init__(self) -> None:
        if self.paper not in PAPERS:
            near = did_you_mean(self.paper, PAPERS)
            raise FlowloomError(f"paper must be one of {', '.join(PAPERS)}, got {self.paper!r}{near}")
        if self.workers < 1:
            raise FlowloomError(f"workers must be >= 1, got {self.workers}")

    @property
    def command(self) -> str:
        """The command that repeats the reproduction."""
        return (
            f"flowloom reproduce {self.paper} --data DATA -o OUT --seed {self.seed}{' --quick' if self.quick else ''}"
        )
