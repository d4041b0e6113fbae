"""Progress of a job on stderr: a bar on a terminal, plain lines elsewhere, or JSON lines."""

import contextlib
import time
from types import TracebackType
from typing import Self

from rich import progress as rich_progress
from rich.markup import escape
from rich.text import Text

from flowloom.pipelines.terminal.event_log import log_event, logs_json, write_stderr
from flowloom.pipelines.terminal.terminal_text import TerminalConsole, terminal_text
from flowloom.schemas.progress import Progress

LINE_S = 5.0
"""Shortest time between plain lines, in seconds."""
BAR_WIDTH = 16
"""Characters of a bar; the rest of a line is for text."""
FIRST_LEFT_S = 3.0
"""Seconds of work before the time that is left is estimated."""


def time_left(seconds: float) -> str:
    """Returns a time in words of one unit, such as `about 3 min left`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.0f} {unit} left"
    return f"about {max(seconds, 1):.0f} s left"


class _Pace:
    """Pace of a job since its total is known; a part with another total or less done begins anew."""

    def __init__(self) -> None:
        self._total: int | None = None
        self._done = self._first = 0
        self._since = 0.0

    def left(self, done: int, total: int | None) -> str:
        """Returns the estimated time that is left, or nothing if it is not known yet."""
        now = time.monotonic()
        if total != self._total or done < self._done:
            self._total, self._first, self._since = total, done, now
        self._done = done
        worked, passed = done - self._first, now - self._since
        if total is None or worked <= 0 or passed < FIRST_LEFT_S or done >= total:
            return ""
        return time_left(passed * (total - done) / worked)


class _TimeLeft(rich_progress.ProgressColumn):
    """Column of a bar with the estimated time that is left."""

    def render(self, task: rich_progress.Task) -> Text:
        """Returns the text of the column."""
        return Text(str(task.fields.get("left", "")), style="progress.remaining")


class ProgressDisplay:
    """Shows the progress of a job while the block runs."""

    def __init__(self, job: str):
        self._job = job
        self._console = TerminalConsole(stderr=True)
        self._json = logs_json()
        self._bar: rich_progress.Progress | None = None
        self._shown = ""
        self._shown_at = 0.0
        self._pace = _Pace()

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._json:
            self._bar = rich_progress.Progress(
                rich_progress.SpinnerColumn(),
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(BAR_WIDTH),
                rich_progress.TimeElapsedColumn(),
                _TimeLeft(),
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
            with contextlib.suppress(OSError):
                self._bar.stop()
        if self._json and error is None:
            log_event(self._job, "end", "finished")

    def show(self, progress: Progress) -> None:
        """Shows the present state of the job, or one of its results.

        States are shown if changed, and not more often than every `LINE_S`. Results are JSON lines only, unless they
        stay.
        """
        if self._json:
            self._log(progress)
        elif progress.stays:
            self.line(progress.text)
        elif progress.event != "progress":
            return
        elif self._bar:
            self._bar.tasks[0].total = progress.total  # `update` would keep the total of the job's previous part
            text = escape(terminal_text(progress.text))
            left = self._pace.left(progress.done, progress.total)
            self._bar.update(self._row, description=f"{self._job}: {text}", completed=progress.done, left=left)
        else:
            left = self._pace.left(progress.done, progress.total)
            if self._is_due(progress):
                self.line(f"{progress.text}, {left}" if left else progress.text)

    def line(self, text: str) -> None:
        """Writes one line that stays."""
        if self._json:
            log_event(self._job, "line", text)
        elif self._bar:
            self._console.print(f"{self._job}: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            write_stderr(f"{self._job}: {terminal_text(text)}")

    def _log(self, progress: Progress) -> None:
        if progress.event != "progress" or progress.stays:
            event = "line" if progress.event == "progress" else progress.event
            log_event(self._job, event, progress.text, progress.facts)
        elif self._is_due(progress):
            log_event(self._job, "progress", progress.text, {"done": progress.done, "total": progress.total})

    def _is_due(self, progress: Progress) -> bool:
        """Returns whether a state is shown on a line, and takes note of it."""
        if progress.text == self._shown or time.monotonic() - self._shown_at < LINE_S:
            return False
        self._shown, self._shown_at = progress.text, time.monotonic()
        return True
