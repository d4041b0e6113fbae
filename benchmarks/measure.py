"""Measuring a command as its user pays for it: whole processes, one core, wall time and peak memory."""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

FLOWLOOM = (str(Path(sys.executable).with_name("flowloom")),)


@dataclasses.dataclass(frozen=True)
class Run:
    """One finished process: wall seconds, peak resident MiB, and processor seconds of all its threads."""

    seconds: float
    peak_mib: float
    cpu_seconds: float


def run(command: Sequence[str | os.PathLike[str]], *, core: int | None = 0) -> Run:
    """Runs a command to its end, pinned to one core unless `core` is None; its output is thrown away.

    Raises:
      subprocess.CalledProcessError: if it fails.
    """
    pin = None if core is None else lambda: os.sched_setaffinity(0, {core})
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=pin)
    assert process.stderr is not None
    complaint = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, [str(part) for part in command], stderr=complaint)
    return Run(seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def alternate(commands: dict[str, Sequence[str | os.PathLike[str]]], *, rounds: int, core: int | None = 0) -> dict:
    """Runs named commands in turn, `rounds` times after one warm-up each, so that drift hits all alike.

    Returns:
      the median `Run` of each name: median seconds of both kinds, largest peak.
    """
    for command in commands.values():
        run(command, core=core)
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(run(command, core=core))
    return {
        name: Run(
            statistics.median(r.seconds for r in taken),
            max(r.peak_mib for r in taken),
            statistics.median(r.cpu_seconds for r in taken),
        )
        for name, taken in runs.items()
    }


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """Gives a folder for large temporary captures, gone afterwards; its disk is that of TMPDIR."""
    with tempfile.TemporaryDirectory(prefix="flowloom-bench-") as folder:
        yield Path(folder)


def report(claim: str, **figures: object) -> None:
    """Prints one JSON line: what was measured and the figures, rounded to three significant digits."""
    rounded = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"benchmark": claim, **rounded}), flush=True)
