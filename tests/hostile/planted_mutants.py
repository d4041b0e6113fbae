"""Planted faults: small changes of the source. The fuzzer must find each one."""

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

import source_tree
from fuzz_cases import FuzzCase
from fuzz_processes import ROOT, Worker
from fuzz_worker import run_guarded

COPIED = ("schemas", "transforms")
MOST_INPUTS = 400_000
MOST_SECONDS = 900


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of a file: `old`, which occurs once in it, becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "reader: longest record", "transforms/captures/pcap.py",
        "if length > MAX_RECORD_BYTES:", "if length >= MAX_RECORD_BYTES:",
    ),
    Mutant(
        "reader: interface that is not described", "transforms/captures/pcapng.py",
        "if interface >= len(interfaces) or", "if interface > len(interfaces) or",
    ),
    Mutant(
        "reader: binary clock resolution", "transforms/captures/pcapng.py",
        "fraction = (upper + (lower >> np.uint64(32))) >> (power - np.uint64(32))",
        "fraction = (upper + (lower >> np.uint64(32))) >> (power - np.uint64(31))",
    ),
    Mutant(
        "ranges: preamble of a range", "transforms/captures/ranges.py",
        "if stretch.start != start or stretch.before != preamble:", "if stretch.start != start:",
    ),
    Mutant(
        "ranges: time before simple packet blocks", "transforms/captures/ranges.py",
        "latest_ns = stretch.latest_ns or latest_ns", "latest_ns = stretch.latest_ns",
    ),
    Mutant(
        "decoder: TCP header that is cut off", "transforms/packets/ip_headers.py",
        "if at + 16 > end:", "if at + 14 > end:",
    ),
    Mutant(
        "decoder: IPv4 length below its header", "transforms/packets/ip_headers.py",
        "if header < 20 or ip_bytes < header:", "if header < 20:",
    ),
    Mutant(
        "decoder: IPv6 fragment offset", "transforms/packets/ip_headers.py",
        "if offset & 0xFFF8:", "if offset & 0xFFF0:",
    ),
    Mutant(
        "decoder: VLAN identifier", "transforms/packets/link_layer.py",
        "vlan = u16(buffer, at) & 0x0FFF", "vlan = u16(buffer, at) & 0x1FFF",
    ),
    Mutant(
        "decoder: PPP protocol of one byte", "transforms/packets/link_headers.py",
        "    if protocol & 1:\n        at += 1\n", "    if protocol & 1:\n        at += 2\n",
    ),
    Mutant(
        "fragments: ports of later fragments", "transforms/packets/ip_fragments.py",
        "src_port[i] = entry.src_port", "src_port[i] = entry.dst_port",
    ),
    Mutant(
        "tunnels: GRE checksum", "transforms/packets/tunnel_headers.py",
        "at += 8 if flags & 0x8000 else 4", "at += 4",
    ),
    Mutant(
        "tunnels: optional fields of GTP-U", "transforms/packets/tunnel_headers.py",
        "if flags & 0x07:", "if flags & 0x04:",
    ),
    Mutant(
        "tunnels: exchanged bytes of 802.11 in CAPWAP", "transforms/packets/wifi_headers.py",
        "sequence = at + (23 if exchanged else 22)", "sequence = at + 22",
    ),
    Mutant(
        "tunnels: depth", "transforms/packets/tunnels.py",
        "MAX_DEPTH = 8", "MAX_DEPTH = 7",
    ),
    Mutant(
        "meter: gap of packets that are out of order", "transforms/flows/flow_state.py",
        "max(now - previous, 0) if at > offsets[i] else 0", "now - previous if at > offsets[i] else 0",
    ),
    Mutant(
        "meter: cut by a repeated SYN in a range", "transforms/flows/meter_kernels.py",
        "open_before = flow.open_before == 1 and not decided", "open_before = False",
    ),
    Mutant(
        "meter: idle timeout that is reached", "transforms/flows/flow_state.py",
        "return idle - definition.margin_ns", "return idle",
    ),
    Mutant(
        "meter: SYN behind the SYN-ACK that answers it", "transforms/flows/meter_kernels.py",
        "packets.tcp_ack[i] - np.uint32(1) if answer", "packets.tcp_ack[i] if answer",
    ),
    Mutant(
        "meter: payload after the FIN of the other side", "transforms/flows/meter_kernels.py",
        "return flow.closing & turn != 0", "return True",
    ),
    Mutant(
        "meter: client by equal ports", "transforms/flows/meter_kernels.py",
        "packets.src_port[i] < packets.dst_port[i]", "packets.src_port[i] <= packets.dst_port[i]",
    ),
    Mutant(
        "clock: sixteen records behind a time", "transforms/captures/record_clock.py",
        "LOOK_AHEAD = 16", "LOOK_AHEAD = 17",
    ),
    Mutant(
        "join: closing flags of fragments", "transforms/flows/flow_fragments.py",
        "flow.closing |= piece.closing", "flow.closing = piece.closing",
    ),
    Mutant(
        "windows: side of a source's packets", "transforms/flows/packet_windows.py",
        "side = options.key == _SOURCE or from_low", "side = from_low",
    ),
    Mutant(
        "byte rows: transport header that is cut off", "transforms/packets/byte_rows.py",
        "kept = min(20 if tcp else 8, stop - transport)", "kept = 20 if tcp else 8",
    ),
    Mutant(
        "accounts: records of several chunks", "transforms/metering/group_reader.py",
        'row["metered"] += packets.num_rows', 'row["metered"] = packets.num_rows',
    ),
)  # fmt: skip


