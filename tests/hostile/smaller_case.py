"""Smaller cases: removes captures, records and cuts from a case as long as it shows the same fault.

python tests/hostile/smaller_case.py CASE.json
"""

import dataclasses
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from capture_parts import split_parts
from fuzz_cases import FuzzCase
from fuzz_worker import run_guarded

from flowloom.schemas.corpus.flow_definition import FlowDefinition


def smaller(case: FuzzCase, fails: Callable[[FuzzCase], bool]) -> FuzzCase:
    """Returns the smallest case on a greedy path that still fails."""
    found = True
    while found:
        found = False
        for candidate in candidates(case):
            if fails(candidate):
                case, found = candidate, True
                break
    return case


def candidates(case: FuzzCase) -> Iterator[FuzzCase]:
    """Yields cases that are one step smaller: without a file, records, cuts, or an option of the definition."""
    size = len(case.files) // 2
    while size:
        for at in range(0, len(case.files), size):
            yield _without(case, at, size)
        size //= 2
    for at, file in enumerate(case.files):
        parts = split_parts(file)
        places = [0, *itertools.accumulate(map(len, parts))]
        size = len(parts) // 2
        while size:
            for begin in range(0, len(parts), size):
                without = b"".join(parts[:begin] + parts[begin + size :])
                if without:
                    yield _shorter(case, at, without, (places[begin], places[min(begin + size, len(parts))]))
            size //= 2
    for at, edges in enumerate(case.edges):
        for cut in range(len(edges or ())):
            fewer = edges[:cut] + edges[cut + 1 :]
            yield dataclasses.replace(case, edges=(*case.edges[:at], fewer, *case.edges[at + 1 :]))
    if case.edges and not any(case.edges):
        yield dataclasses.replace(case, edges=())
    yield from _simpler_definitions(case)


def _without(case: FuzzCase, at: int, size: int) -> FuzzCase:
    """Returns a case without some of its files."""
    files, edges = (each[:at] + each[at + size :] for each in (case.files, case.edges))
    return dataclasses.replace(case, files=files, edges=edges)


def _shorter(case: FuzzCase, at: int, file: bytes, removed: tuple[int, int]) -> FuzzCase:
    """Returns a case in which a file lacks some bytes; cuts stay at their records."""
    begin, end = removed
    edges = list(case.edges)
    if edges and edges[at]:
        edges[at] = tuple(edge - end + begin if edge >= end else min(edge, begin) for edge in edges[at] or ())
    files = (*case.files[:at], file, *case.files[at + 1 :])
    return dataclasses.replace(case, files=files, edges=tuple(edges))


def _simpler_definitions(case: FuzzCase) -> Iterator[FuzzCase]:
    values = case.definition.model_dump()
    for name, value in FlowDefinition().model_dump().items():
        if name != "preset" and values[name] != value:
            try:
                yield dataclasses.replace(case, definition=FlowDefinition(**values | {name: value}))
            except ValueError:
                continue
    if case.chunk_records != 1 << 15:
        yield dataclasses.replace(case, chunk_records=1 << 15)


def main() -> None:
    """Writes the smaller form of each case beside it."""
    with tempfile.TemporaryDirectory() as folder:
        for path in map(Path, sys.argv[1:]):
            case = FuzzCase.of_json(path.read_text())
            kinds = {fault.kind for fault in run_guarded(case, Path(folder)).faults}
            found = smaller(
                case,
                lambda each, kinds=kinds: bool(
                    kinds & {fault.kind for fault in run_guarded(each, Path(folder)).faults}
                ),
            )
            path.with_suffix(".small.json").write_text(found.to_json() + "\n")
            print(path.with_suffix(".small.json"), *kinds)
            for fault in run_guarded(found, Path(folder)).faults:
                print(" ", fault.kind, fault.detail)


if __name__ == "__main__":
    main()
