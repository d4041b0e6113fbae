"""End of a command's process: one sentence for each failure, documented exit codes, and no wait without a limit."""

import atexit
import contextlib
import gc
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from flowloom.pipelines.cli.shared import CommandEnded
from flowloom.pipelines.terminal.event_log import log_event, logs_json, write_stderr
from flowloom.pipelines.terminal.terminal_text import terminal_text
from flowloom.schemas.errors import FlowloomError, os_error_message
from flowloom.schemas.extras import missing_library
from flowloom.schemas.secrets import without_secrets

FAILED = 1
INTERNAL_ERROR = 70
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
PIPE_CLOSED = 128 + signal.SIGPIPE

DEBUG = "FLOWLOOM_DEBUG"
"""Environment variable; any value but 0 prints tracebacks of internal errors."""

CLEANUP_S = 5.0
"""Seconds that a process has for its exit handlers after a failure."""


class Terminated(BaseException):
    """SIGTERM: raised in the main thread, so that temporary files are removed."""


def exit_code_of(command: Callable[[], Any]) -> int:
    """Runs a command, prints one sentence if it fails, and returns the exit code (docs/errors.md)."""
    error: BaseException | None = None
    try:
        command()
        sys.stdout.flush()
    except SystemExit as ended:
        return _code_of(ended)
    except CommandEnded as ended:
        error = ended.args[0]
    except BaseException as raised:
        error = raised
    if error is None:
        return 0
    code, sentence = _explained(error)
    if code == INTERNAL_ERROR:
        sentence = f"{sentence}; {_reported(error)}"
    # its frames hold iterators of TensorFlow, which must not outlive the interpreter
    error = None
    gc.collect()
    if code == PIPE_CLOSED:
        _forget_stdout()
    else:
        print_error(sentence, code)
    return code


def print_error(sentence: str, code: int) -> None:
    """Writes an error to stderr, as a line or as an event."""
    if logs_json():
        log_event("flowloom", "error", sentence, {"code": code})
    else:
        write_stderr(f"error: {terminal_text(sentence)}")


def catch_signals() -> None:
    """Makes SIGTERM end the command as SIGINT does; a second signal ends the process at once."""

    def end(number: int, _: Any) -> NoReturn:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    for each in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(each) != signal.SIG_IGN:  # as nohup and shells set it for jobs in the background
            signal.signal(each, end)


def leave(code: int) -> NoReturn:
    """Ends this process; after a failure its exit handlers have `CLEANUP_S` seconds, and no thread is waited for.

    Threads of Beam and TensorFlow can keep a failed process alive for ever: they wait for a lock of the interpreter,
    which waits for them.
    """
    if code:
        timer = threading.Timer(CLEANUP_S, os._exit, (code,))
        timer.daemon = True
        timer.start()
        _end_children()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _end_children() -> None:
    """Ends the processes that this one has started, such as those of NFStream and of experiments."""
    for status in Path("/proc").glob("[0-9]*/stat"):  # systems without /proc have none
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = status.read_text(errors="replace").rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                os.kill(int(status.parent.name), signal.SIGTERM)


def _explained(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the sentence of an exception."""
    if isinstance(error, ModuleNotFoundError):
        error = missing_library(error, "this command needs") or error
    if isinstance(error, FlowloomError):
        return FAILED, str(error)
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED, "the reader of the output has closed it"
    if isinstance(error, OSError):
        return FAILED, os_error_message(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; unfinished files were removed"
    if isinstance(error, Terminated):
        return TERMINATED, "terminated by SIGTERM; unfinished files were removed"
    if isinstance(error, MemoryError):
        return FAILED, f"memory is used up{': ' if str(error) else ''}{error}; use fewer workers, or a larger machine"
    lines = str(error).strip().splitlines()
    return INTERNAL_ERROR, f"internal error: {type(error).__name__}: {lines[-1] if lines else 'no message'}"


def _reported(error: BaseException) -> str:
    """Prints the traceback if asked, else writes it to a new file, and returns where it is."""
    trace = without_secrets("".join(traceback.format_exception(error)))
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        for line in trace.splitlines():
            write_stderr(terminal_text(line))
        return "please report it with the traceback above"
    try:
        descriptor, path = tempfile.mkstemp(prefix="flowloom-error-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(trace)
    except OSError:
        return f"set {DEBUG}=1 to see the traceback, and please report it"
    return f"the traceback is in {path}; please report it"


def _code_of(ended: SystemExit) -> int:
    return ended.code if isinstance(ended.code, int) else FAILED if ended.code else 0


def _forget_stdout() -> None:
    """Points stdout to nothing, so that nothing else fails to write to the closed pipe."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass
