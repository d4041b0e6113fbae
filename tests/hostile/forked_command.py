"""Commands in forked children of one process that has imported everything, ended at a point if wanted.

A child begins within milliseconds, so that many kill points are cheap. File operations are counted by an audit hook;
at the chosen one the child ends itself by SIGKILL, before the operation happens.
"""

import contextlib
import dataclasses
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

EVENTS = frozenset(
    ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
)


@dataclasses.dataclass(frozen=True)
class Ending:
    """Finding of one run of a command.

    Attributes:
      code: exit code; the negative number of a signal.
      operations: file operations inside the workspace.
      output: standard output and error.
    """

    code: int
    seconds: float
    operations: int
    output: str

    @property
    def traceback(self) -> bool:
        """True if the output has a traceback of Python."""
        return "Traceback (most recent call last)" in self.output


class FileEvents:
    """Audit hook that counts file operations below a folder, and kills the process at one of them."""

    def __init__(self, folder: Path, kill_at: int | None, count: Path):
        self._folder, self._kill_at, self._number = str(folder), kill_at, 0
        self._count = os.open(count, os.O_CREAT | os.O_WRONLY)

    def __call__(self, event: str, arguments: tuple) -> None:
        """Counts one event."""
        if event == "open":
            if not self._writes(arguments):
                return
        elif event not in EVENTS:
            return
        if not any(isinstance(each, (str, bytes)) and self._inside(os.fsdecode(each)) for each in arguments):
            return
        self._number += 1
        if self._number == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        os.pwrite(self._count, b"%12d" % self._number, 0)

    def _writes(self, arguments: tuple) -> bool:
        mode, flags = arguments[1], arguments[2]
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or (isinstance(mode, str) and mode != "r")

    def _inside(self, path: str) -> bool:
        return os.path.abspath(path).startswith(self._folder)


def warm_up() -> None:
    """Imports what the commands need, so that children begin with it."""
    import flowloom.pipelines.build
    import flowloom.pipelines.cli.main
    import flowloom.pipelines.retrain.retrain
    import flowloom.pipelines.score
    import flowloom.pipelines.weave
    import flowloom.trainers.deploy.export
    import flowloom.trainers.training.challenger
    import flowloom.trainers.training.train  # noqa: F401


def run(
    arguments: Sequence[str],
    workspace: Path,
    *,
    kill_at: int | None = None,
    kill_after: float | None = None,
    most_bytes: int | None = None,
    limit: float = 900,
) -> Ending:
    """Runs a `flowloom` command in a child whose current folder is the workspace.

    Args:
      kill_at: number of the file operation at which the child is killed.
      kill_after: seconds after which it is killed.
      most_bytes: size of a file at most, as on a full disk.
      limit: seconds after which a command counts as hanging.
    """
    temporary = workspace / "tmp"
    temporary.mkdir(exist_ok=True)
    log, count = workspace.with_suffix(".log"), workspace.with_suffix(".count")
    for path in (log, count):  # a child that is killed at once makes neither
        path.write_bytes(b"")
    sys.stdout.flush()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(arguments, workspace, log, FileEvents(workspace, kill_at, count), most_bytes)
    code = None
    while code is None:
        done, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - begun
        if done:
            code = os.waitstatus_to_exitcode(status)
        elif seconds > (kill_after if kill_after is not None else limit):
            with contextlib.suppress(ProcessLookupError):  # the child has no group of its own yet
                os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            time.sleep(0.01)
    operations = int(count.read_text() or 0)
    return Ending(code, time.monotonic() - begun, operations, log.read_text(errors="replace"))


def _become(arguments: Sequence[str], workspace: Path, log: Path, events: FileEvents, most_bytes: int | None) -> None:
    """Turns a forked child into the command; does not return."""
    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(output, number)
        os.chdir(workspace)
        os.environ["TMPDIR"] = tempfile.tempdir = str(workspace / "tmp")
        if most_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        sys.addaudithook(events)
        from flowloom.pipelines.cli.main import main

        sys.argv = ["flowloom", *arguments]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def copy_of(template: Path, to: Path) -> Path:
    """Returns a fresh copy of a workspace."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(template, to, symlinks=True)
    return to
