"""Worker processes of the fuzzer: one explores with compiled code as it is, one repeats with bounds checks.

The explorer writes each case before it runs it, so that the case is known after a crash, and prints one JSON line a
batch. The repeater runs the cases of the batches that it is given, and compares digests.

Reading in ranges or by a small window costs many times as much as reading in one piece, and opening a file as much as
reading many records. So there are two kinds of cases: *cut* ones of a few captures, a file each, and *wide* ones of
many captures in a few files, which are read in one piece only. Where a wide case shows a new behaviour, those captures
of it that show one are run again as a cut case.
"""

import argparse
import dataclasses
import gc
import itertools
import json
import pickle
import random
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from capture_mutators import mutated
from capture_parts import joined
from capture_targets import Fault, Outcome, run_case
from fuzz_cases import FuzzCase, Pool, found_cases, generated_groups, real_captures

import flowloom

CUT_SHARE = 0.7
"""Share of cases that are cut."""
CUT_CAPTURES = 3
"""Captures of a cut case at most."""
WIDE_CAPTURES = 192
"""Captures of a wide case."""
SMALL_WINDOWS_EVERY = 3
"""One cut case in so many is also read by a small window, and its AfterImage features are computed."""
REFERENCE_EVERY = 3
"""One wide case in so many is compared with the reference meter; every cut case is."""
SEARCH_SHARE = 0.25
"""Captures of wide cases that are read again to find those with a new behaviour, for each drawn capture at most."""
REPEATED_EVERY = 4
"""One wide case in so many is repeated with bounds checks; every cut case is."""
BATCH = 20
"""Cases of a batch."""
WAITING_BATCHES = 40
"""Batches that the explorer may be ahead of the repeater."""
MOST_KEPT = 4000
CHECKED = ("cut", "small_windows", "reference")
"""Counts of inputs by the checks that not every case has."""


def run_guarded(case: FuzzCase, folder: Path, **options: bool) -> Outcome:
    """Runs a case; an exception is a fault."""
    try:
        return run_case(case, folder, **options)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"exception {type(error).__name__} {Path(last.filename).name} {last.name}"
        return Outcome(faults=[Fault(kind, f"{error!r}"[:300])])


class Drawn(NamedTuple):
    """A case, and the mutated captures in its files."""

    case: FuzzCase
    captures: tuple[bytes, ...]


