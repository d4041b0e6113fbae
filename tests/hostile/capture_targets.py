"""Targets of the fuzzer: what every case runs through, and the properties that must hold."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from behaviour import features_of
from capture_parts import OTHERS, PCAP_ORDERS, is_pcapng
from cut_captures import GROUP, Cut, in_order, merged, patched, tasks
from fuzz_cases import FuzzCase
from reference_meter import Account, Metered, reference_meter
from reference_records import SNOOP
from reference_rows import reference_rows

from flowloom.schemas.arrow.accounting import DropReason, PacketDrop
from flowloom.schemas.arrow.rows import FLOW_NUMBERS, FLOWS, FRAGMENTS, packet_schema
from flowloom.transforms.arrays.columns import concatenated, view
from flowloom.transforms.captures import capture_window, records
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.flows.flow_fragments import join_fragments
from flowloom.transforms.flows.meter import WHOLE
from flowloom.transforms.metering.meter_ranges import running_clocks
from flowloom.transforms.metering.packet_flow_ids import RangeFlows, attach_flows
from flowloom.transforms.metering.packet_reader import PacketReader
from flowloom.transforms.packets.afterimage import AfterImage
from flowloom.transforms.packets.byte_rows import no_drops

SMALL_CHUNK = 256
"""Records of a chunk where a case is read in one piece; the columns of 32,768 records cost more than the case."""
MOST_REFERENCE_BYTES = 1 << 20
"""Bytes of a case that the reference meter reads; it is plain Python."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """A property that did not hold.

    Attributes:
      kind: the property and the columns that differ, such as `split end_reason`; equal faults have equal kinds.
      detail: a sentence with the values.
    """

    kind: str
    detail: str


@dataclasses.dataclass
class Outcome:
    """Results of one case.

    Attributes:
      digest: a digest of all rows and accounts, equal with and without bounds checks.
      features: names of the behaviours that were seen.
      compared: whether flows and accounts were compared with the reference meter.
    """

    records: int = 0
    digest: str = ""
    features: frozenset[str] = frozenset()
    compared: bool = False
    faults: list[Fault] = dataclasses.field(default_factory=list)


class RecordingReader(PacketReader):
    """Packet reader that keeps the packets it decoded."""

    def located_packets(self, part: CaptureRange) -> Iterator:
        """Yields packets and places, and keeps the packets."""
        for packets, places in super().located_packets(part):
            self.decoded = [*getattr(self, "decoded", []), packets]
            yield packets, places


@dataclasses.dataclass
class Reading:
    """Rows and accounts of a group, from one task or from several."""

    flows: pa.Table
    packets: pa.Table
    dropped: list[int]
    short: int
    accounts: list[tuple[dict, list[dict]]]
    decoded: list[pa.RecordBatch]
    rejects: set[tuple[str, int, str]]
    fragments: int = 0
    tasks: int = 1
    crowded: bool = False

    def digest(self) -> str:
        """Returns a digest of rows and accounts; names of files do not count."""
        digest = hashlib.blake2b(digest_size=16)
        for table in (self.flows, self.packets):
            for batch in table.combine_chunks().to_batches():
                digest.update(batch.serialize())
        accounts = [{**row, "uri": ""} for row, _ in self.accounts]
        digest.update(repr((self.dropped, self.short, accounts, sorted(each[1:] for each in self.rejects))).encode())
        return digest.hexdigest()


def read_whole(uris: Sequence[str], case: FuzzCase) -> Reading:
    """Reads a group in one task."""
    with patched(records, CHUNK_RECORDS=SMALL_CHUNK):
        parts = [CaptureRange(uri, origin=origin) for origin, uri in enumerate(uris)]
        reader = RecordingReader(parts, GROUP, case.definition, case.view, place=WHOLE)
        return _reading([reader], case)


def read_split(uris: Sequence[str], case: FuzzCase) -> Reading:
    """Reads a group in the ranges that its cuts give, or in one piece if it is too crowded."""
    for alone in (False, True):
        with patched(records, CHUNK_RECORDS=case.chunk_records):
            readers = [
                RecordingReader(
                    task.ranges, GROUP, case.definition, case.view, place=task.place, earlier=task.earlier,
                    earlier_clock_ns=task.earlier_clock_ns, gives_up=True,
                )
                for task in tasks(uris, case.definition, Cut(case.edges), alone=alone)
            ]  # fmt: skip
            reading = _reading(readers, case)
        if not reading.crowded:
            break
    return reading


def _reading(readers: Sequence[RecordingReader], case: FuzzCase) -> Reading:
    flows, rows, clocks, accounts, decoded, short = [], [], [], [], [], 0
    for position, reader in enumerate(readers):
        numbered = []
        for name, batch in reader.views():
            if name == "flows":
                flows.append(batch)
            else:
                numbered.append(batch)
        rows.append(numbered)
        clocks.append((position, reader.clock_ns))
        rejects = reader.rejects().to_pylist()
        accounts.append((reader.captures().to_pylist(), rejects))
        short += reader.flows_short
        decoded += getattr(reader, "decoded", [])
    numbers, pieces, crowded = [reader.numbers() for reader in readers], [], False
    if len(readers) > 1:
        pieces = [batch for reader in readers for batch in reader.fragments()]
        joined = join_fragments(concatenated(pieces, FRAGMENTS), running_clocks(clocks), case.definition, GROUP)
        flows.append(joined.flows)
        numbers.append(joined.numbers)
        short += joined.flows_short
        most = max(reader.most_open + carried for reader, carried in zip(readers, joined.carried, strict=True))
        crowded = most + case.definition.open_flows_step > case.definition.max_open_flows
    dropped = no_drops()
    for reader in readers:
        dropped += reader.dropped
    known, packets = concatenated(numbers, FLOW_NUMBERS), []
    for position, numbered in enumerate(rows):
        ranged = RangeFlows.of(known, position)
        packets += [attach_flows(batch, ranged, GROUP, dropped) for batch in numbered]
    each = [(row, rejects) for captures, rejects in accounts for row in captures]
    stops = {(stop["uri"], stop["offset"], stop["reason"]) for _, rejects in accounts for stop in rejects}
    return Reading(
        pa.Table.from_batches(flows, FLOWS), pa.Table.from_batches(packets, packet_schema(case.view.length)),
        dropped.tolist(), short, each, decoded, stops, sum(batch.num_rows for batch in pieces), len(readers),
        crowded,
    )  # fmt: skip


def closing_faults(reading: Reading, case: FuzzCase, what: str) -> Iterator[Fault]:
    """Yields the accounts that do not close."""
    metered = 0
    for row, _ in reading.accounts:
        metered += row["metered"]
        dropped = sum(row[reason.column] for reason in DropReason)
        if row["records"] != row["metered"] + dropped:
            counts = f"{row['records']} records, {row['metered']} metered, {dropped} dropped"
            yield Fault("accounts", f"{what}: {counts}")
    in_view = reading.packets.num_rows + sum(reading.dropped)
    if in_view != metered:
        yield Fault("accounts", f"{what}: {metered} metered packets, {in_view} in the packets view or dropped from it")
    flows = reading.flows
    counted = ["packets_fwd", "packets_bwd", *(["duplicates"] if case.definition.duplicates == "drop" else [])]
    counts = [batch[name] for batch in flows.to_batches() for name in counted]
    packets = sum(int(view(count).sum()) for count in counts)
    if packets != metered and not reading.short:
        yield Fault("accounts", f"{what}: {metered} metered packets, {packets} in flows")
    if case.definition.min_packets == 1 and reading.short:
        yield Fault("accounts", f"{what}: {reading.short} short flows without a minimum")
    ids = flows["flow_id"].to_pylist()
    if len(set(ids)) != len(ids):
        yield Fault("ids", f"{what}: {len(ids)} flows have {len(set(ids))} ids")


def split_faults(whole: Reading, split: Reading, uris: Sequence[str]) -> Iterator[Fault]:
    """Yields the differences between reading in one piece and reading in ranges."""
    if _sorted(whole.flows) != _sorted(split.flows) and in_order(whole.flows.to_pylist()) != in_order(
        split.flows.to_pylist()
    ):
        yield _difference("split", in_order(whole.flows.to_pylist()), in_order(split.flows.to_pylist()))
    if whole.short != split.short:
        yield Fault("split short", f"short flows: {whole.short} in one piece, {split.short} in {split.tasks} ranges")
    for uri in uris:
        one, other = merged(whole.accounts, uri), merged(split.accounts, uri)
        if one != other:
            yield Fault("split accounts", f"accounts: {one} in one piece, {other} in {split.tasks} ranges")
    if whole.rejects != split.rejects:
        yield Fault("split rejects", f"rejects: {whole.rejects} in one piece, {split.rejects} in {split.tasks} ranges")
    if whole.dropped != split.dropped:
        yield Fault("split drops", f"drops of the view: {whole.dropped} in one piece, {split.dropped} in ranges")
    if whole.packets.combine_chunks() != split.packets.combine_chunks():
        yield Fault("split packets", f"packet rows differ: {whole.packets.num_rows} and {split.packets.num_rows}")


def _sorted(flows: pa.Table) -> pa.Table:
    return flows.sort_by("flow_id").combine_chunks() if flows.num_rows else flows


def _difference(what: str, found: list[tuple], expected: list[tuple]) -> Fault:
    """Returns the first rows of two readings that differ, by column."""
    if len(found) != len(expected):
        return Fault(f"{what} flows", f"{len(found)} flows and {len(expected)} flows")
    found, expected = next((a, b) for a, b in zip(found, expected, strict=True) if a != b)
    columns = [each for each in zip(FLOWS.names, found, expected, strict=True) if each[1] != each[2]]
    detail = "; ".join(f"{name} {one} and {other}" for name, one, other in columns)
    return Fault(f"{what} {columns[0][0] if len(columns) == 1 else 'rows'}", detail[:600])


def reference_faults(whole: Reading, expected: Metered, case: FuzzCase, uris: Sequence[str]) -> Iterator[Fault]:
    """Yields the differences from the reference meter, which reads bytes in plain Python."""
    if not whole.short:
        yield from _row_faults(whole, case)
    table = whole.flows.set_column(2, "start", whole.flows["start"].cast(pa.int64()))
    if in_order(table.to_pylist()) != in_order(expected.flows):
        yield _difference("reference", in_order(table.to_pylist()), in_order(expected.flows))
    if whole.short != expected.flows_short:
        yield Fault("reference short", f"{whole.short} short flows, reference {expected.flows_short}")
    for uri, account in zip(uris, expected.captures, strict=True):
        found_account = merged(whole.accounts, uri)
        if found_account != account:
            yield Fault("reference accounts", f"account {found_account}, reference {account}")


def _row_faults(whole: Reading, case: FuzzCase) -> Iterator[Fault]:
    """Yields differences of the packets view from its reference; rows of short flows are not compared."""
    rows, dropped = reference_rows([file for file in case.files if _opens(file)], case.definition, case.view)
    if whole.dropped != [dropped.get(reason, 0) for reason in (0, *PacketDrop)]:
        yield Fault("reference drops", f"drops of the view {whole.dropped}, reference {dropped}")
    found = whole.packets["bytes"].to_pylist()
    if found != rows:
        yield Fault("reference bytes", f"{len(found)} rows of bytes, reference {len(rows)}, some differ")


def expected_of(case: FuzzCase) -> Metered | None:
    """Returns the result of the reference meter; None if a file is compressed or has too many records."""
    if sum(map(len, case.files)) > MOST_REFERENCE_BYTES:
        return None
    if any(file[:2] in (b"\x1f\x8b", b"\x28\xb5", b"\xfd7", b"BZ") for file in case.files):
        return None
    readable = [_opens(file) for file in case.files]
    files = [file for file, opens in zip(case.files, readable, strict=True) if opens]
    origins = [origin for origin, opens in enumerate(readable) if opens]
    expected = reference_meter(files, case.definition, GROUP, origins)
    captures = iter(expected.captures)
    expected.captures = [next(captures) if opens else Account() for opens in readable]
    return expected


def _opens(file: bytes) -> bool:
    """Returns whether a file begins like a capture."""
    if file[:4] == b"snoo":
        return file[:8] == SNOOP and file[8:12] == b"\0\0\0\x02" and len(file) >= 16
    return is_pcapng(file) or (len(file) >= 24 and file[:4] in (*PCAP_ORDERS, *OTHERS))


def afterimage_faults(whole: Reading) -> Iterator[Fault]:
    """Yields differences of the AfterImage features between packets at once and packets in two batches."""
    packets = pa.Table.from_batches(whole.decoded).combine_chunks().to_batches() if whole.decoded else []
    if not packets or not packets[0].num_rows:
        return
    batch = packets[0]
    at_once = AfterImage(decays=(5.0, 0.01), max_rows=16).update(batch)
    cut = AfterImage(decays=(5.0, 0.01), max_rows=16)
    half = batch.num_rows // 2
    parts = np.concatenate([cut.update(batch.slice(0, half)), cut.update(batch.slice(half))])
    if not np.array_equal(at_once, parts) or not np.isfinite(at_once).all():
        yield Fault("features", "AfterImage features are not finite, or differ between one batch and two")


def streamed_faults(whole: Reading, uris: Sequence[str], case: FuzzCase) -> Iterator[Fault]:
    """Yields differences between a window that holds the whole capture and one that is filled piece by piece."""
    small = {name: 40 for name in ("READ_BYTES", "_PIECE_BYTES") if hasattr(capture_window, name)}
    with patched(capture_window, **small):
        streamed = read_whole(uris, case)
    if streamed.digest() != whole.digest():
        yield Fault("window", "rows or accounts depend on the size of the window")


def run_case(case: FuzzCase, folder: Path, *, thorough: bool = True, reference: bool = True) -> Outcome:
    """Runs one case through all targets.

    Args:
      folder: a folder for the captures, best in memory.
      thorough: whether to try also AfterImage features and small windows.
      reference: whether to compare with the reference meter.
    """
    uris = []
    for number, file in enumerate(case.files):
        path = folder / f"{number}.capture"
        path.write_bytes(file)
        uris.append(str(path))
    whole = read_whole(uris, case)
    split = read_split(uris, case) if case.edges else whole
    faults = [*closing_faults(whole, case, "whole")]
    if case.edges:
        faults += [*closing_faults(split, case, "split"), *split_faults(whole, split, uris)]
    expected = expected_of(case) if reference else None
    if expected is not None:
        faults += reference_faults(whole, expected, case, uris)
    if thorough:
        faults += afterimage_faults(whole)
        faults += streamed_faults(whole, uris, case)
    total = sum(row["records"] for row, _ in whole.accounts)
    digest = whole.digest() + (split.digest() if case.edges else "")
    return Outcome(total, digest, features_of(whole, split), expected is not None, faults)
