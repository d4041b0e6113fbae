"""Log of a command for unattended runs: one JSON line on stderr for each event (`--log-format json`)."""

import datetime as dt
import logging
import sys
import threading
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from flowloom.pipelines.terminal.terminal_text import json_line
from flowloom.schemas.progress import Event

LogFormat = Literal["text", "json"]

_lock = threading.Lock()
_format: LogFormat = "text"


def log_as(log_format: LogFormat) -> None:
    """Sets the format of all that this process writes to stderr from now on.

    Warnings of Python and of libraries become events too.
    """
    global _format
    _format = log_format
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _EventHandler)]:
        root.removeHandler(handler)
    if log_format == "json":
        root.addHandler(_EventHandler(logging.WARNING))
        logging.captureWarnings(True)
        warnings.simplefilter("default")


def logs_json() -> bool:
    """Returns whether events go to stderr as JSON lines."""
    return _format == "json"


def log_event(job: str, event: Event, message: str, facts: Mapping[str, Any] | None = None) -> None:
    """Writes one event as a JSON line on stderr.

    Args:
      job: name of the command.
      event: kind of the event.
      message: one line for people.
      facts: further values by name, which JSON can hold.
    """
    time = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    write_stderr(json_line({"time": time, "job": job, "event": event, "message": message, **(facts or {})}))


def write_stderr(line: str) -> None:
    """Writes a line to stderr; a closed pipe or a full disk there does not stop a job."""
    with _lock:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass


class _EventHandler(logging.Handler):
    """Handler of log records of libraries, as events of the kind `warning`."""

    def emit(self, record: logging.LogRecord) -> None:
        log_event(record.name, "warning", record.getMessage())
