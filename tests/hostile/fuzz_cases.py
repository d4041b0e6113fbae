"""Cases of the fuzzer: captures, a flow definition, a packet view, and the places of cuts."""

import base64
import dataclasses
import hashlib
import itertools
import json
import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path

import capture_files
import random_captures
import tunnel_packets
import unusual_frames
from capture_parts import split_parts
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from random_captures import associative_definitions, definitions, groups

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView

FOUND = Path(__file__).resolve().parent / "found"
"""Folder of every case that ever found a fault; `test_fuzz.py` replays them."""
SEED_MODULES = (capture_files, random_captures, unusual_frames, tunnel_packets)
"""Modules by which generated seeds change."""
SEEDS = Path(__file__).resolve().parents[2] / ".cache" / "hostile" / "seeds"
MOST_BYTES = 1 << 14
"""Bytes of a case at most; real captures are cut to it."""
CHUNKS = (1, 2, 3, 7, *(64,) * 6, 1 << 15)


@dataclasses.dataclass(frozen=True)
class FuzzCase:
    """Input of the fuzzer.

    Attributes:
      files: captures of one group, in their order.
      edges: for each file the bytes where ranges end; None for a file that is read in one range. Empty for a group
        that is read in one piece only.
      chunk_records: records that are decoded at a time when the group is cut.
    """

    files: tuple[bytes, ...]
    definition: FlowDefinition
    view: PacketView
    edges: tuple[tuple[int, ...] | None, ...]
    chunk_records: int

    def to_json(self) -> str:
        """Returns the case as text."""
        return json.dumps(
            {
                "files": [base64.b64encode(file).decode() for file in self.files],
                "definition": self.definition.model_dump(mode="json"),
                "view": self.view.model_dump(mode="json"),
                "edges": self.edges,
                "chunk_records": self.chunk_records,
            },
            indent=1,
        )

    @classmethod
    def of_json(cls, text: str) -> "FuzzCase":
        """Returns a case from its text."""
        case = json.loads(text)
        return cls(
            tuple(base64.b64decode(file) for file in case["files"]),
            FlowDefinition(**case["definition"]),
            PacketView(**case["view"]),
            tuple(None if edges is None else tuple(edges) for edges in case["edges"]),
            case["chunk_records"],
        )


def found_cases() -> Iterator[tuple[str, FuzzCase]]:
    """Yields the names and contents of the kept cases."""
    for path in sorted(FOUND.glob("*.json")):
        yield path.stem, FuzzCase.of_json(path.read_text())


def generated(name: str, strategy: st.SearchStrategy, number: int, first: int) -> list:
    """Returns examples of a Hypothesis strategy, the same for the same seed; they are kept, as drawing is slow."""
    written = b"".join(Path(module.__file__).read_bytes() for module in SEED_MODULES)
    digest = hashlib.blake2b(written + repr((name, number, first)).encode(), digest_size=8).hexdigest()
    kept = SEEDS / f"{digest}.pickle"
    if kept.exists():
        return pickle.loads(kept.read_bytes())
    found: list = []

    @seed(first)
    @settings(
        max_examples=number, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(example: object) -> None:
        found.append(example)

    collect()
    SEEDS.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_bytes(pickle.dumps(found))
    part.rename(kept)
    return found


class Pool:
    """Flow definitions, packet views and cuts to draw from.

    Args:
      first: the seed of the definitions.
      number: definitions to draw.
    """

    def __init__(self, first: int, number: int = 150):
        self.definitions = generated("associative", associative_definitions, number, first)
        self.definitions += generated("definitions", definitions, number // 2, first + 1)

    def case(self, draws: random.Random, files: tuple[bytes, ...], *, cut: bool = True) -> FuzzCase:
        """Returns files with drawn options, and with cuts if wanted."""
        preset = draws.choice(("paper", "strict"))
        ports = draws.choice(((53,), (53, 443), ()))
        view = PacketView(preset=preset, length=draws.choice((80, 81, 140, 1500)), name_service_ports=ports)
        edges = tuple(self.edges(draws, file) for file in files) if cut else ()
        definition = draws.choice(self.definitions).model_copy(update={"reorder_s": None})  # refused with the view
        return FuzzCase(files, definition, view, edges, draws.choice(CHUNKS))

    def edges(self, draws: random.Random, file: bytes) -> tuple[int, ...] | None:
        """Returns bytes where the ranges of a file end: at records, at random bytes, or at none."""
        kind = draws.random()
        if kind < 0.15 or not file:
            return None
        if kind < 0.5:
            ends = list(itertools.accumulate(map(len, split_parts(file))))
            return tuple(sorted(draws.sample(ends, min(len(ends), draws.randrange(1, 6)))))
        return tuple(sorted(draws.randrange(len(file)) for _ in range(draws.randrange(4))))


def generated_groups(first: int, number: int) -> list[tuple[bytes, ...]]:
    """Returns the files of generated capture groups."""
    found = generated("groups", groups(), number, first)
    return [tuple(b"".join(parts) for parts in group.parts()) for group in found]


def real_captures(folder: Path, most: int = 60) -> list[tuple[bytes, ...]]:
    """Returns the beginnings of real captures, cut behind a record; none if there is no such folder."""
    found = []
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".pcap", ".pcapng", ".cap"))
    for path in paths[:: max(len(paths) // most, 1)]:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES)
        *whole, _ = split_parts(data)
        if whole:
            found.append((b"".join(whole[:12]),))
    return found