def mutated_source(mutant: Mutant) -> str:
    """Returns the source of a mutant's file after the change.

    Raises:
      ValueError: if the old text does not occur exactly once.
    """
    source = (ROOT / mutant.file).read_text()
    if source.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.file}: the text of the mutant {mutant.name!r} must occur once, got {source.count(mutant.old)} "
            "places; follow the change of the source in planted_mutants.py"
        )
    return source.replace(mutant.old, mutant.new)


def dependents(changed: Path) -> set[Path]:
    """Returns a module and all modules that import it, directly or not: their compiled kernels hold its code."""
    found, grown = {changed}, True
    modules = source_tree.modules()
    importers = {path: {source_tree.module_of(name) for name in source_tree.imported(path)} for path in modules}
    while grown:
        more = {path for path, imported in importers.items() if imported & found} - found
        found |= more
        grown = bool(more)
    return found


def mutant_package(mutant: Mutant, folder: Path) -> Path:
    """Writes a copy of the package with a change; compiled kernels that the change does not reach are kept."""
    package = folder / "flowloom"
    package.mkdir(parents=True)
    shutil.copy2(ROOT / "__init__.py", package)
    for name in COPIED:
        shutil.copytree(ROOT / name, package / name)
    source = mutated_source(mutant)
    (package / mutant.file).write_text(source)
    for path in dependents(Path(mutant.file)):
        if path.parts[0] in COPIED:
            for cached in (package / path.parent / "__pycache__").glob(f"{path.stem}.*.nb*"):
                cached.unlink()
    return folder


def run_mutant(mutant: Mutant, folder: Path, seed: int) -> dict:
    """Fuzzes a changed package until it shows a fault that the package without the change does not show."""
    package, begun = mutant_package(mutant, folder), time.monotonic()
    arguments = ["explore", "--seed", str(seed), "--inputs", str(MOST_INPUTS), "--seconds", str(MOST_SECONDS)]
    worker = Worker(arguments, folder / "worker", package=package)
    inputs, kind, code, ready = 0, "", None, False
    while not kind and code is None and not worker.hangs():
        time.sleep(0.1)
        code = worker.process.poll()
        if code is not None:
            worker.reader.join(5)
        while not kind and not worker.lines.empty():
            line = worker.lines.get()
            assert line.get("ready", str(package)).startswith(str(package)), f"another package runs: {line['ready']}"
            ready = True
            inputs += line.get("inputs", 0)
            kind = next((each["kind"] for each in line.get("faults", ()) if is_new(each, folder)), "")
    message = worker.message()
    worker.stop()
    if not ready:
        raise RuntimeError(f"{mutant.name}: the fuzzer must begin, got exit code {code}: {message}")
    if not kind and code != 0:
        kind = "hang" if code is None else f"crash: exit code {code} {message}"
    return {"mutant": mutant.name, "found": kind, "inputs": inputs, "seconds": round(time.monotonic() - begun, 1)}


def is_new(fault: dict, folder: Path) -> bool:
    """Returns whether this package does not show a fault with its case."""
    outcome = run_guarded(FuzzCase.of_json(fault["case"]), folder)
    return fault["kind"] not in {each.kind for each in outcome.faults}


def run_mutants(options: argparse.Namespace, folder: Path) -> int:
    """Runs the fuzzer on each mutant and prints how many are found; returns 1 if one is not."""
    chosen = [mutant for mutant in MUTANTS if any(part in mutant.name for part in options.only)]
    findings = []
    for number, mutant in enumerate(chosen):
        place = folder / f"mutant-{number}"
        findings.append(run_mutant(mutant, place, options.seed))
        shutil.rmtree(place)
        finding = findings[-1]
        shown = finding["found"] or "not found"
        print(f"{mutant.name:<45} {finding['inputs']:>7,} inputs {finding['seconds']:>7.1f} s  {shown}", flush=True)
    found = sum(bool(finding["found"]) for finding in findings)
    print(f"found {found} of {len(chosen)}")
    print(json.dumps({"tool": "mutants", "seed": options.seed, "found": found, "of": len(chosen), "mutants": findings}))
    return 0 if found == len(chosen) else 1
