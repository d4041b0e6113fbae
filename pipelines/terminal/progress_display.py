"""Progress of a job on stderr: a bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from flowloom.pipelines.terminal.metrics_table import number

if TYPE_CHECKING:
    from flowloom.trainers.training.loop import Progress as Training
    from flowloom.transforms.io.progress import Tally

LINE_S = 5.0
"""Shortest time between plain lines, in seconds."""


class ProgressDisplay:
    """Shows the progress of a job while the block runs."""

    def __init__(self, job: str):
        self._job = job
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._shown = ""
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._row = self._bar.add_task(self._job, total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, text: str, done: float | None = None, total: float | None = None) -> None:
        """Shows the present state; plain lines only if it changed, and not more often than every `LINE_S`."""
        if self._bar:
            self._bar.update(self._row, description=f"{self._job}: {text}", completed=done, total=total)
        elif text != self._shown and time.monotonic() - self._shown_at >= LINE_S:
            self._shown, self._shown_at = text, time.monotonic()
            self.line(text)

    def line(self, text: str) -> None:
        """Writes one line that stays."""
        self._console.print(f"{self._job}: {text}", markup=False, highlight=False, soft_wrap=True)

    def built(self, tally: "Tally") -> None:
        """Shows the progress of a build."""
        self.update(f"{tally.captures:,} captures read, {tally.flows:,} flows metered, {tally.shards:,} shards written")

    def merged(self, tally: "Tally") -> None:
        """Shows the progress of a merge or conversion of datasets."""
        self.update(f"{tally.shards:,} shards written")

    def scored(self, tally: "Tally") -> None:
        """Shows the progress of scoring."""
        self.update(f"{tally.captures:,} captures read, {tally.flows:,} flows metered, {tally.shards:,} shards written")

    def metered(self, tally: "Tally") -> None:
        """Shows the number of metered captures."""
        self.update(f"{tally.captures:,} captures metered")

    def experiments(self, done: int, total: int, latest: str) -> None:
        """Shows the progress of a grid of experiments."""
        self.update(f"{done:,} of {total:,} experiments, latest {latest}", done, total)

    def trained(self, training: "Training") -> None:
        """Shows the progress of a training, and a line for every complete epoch."""
        place = f"epoch {training.epoch} of {training.epochs}"
        self.update(f"{place}, step {training.step} of {training.steps}", training.step, training.steps)
        if training.record:
            scores = ", ".join(f"{task} {number(auc)}" for task, auc in training.record["validation_auc"].items())
            self.line(f"{place}: validation AUC: {scores}")
