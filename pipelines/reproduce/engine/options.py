"""Options of `flowloom reproduce`."""

import dataclasses
from pathlib import Path

from flowloom.schemas.cores import usable_cores
from flowloom.schemas.errors import FlowloomError, did_you_mean

PAPERS = ("multitask-cnn", "multa", "mtc", "iot-sentinel")
"""Names of the papers, as the command takes them."""
DEVELOPMENT_SEED = 7
"""Seed of the splits on which methods are developed, and of the data that development may look at."""
FINAL_SEEDS = (101, 102, 103, 104, 105)
"""Seeds of the splits of final figures, which development never looks at."""


@dataclasses.dataclass(frozen=True)
class Repeat:
    """One repeat of an experiment: a split of the data, and a training.

    Attributes:
      seed: seed of the split. A dataset that is built anew for each split takes it as `splits: {seed: ...}`.
      number: number of the repeat among those of its seed; splits in memory and weights are drawn by seed and number.
    """

    seed: int
    number: int = 0

    @property
    def name(self) -> str:
        """Name of the repeat in the names of experiments."""
        return f"seed-{self.seed}-{self.number}"

    @property
    def training_seed(self) -> int:
        """Seed of weights and order of rows, where numbers are seeds of one split."""
        return self.seed + self.number


@dataclasses.dataclass(frozen=True)
class ReproduceOptions:
    """A paper, its data, and the output folder."""

    paper: str
    data: Path
    out: Path
    seed: int = DEVELOPMENT_SEED
    quick: bool = False
    """A small grid, which shows that the command works, not the paper's figures."""
    workers: int = dataclasses.field(default_factory=usable_cores)
    final: bool = False
    """Whether the figures are the final ones, of splits that development never looks at."""

    def __post_init__(self) -> None:
        if self.paper not in PAPERS:
            near = did_you_mean(self.paper, PAPERS)
            raise FlowloomError(f"paper must be one of {', '.join(PAPERS)}, got {self.paper!r}{near}")
        if self.workers < 1:
            raise FlowloomError(f"workers must be >= 1, got {self.workers}")
        if self.final and self.quick:
            raise FlowloomError("final figures need the whole grid, got --final with --quick; remove one of them")
        if self.final and self.seed != DEVELOPMENT_SEED:
            seeds = ", ".join(map(str, FINAL_SEEDS))
            raise FlowloomError(f"final figures have the seeds {seeds}, got --seed {self.seed}; remove it")

    def repeats(self, count: int) -> tuple[Repeat, ...]:
        """Returns the repeats: `count` of the seed, or one of each of `FINAL_SEEDS`."""
        if self.final:
            return tuple(map(Repeat, FINAL_SEEDS))
        return tuple(Repeat(self.seed, number) for number in range(count))

    @property
    def folder(self) -> Path:
        """The folder of page, results and experiments; datasets are in `out`, as they show no figures."""
        return self.out / "final" if self.final else self.out

    @property
    def command(self) -> str:
        """The command that repeats the reproduction."""
        chosen = "--final" if self.final else f"--seed {self.seed}{' --quick' if self.quick else ''}"
        return f"flowloom reproduce {self.paper} --data DATA -o OUT {chosen}"
