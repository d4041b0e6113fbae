"""Worker processes of the fuzzer: one explores with compiled code as it is, one repeats with bounds checks.

The explorer writes each case before it runs it, so that the case is known after a crash, and prints one JSON line a
batch. The repeater runs the same batches and compares digests.
"""

import argparse
import dataclasses
import json
import pickle
import random
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from capture_mutators import mutated
from capture_targets import Fault, Outcome, run_case
from fuzz_cases import FuzzCase, Pool, found_cases, generated_groups, real_captures

import flowloom

CUT_SHARE = 0.4
"""Share of cases that are also read in ranges, which costs far more than reading them in one piece."""
WIDE_FILES = 12
"""Captures of a case that is read in one piece only; many cost little more than one."""
BATCH = 20
"""Cases of a batch."""
WAITING_BATCHES = 6
"""Batches that the explorer may be ahead of the repeater."""
MOST_KEPT = 4000


def run_guarded(case: FuzzCase, folder: Path, **options: bool) -> Outcome:
    """Runs a case; an exception is a fault."""
    try:
        return run_case(case, folder, **options)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"exception {type(error).__name__} {Path(last.filename).name} {last.name}"
        return Outcome(faults=[Fault(kind, f"{error!r}"[:300])])


class Explorer:
    """Generator of cases, guided by the behaviours they show.

    Args:
      first: the seed of all choices.
      data: a folder of real captures, or None.
      groups: generated capture groups to begin with.
    """

    def __init__(self, first: int, data: Path | None, groups: int):
        self._draws = random.Random(first)
        self._pool = Pool(first)
        self._corpus = generated_groups(first, groups) + (real_captures(data) if data else [])
        self._first = [case for _, case in found_cases()]
        files = [file for group in self._corpus for file in group]
        wide = [tuple(files[at : at + WIDE_FILES]) for at in range(0, len(files), WIDE_FILES)]
        self._first += [self._pool.case(self._draws, each, cut=False) for each in wide]
        self.seen: set[str] = set()

    def cases(self) -> Iterator[FuzzCase]:
        """Yields the kept cases, then the seeds, then mutations without end."""
        yield from self._first
        draws = self._draws
        while True:
            files: list[bytes] = []
            cut = draws.random() < CUT_SHARE
            wanted = draws.choice((1, 1, 2, 3)) if cut else WIDE_FILES
            while len(files) < wanted:
                base = self._corpus[self._chosen()]
                others = self._corpus[draws.randrange(len(self._corpus))]
                files += mutated(draws, base, others)
            yield self._pool.case(draws, tuple(files[: max(wanted, 3)]), cut=cut)

    def _chosen(self) -> int:
        """Returns the number of a capture group of the corpus, one of the latest as often as any."""
        if self._draws.random() < 0.5:
            return self._draws.randrange(max(len(self._corpus) - 50, 0), len(self._corpus))
        return self._draws.randrange(len(self._corpus))

    def cut(self, case: FuzzCase) -> FuzzCase:
        """Returns a case with cuts."""
        edges = tuple(self._pool.edges(self._draws, file) for file in case.files)
        return dataclasses.replace(case, edges=edges)

    def learn(self, case: FuzzCase, outcome: Outcome) -> int:
        """Keeps a case that shows a new behaviour; returns the number of its new behaviours."""
        new = outcome.features - self.seen
        if new:
            self.seen |= new
            if len(self._corpus) < MOST_KEPT:
                self._corpus += [case.files[at : at + 3] for at in range(0, len(case.files), 3)]
        return len(new)


def explore(options: argparse.Namespace, folder: Path) -> None:
    """Runs cases until the time or the number of inputs is over, and prints one line a batch."""
    known = set(json.loads(options.known))
    explorer = Explorer(options.seed, options.data, options.groups)
    print(json.dumps({"ready": flowloom.__path__[0]}), flush=True)
    ends, done, cases = time.monotonic() + options.seconds, 0, explorer.cases()
    while True:
        batch, line = [], {"inputs": 0, "cases": 0, "records": 0, "new": 0, "faults": []}
        over = False
        while not over and len(batch) < BATCH:
            case = next(cases)
            for each in (case, None):
                each = each or explorer.cut(case)
                (folder / "current").write_bytes(pickle.dumps(each))
                outcome = run_guarded(each, folder, thorough=len(batch) % 4 == 0)
                batch.append((each, outcome.digest))
                new = explorer.learn(each, outcome)
                for name, value in (("cases", 1), ("records", outcome.records), ("new", new)):
                    line[name] += value
                line["faults"] += [_described(fault, each, known) for fault in outcome.faults]
                if each.edges or not new:  # cases in one piece that show nothing new are not cut
                    break
            line["inputs"] += len(case.files)
            over = done + line["inputs"] >= options.inputs or time.monotonic() > ends
        done += line["inputs"]
        if options.batches:
            _hand_over(batch, Path(options.batches), done, folder)
        print(json.dumps(line | {"signatures": len(explorer.seen)}), flush=True)
        if over:
            return


def _described(fault: Fault, case: FuzzCase, known: set[str]) -> dict:
    """Returns a fault for the parent process, with its case unless faults of its kind are known."""
    is_known = fault.kind.split()[0] in known
    return {"kind": fault.kind, "detail": fault.detail, "known": is_known, "case": "" if is_known else case.to_json()}


def _hand_over(batch: list[tuple[FuzzCase, str]], batches: Path, number: int, folder: Path) -> None:
    """Writes a batch for the repeater, and waits while too many are waiting."""
    (batches / "part").write_bytes(pickle.dumps(batch))
    (batches / "part").rename(batches / f"{number:012}.batch")
    while len(list(batches.glob("*.batch"))) > WAITING_BATCHES:
        (folder / "current").touch()  # this is no hang
        time.sleep(0.05)


def repeat(batches: Path, folder: Path) -> None:
    """Runs batches again as they come, until the explorer is done, and prints the differences."""
    while True:
        done = (batches / "done").exists()
        waiting = sorted(batches.glob("*.batch"))
        if not waiting:
            if done:
                return
            (folder / "current").touch()
            time.sleep(0.05)
            continue
        batch, faults = pickle.loads(waiting[0].read_bytes()), []
        waiting[0].unlink()  # after a crash it is not repeated
        for case, digest in batch:
            (folder / "current").write_bytes(pickle.dumps(case))
            outcome = run_guarded(case, folder, thorough=False, reference=False)
            raised = [fault for fault in outcome.faults if fault.kind.startswith("exception")]
            if outcome.digest != digest:
                detail = raised[0].detail if raised else "rows or accounts differ with and without bounds checks"
                kind = f"bounds {raised[0].kind}" if raised else "bounds"
                faults.append(_described(Fault(kind, detail), case, set()))
        print(json.dumps({"repeated": len(batch), "faults": faults}), flush=True)


def known_kinds(folder: Path) -> list[str]:
    """Returns the properties (first words of kinds) that the kept cases break; one cause has several symptoms."""
    kinds = {fault.kind.split()[0] for _, case in found_cases() for fault in run_guarded(case, folder).faults}
    return sorted(kinds)


def main() -> None:
    """Runs one worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["explore", "repeat", "known"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=1 << 60)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--known", default="[]")
    parser.add_argument("--batches", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.role == "explore":
            explore(options, Path(folder))
        elif options.role == "repeat":
            repeat(Path(options.batches), Path(folder))
        else:
            print(json.dumps({"known": known_kinds(Path(folder))}))


if __name__ == "__main__":
    main()