class Explorer:
    """Generator of cases, guided by the behaviours they show.

    Args:
      first: the seed of all choices.
      data: a folder of real captures, or None.
      groups: generated capture groups to begin with.

    Attributes:
      seen: behaviours so far.
      drawn: mutated captures so far.
      searched: captures that were read again to find those with a new behaviour.
    """

    def __init__(self, first: int, data: Path | None, groups: int):
        self._draws = random.Random(first)
        self._pool = Pool(first)
        self._corpus = generated_groups(first, groups) + (real_captures(data) if data else [])
        self._first = [Drawn(case, case.files) for _, case in found_cases()]
        files = [file for group in self._corpus for file in group]
        wide = [tuple(files[at : at + WIDE_CAPTURES]) for at in range(0, len(files), WIDE_CAPTURES)]
        self._first += [self._drawn(captures, cut=False) for captures in wide]
        self.seen: set[str] = set()
        self.drawn = self.searched = 0

    def cases(self) -> Iterator[Drawn]:
        """Yields the kept cases, then the seeds, then mutations without end."""
        yield from self._first
        draws = self._draws
        while True:
            captures: list[bytes] = []
            cut = draws.random() < CUT_SHARE
            wanted = draws.choice((1, 1, 2, 3)) if cut else WIDE_CAPTURES
            while len(captures) < wanted:
                base = self._corpus[self._chosen()]
                others = self._corpus[draws.randrange(len(self._corpus))]
                captures += mutated(draws, base, others)
            self.drawn += wanted
            yield self._drawn(tuple(captures[: max(wanted, CUT_CAPTURES)]), cut=cut)

    def _drawn(self, captures: tuple[bytes, ...], *, cut: bool) -> Drawn:
        files = captures if cut else tuple(joined(captures))
        return Drawn(self._pool.case(self._draws, files, cut=cut), captures)

    def _chosen(self) -> int:
        """Returns the number of a capture group of the corpus, one of the latest as often as any."""
        if self._draws.random() < 0.5:
            return self._draws.randrange(max(len(self._corpus) - 50, 0), len(self._corpus))
        return self._draws.randrange(len(self._corpus))

    def quarters(self, drawn: Drawn) -> Iterator[Drawn]:
        """Yields the captures of a wide case as four cases."""
        step = -(-len(drawn.captures) // 4)
        for at in range(0, len(drawn.captures), step):
            captures = drawn.captures[at : at + step]
            yield Drawn(dataclasses.replace(drawn.case, files=tuple(joined(captures))), captures)

    def cut(self, drawn: Drawn) -> Drawn:
        """Returns captures as a case with cuts."""
        edges = tuple(self._pool.edges(self._draws, file) for file in drawn.captures)
        return Drawn(dataclasses.replace(drawn.case, files=drawn.captures, edges=edges), drawn.captures)

    def keep(self, drawn: Drawn) -> None:
        """Makes captures a base of mutations."""
        if len(self._corpus) < MOST_KEPT:
            self._corpus.append(drawn.captures)


def explore(options: argparse.Namespace, folder: Path) -> None:
    """Runs cases until the time or the number of inputs is over, and prints one line a batch."""
    explorer = Explorer(options.seed, options.data, options.groups)
    print(json.dumps({"ready": flowloom.__path__[0]}), flush=True)
    ends, done, cases, numbers = time.monotonic() + options.seconds, 0, explorer.cases(), itertools.count()
    gc.freeze()
    while True:
        line = {"inputs": 0, "cases": 0, "records": 0, "faults": []} | dict.fromkeys(CHECKED, 0)
        batch = Batch(explorer, folder, line)
        over = False
        while not over and line["cases"] < BATCH:
            drawn = next(cases)
            batch.run(drawn, next(numbers))
            line["inputs"] += len(drawn.captures)
            over = done + line["inputs"] >= options.inputs or time.monotonic() > ends
        done += line["inputs"]
        if options.batches:
            _hand_over(batch.repeated, Path(options.batches), done, folder)
        print(json.dumps(line | {"signatures": len(explorer.seen)}), flush=True)
        if over:
            return


class Batch:
    """Cases that are reported in one line, and those of them that the repeater gets.

    Args:
      line: counts and faults, to which each case is added.

    Attributes:
      repeated: cases with their digests and their numbers of captures.
    """

    def __init__(self, explorer: Explorer, folder: Path, line: dict):
        self.repeated: list[tuple[FuzzCase, str, int]] = []
        self._explorer, self._folder, self._line = explorer, folder, line

    def run(self, drawn: Drawn, number: int) -> None:
        """Runs a case with the checks that its number gives, and looks for the captures that show a new behaviour."""
        if drawn.case.edges:
            seen = self._outcome(drawn, thorough=number % SMALL_WINDOWS_EVERY == 0, reference=True)
            if seen - self._explorer.seen:
                self._explorer.keep(drawn)
                self._explorer.seen |= seen
            return
        seen = self._outcome(drawn, reference=number % REFERENCE_EVERY == 0, repeated=number % REPEATED_EVERY == 0)
        self._learn(drawn, seen)

    def _learn(self, drawn: Drawn, seen: frozenset[str]) -> None:
        """Cuts and keeps the captures of a wide case that show a new behaviour, found by quartering the case."""
        explorer = self._explorer
        if not seen - explorer.seen or explorer.searched > SEARCH_SHARE * explorer.drawn:
            return
        explorer.searched += len(drawn.captures)
        if len(drawn.captures) <= CUT_CAPTURES:
            explorer.keep(drawn)
            seen |= self._outcome(explorer.cut(drawn), thorough=True, reference=True)
        else:
            for part in explorer.quarters(drawn):
                self._learn(part, self._outcome(part, repeated=False))
        explorer.seen |= seen

    def _outcome(
        self, drawn: Drawn, *, thorough: bool = False, reference: bool = False, repeated: bool = True
    ) -> frozenset[str]:
        """Runs one case and adds it to the line; returns its behaviours."""
        case, line = drawn.case, self._line
        (self._folder / "current").write_bytes(pickle.dumps(case))
        outcome = run_guarded(case, self._folder, thorough=thorough, reference=reference)
        if repeated:
            self.repeated.append((case, outcome.digest, len(drawn.captures)))
        line["cases"] += 1
        line["records"] += outcome.records
        for name, checked in zip(CHECKED, (bool(case.edges), thorough, outcome.compared), strict=True):
            line[name] += len(drawn.captures) * checked
        line["faults"] += [_described(fault, case) for fault in outcome.faults]
        return outcome.features


def _described(fault: Fault, case: FuzzCase) -> dict:
    """Returns a fault for the parent process, with its case."""
    return {"kind": fault.kind, "detail": fault.detail, "case": case.to_json()}


def _hand_over(batch: list[tuple[FuzzCase, str, int]], batches: Path, number: int, folder: Path) -> None:
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
        for case, digest, _ in batch:
            (folder / "current").write_bytes(pickle.dumps(case))
            outcome = run_guarded(case, folder, thorough=False, reference=False)
            raised = [fault for fault in outcome.faults if fault.kind.startswith("exception")]
            if outcome.digest != digest:
                detail = raised[0].detail if raised else "rows or accounts differ with and without bounds checks"
                kind = f"bounds {raised[0].kind}" if raised else "bounds"
                faults.append(_described(Fault(kind, detail), case))
        repeated = sum(captures for _, _, captures in batch)
        print(json.dumps({"repeated": repeated, "faults": faults}), flush=True)


def main() -> None:
    """Runs one worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["explore", "repeat"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=1 << 60)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--batches", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.role == "explore":
            explore(options, Path(folder))
        else:
            repeat(Path(options.batches), Path(folder))


if __name__ == "__main__":
    main()
