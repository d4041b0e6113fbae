"""Processes of the fuzzer, watched for crashes and hangs."""

import hashlib
import json
import os
import pickle
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from fuzz_cases import FuzzCase

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "hostile"
CASE_SECONDS = 30
"""Time limit of a case."""
FIRST_SECONDS = 900
"""Time limit of the first cases of a process, which also compile."""


def checked_cache() -> Path:
    """Returns the folder for kernels compiled with bounds checks, another one for each state of the source."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted((ROOT / "transforms").rglob("*.py")):
        digest.update(path.read_bytes())
    folder = CACHE / f"checked-{digest.hexdigest()}"
    for older in set(CACHE.glob("checked-*")) - {folder}:
        shutil.rmtree(older, ignore_errors=True)
    return folder


class Worker:
    """Worker process, with its lines in a queue and the time of its last case.

    Args:
      arguments: those of `fuzz_worker.py` from the role on.
      checked: whether compiled code checks bounds.
      package: folder with another `flowloom`; None for this one.
    """

    def __init__(self, arguments: list[str], folder: Path, *, checked: bool = False, package: Path | None = None):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        paths = [*([str(package)] if package else []), str(ROOT / "tests/support"), str(ROOT / "tests/hostile")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        if checked:
            environment |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(checked_cache())}
        role, *others = arguments
        command = [sys.executable, str(ROOT / "tests/hostile/fuzz_worker.py"), role, str(folder), *others]
        self.errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self.lines: queue.Queue[dict] = queue.Queue()
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self.reader.start()
        self._begun, self._ran = time.time(), False

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.put(json.loads(line))

    @property
    def current(self) -> Path | None:
        """File of the case that is running."""
        found = sorted(self.folder.glob("*/current"))
        return found[0] if found else None

    def hangs(self) -> bool:
        """Returns whether the case that is running exceeds its time limit."""
        current = self.current
        if current is None:  # before the first case, or when the process is about to end
            return not self._ran and time.time() - self._begun > FIRST_SECONDS
        self._ran = True
        first = time.time() - self._begun < FIRST_SECONDS
        try:
            begun = current.stat().st_mtime
        except FileNotFoundError:
            return False
        return time.time() - begun > (FIRST_SECONDS if first else CASE_SECONDS)

    def case(self) -> FuzzCase | None:
        """Returns the case that is running."""
        current = self.current
        try:
            return pickle.loads(current.read_bytes()) if current else None
        except (EOFError, pickle.UnpicklingError):
            return None

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        self.reader.join(5)
        self.errors.close()

    def message(self) -> str:
        """Returns the last line of the worker's errors."""
        lines = Path(self.errors.name).read_text().strip().splitlines()
        return lines[-1] if lines else ""
