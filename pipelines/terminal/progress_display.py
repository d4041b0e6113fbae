"""Progress of a job on stderr: a bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich import progress as rich_progress
from rich.console import Console

from flowloom.schemas.progress import Progress

LINE_S = 5.0
"""Shortest time between plain lines, in seconds."""


class ProgressDisplay:
    """Shows the progress of a job while the block runs."""

    def __init__(self, job: str):
        self._job = job
        self._console = Console(stderr=True)
        self._bar: rich_progress.Progress | None = None
        self._shown = ""
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = rich_progress.Progress(
                rich_progress.SpinnerColumn(),
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(),
                rich_progress.TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._row = self._bar.add_task(self._job, total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Shows the present state of the job; plain lines only if changed, and not more often than every `LINE_S`."""
        if progress.stays:
            self.line(progress.text)
        elif self._bar:
            self._bar.tasks[0].total = progress.total  # `update` would keep the total of the job's previous part
            self._bar.update(self._row, description=f"{self._job}: {progress.text}", completed=progress.done)
        elif progress.text != self._shown and time.monotonic() - self._shown_at >= LINE_S:
            self._shown, self._shown_at = progress.text, time.monotonic()
            self.line(progress.text)

    def line(self, text: str) -> None:
        """Writes one line that stays."""
        self._console.print(f"{self._job}: {text}", markup=False, highlight=False, soft_wrap=True)
