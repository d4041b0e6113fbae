"""Fuzzer of the capture half: mutates captures, guided by the behaviours they show, and checks what must hold.

make fuzz MINUTES=10 [SEED=1] [INPUTS=100000] [MUTANTS=1 [ONLY="decoder meter"]]

Exit code 1 means a fault: a crash, a hang, an open account, a difference. Its case is kept in tests/hostile/found.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fuzz_cases import FOUND
from fuzz_processes import CASE_SECONDS, ROOT, Worker
from planted_mutants import run_mutants

DATA = ROOT.parent / "shared" / "data"
MEMORY = Path("/dev/shm")
MOST_RESTARTS = 20
TOLD_EVERY_S = 60
CHECKS = {
    "reference": "compared with the reference meter",
    "cut": "also read in ranges",
    "small_windows": "also read by a small window; AfterImage features in batches",
    "repeated": "repeated with bounds checks",
}
COUNTED_AS = {"accounts": "open_accounts", "exception": "exceptions"}


@dataclasses.dataclass
class Totals:
    """Counts of a run."""

    inputs: int = 0
    cases: int = 0
    records: int = 0
    cut: int = 0
    small_windows: int = 0
    reference: int = 0
    repeated: int = 0
    crashes: int = 0
    hangs: int = 0
    open_accounts: int = 0
    differences: int = 0
    exceptions: int = 0
    signatures: int = 0
    seconds: float = 0.0

    @property
    def faults(self) -> int:
        """Number of faults."""
        return self.crashes + self.hangs + self.open_accounts + self.differences + self.exceptions


class Fuzzer:
    """One run: an explorer, and a repeater with bounds checks.

    Args:
      keep: folder for the cases of faults.
    """

    def __init__(self, options: argparse.Namespace, folder: Path, keep: Path = FOUND):
        self.totals = Totals()
        self._kinds: collections.Counter[str] = collections.Counter()
        self._options, self._folder, self._keep = options, folder, keep
        self._batches = folder / "batches"
        self._batches.mkdir()
        self._starts = 0
        self._begun = self._told = time.monotonic()

    def run(self) -> Totals:
        """Runs until the time or the number of inputs is over, or until it is interrupted."""
        with contextlib.suppress(KeyboardInterrupt):
            self._run()
        self.totals.seconds = time.monotonic() - self._begun
        return self.totals

    def _run(self) -> None:
        explorer = self._explorer()
        repeater = self._repeater() if self._options.bounds else None
        try:
            while explorer or repeater:
                explorer = explorer and self._watch(explorer, self._explorer)
                if explorer is None:
                    (self._batches / "done").touch()
                repeater = repeater and self._watch(repeater, self._repeater)
                if self._options.bounds and explorer and not repeater:
                    break
                time.sleep(0.05)
                self._tell()
        finally:
            for worker in (explorer, repeater):
                if worker is not None:
                    worker.stop()

    def _tell(self) -> None:
        """Prints the counts so far, once in a while."""
        if time.monotonic() - self._told > TOLD_EVERY_S:
            self._told = time.monotonic()
            print(f"{self.totals.inputs:,} inputs, {self.totals.faults:,} faults", file=sys.stderr, flush=True)

    def _explorer(self) -> Worker | None:
        left = self._options.minutes * 60 - (time.monotonic() - self._begun)
        inputs = self._options.inputs - self.totals.inputs
        if left <= 0 or inputs <= 0 or self._starts > MOST_RESTARTS:
            return None
        self._starts += 1
        arguments = ["explore", "--seed", str(self._options.seed + 1000 * (self._starts - 1))]
        arguments += ["--seconds", str(left), "--inputs", str(inputs)]
        arguments += ["--groups", str(self._options.groups)]
        if self._options.bounds:
            arguments += ["--batches", str(self._batches)]
        if self._options.data.is_dir():
            arguments += ["--data", str(self._options.data)]
        return Worker(arguments, self._folder / f"explorer-{self._starts}")

    def _repeater(self) -> Worker | None:
        self._starts += 1
        if self._starts > MOST_RESTARTS:
            return None
        arguments = ["repeat", "--batches", str(self._batches)]
        return Worker(arguments, self._folder / f"repeater-{self._starts}", checked=True)

    def _watch(self, worker: Worker, restart: Callable[[], Worker | None]) -> Worker | None:
        """Reads the lines of a worker; returns it, its successor after a crash or hang, or None at its end."""
        code = worker.process.poll()
        if code is not None:
            worker.reader.join(5)
        while not worker.lines.empty():
            self._add(worker.lines.get())
        if code is None and not worker.hangs():
            return worker
        if code == 0:
            worker.stop()
            return None
        case, what = worker.case(), "hangs" if code is None else "crashes"
        detail = f"more than {CASE_SECONDS} s" if code is None else f"exit code {code}: {worker.message()}"
        worker.stop()
        setattr(self.totals, what, getattr(self.totals, what) + 1)
        self._report(what, detail, case.to_json() if case else "")
        return restart() if case else None  # without a case it could not begin

    def _add(self, line: dict) -> None:
        totals = self.totals
        for name in ("inputs", "cases", "records", "cut", "small_windows", "reference", "repeated"):
            setattr(totals, name, getattr(totals, name) + line.get(name, 0))
        totals.signatures = max(totals.signatures, line.get("signatures", 0))
        for fault in line.get("faults", ()):
            name = COUNTED_AS.get(fault["kind"].split()[0], "differences")
            setattr(totals, name, getattr(totals, name) + 1)
            self._report(fault["kind"], fault["detail"], fault["case"])

    def _report(self, kind: str, detail: str, case: str) -> None:
        """Prints the first fault of each kind, and keeps its case."""
        self._kinds[kind] += 1
        if self._kinds[kind] > 1:
            return
        digest = hashlib.blake2b(case.encode(), digest_size=4).hexdigest()
        path = self._keep / f"{''.join(c if c.isalnum() else '-' for c in kind)}-{digest}.json"
        if case:
            path.write_text(case + "\n")
        print(f"{kind}: {detail}; its case is {path}", file=sys.stderr, flush=True)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the options of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--inputs", type=int, default=1 << 60, help="captures to mutate at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--groups", type=int, default=200, help="generated capture groups to begin with")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of real captures to begin with")
    parser.add_argument("--bounds", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--mutants", action="store_true", help="check that planted faults of the code are found")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of the names of planted faults to run")
    return parser.parse_args(arguments)


def main() -> int:
    """Runs the fuzzer and prints its totals."""
    options = parsed()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        if options.mutants:
            return run_mutants(options, folder)
        totals = Fuzzer(options, folder).run()
    per_second = totals.inputs / max(totals.seconds, 1e-9)
    print(f"inputs        {totals.inputs:>12,} in {totals.cases:,} cases, {per_second:.0f} a second")
    print(f"records       {totals.records:>12,}")
    for name, what in CHECKS.items():
        share = getattr(totals, name) / max(totals.inputs, 1)
        print(f"{name.replace('_', ' '):<13} {getattr(totals, name):>12,} inputs, {share:.1%}: {what}")
    print(f"signatures    {totals.signatures:>12,}")
    for name in ("crashes", "hangs", "open_accounts", "differences", "exceptions"):
        print(f"{name.replace('_', ' '):<13} {getattr(totals, name):>12,}")
    print(json.dumps({"tool": "fuzz", "seed": options.seed, **dataclasses.asdict(totals), "faults": totals.faults}))
    return 1 if totals.faults or not totals.inputs else 0


if __name__ == "__main__":
    sys.exit(main())
