"""The preset `nfstream` against NFStream itself: how many flows are equal, and why the others are not.

Equal means: key (addresses, ports, protocol, VLAN), packets and bytes by direction, and size and direction of each of
the first `K` packets. `main` writes docs/conformance.md.
"""

import argparse
import collections
import dataclasses
import importlib.metadata
import ipaddress
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from flowloom.schemas.arrow.accounting import DROPPED_COLUMNS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.capture_files import capture_sha256
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.metering.group_reader import GroupReader

K = 255
"""NFStream's longest sequence."""

ROOT = Path(__file__).resolve().parent.parent

Flow = tuple[Any, ...]
"""src_ip, src_port, dst_ip, dst_port, protocol, vlan, packets, bytes, directions, sizes, start_ms."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """One way to run both: NFStreamer options, and the definition that means the same."""

    name: str
    nfstream: dict[str, Any]
    definition: FlowDefinition


SETTINGS = (
    Settings("NFStream's defaults: the preset `nfstream`", {}, FlowDefinition.of("nfstream", k=K)),
    Settings(
        "IP sizes, no tunnels but IP in IP: `size: ip`, `tunnels: [ip-in-ip]`",
        {"accounting_mode": 1, "decode_tunnels": False},
        FlowDefinition.of("nfstream", k=K, size="ip", tunnels=["ip-in-ip"]),
    ),
)

_FAR_TIMES = (
    "Times of the year 151,991, as Wireshark reads them too, are beyond int64 nanoseconds: NFStream meters the "
    "packets; Flowloom counts them as out of range."
)
MISREAD = {
    "ajp.pcap": "Cisco FabricPath (EtherType 0x8903): NFStream takes the bytes behind it for an IPv4 header; Flowloom "
    "and Wireshark decode the frame inside.",
    "capwap.pcap": "CAPWAP: NFStream takes bytes of 802.11 management frames for IPv4 headers; Flowloom meters the UDP "
    "flow around them.",
    "fuzz-2021-06-07-c6c72a0a56.pcap": "A damaged record claims a frame of 4,093,509,168 bytes: NFStream keeps the low "
    "16 bits of that.",
}
"""Captures that NFStream misreads: it meters bytes that are no IP header, or overflows."""

CAUSES = MISREAD | {
    "dhcp_big_endian.pcapng": _FAR_TIMES,
    "dhcp_little_endian.pcapng": _FAR_TIMES,
}
"""Reasons for the differences between flows of a capture, found in its packets."""

MADE = (
    "NFStream's clock counts whole milliseconds, by which a gap or an age may reach its timeout a little later.",
    "NFStream drops frames of fewer than 40 captured bytes, and IPv6 packets that are not captured whole. Flowloom "
    "drops only packets whose headers are cut off.",
    "NFStream looks into GTP-U over IPv4 only, and never into GRE, VXLAN or Teredo, which the preset leaves alone.",
)
"""Differences that none of the captures shows, found with packets made for them and in NFStream's source."""


@dataclasses.dataclass
class Conformance:
    """Result of a comparison.

    Attributes:
      captures: how many were compared.
      ours, theirs, equal: flows.
      simultaneous: equal flows that also start in the same millisecond.
      records, dropped: of the accounting, all captures together.
      misread: flows that only one of both has, in captures that NFStream misreads (`MISREAD`).
      differences: (capture, flows that only Flowloom has, flows that only NFStream has).
    """

    captures: int = 0
    ours: int = 0
    theirs: int = 0
    equal: int = 0
    simultaneous: int = 0
    records: int = 0
    dropped: int = 0
    misread: int = 0
    differences: list[tuple[str, list[Flow], list[Flow]]] = dataclasses.field(default_factory=list)

    @property
    def share(self) -> float:
        """The part of all flows that is equal: of the larger count, so that extra flows on either side tell."""
        return self.equal / max(self.ours, self.theirs, 1)

    @property
    def share_read(self) -> float:
        """The part that is equal without the flows that differ because NFStream misreads their capture."""
        return self.equal / max(self.equal, self.ours + self.theirs - self.equal - self.misread, 1)


def compare(captures: Sequence[Path], settings: Settings) -> Conformance:
    """Meters captures both ways and compares flow by flow."""
    found = Conformance()
    theirs = nfstream_flows(captures, settings.nfstream)
    for capture in captures:
        mine, other = flowloom_flows(capture, settings.definition, found), theirs[str(capture)]
        found.simultaneous += (collections.Counter(mine) & collections.Counter(other)).total()
        ours, nfstreams = (collections.Counter(flow[:-1] for flow in flows) for flows in (mine, other))
        found.captures += 1
        found.ours += ours.total()
        found.theirs += nfstreams.total()
        found.equal += (ours & nfstreams).total()
        if ours != nfstreams:
            differing = sorted((ours - nfstreams).elements()), sorted((nfstreams - ours).elements())
            found.differences.append((capture.name, *differing))
            if capture.name in MISREAD:
                found.misread += sum(map(len, differing))
    return found


def nfstream_flows(captures: Sequence[Path], options: dict[str, Any]) -> dict[str, list[Flow]]:
    """Returns NFStream's flows by capture."""
    worker = Path(__file__).with_name("nfstream_flows.py")
    command = [sys.executable, str(worker), json.dumps({"splt_analysis": K} | options), *map(str, captures)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    flows: dict[str, list[Flow]] = collections.defaultdict(list)
    for row in map(json.loads, lines):
        capture, src, dst, src_port, dst_port, *rest = row.values()
        key = str(ipaddress.ip_address(src)), src_port, str(ipaddress.ip_address(dst)), dst_port
        flows[capture].append((*key, *(tuple(v) if isinstance(v, list) else v for v in rest)))
    return flows


def flowloom_flows(capture: Path, definition: FlowDefinition, found: Conformance) -> list[Flow]:
    """Returns Flowloom's flows of a capture, and adds its accounting to the result."""
    sha256 = capture_sha256(str(capture))
    reading = GroupReader([CaptureRange(str(capture))], sha256[:16], definition)
    flows: list[Flow] = []
    for batch in reading.flows():
        starts = batch["start"].cast(pa.int64()).to_pylist()
        for start_ns, row in zip(starts, batch.drop_columns(["start"]).to_pylist(), strict=True):
            flow = (
                _text(row["src_ip"]), row["src_port"], _text(row["dst_ip"]), row["dst_port"], row["protocol"],
                row["vlan"], (row["packets_fwd"], row["packets_bwd"]), (row["bytes_fwd"], row["bytes_bwd"]),
                tuple(row["pkt_dir"]), tuple(row["pkt_size"]), start_ns // 1_000_000,
            )  # fmt: skip
            flows.append(flow)
    for row in reading.captures().to_pylist():
        found.records += row["records"]
        found.dropped += sum(row[name] for name in DROPPED_COLUMNS)
    return flows


def _text(address: bytes) -> str:
    six = ipaddress.IPv6Address(address)
    return str(six.ipv4_mapped or six)


def page(results: Sequence[tuple[Settings, Conformance]]) -> str:
    """Returns the Markdown page of comparisons."""
    version = importlib.metadata.version("nfstream")
    lines = [
        "# Conformance with NFStream",
        "",
        f"The preset `nfstream` against NFStream {version}, on the captures of NFStream's own tests. Made by",
        "",
        "<!-- given: .venv benchmarks FOLDER_OF_CAPTURES=ring docs/conformance.md=corpus.yaml -->",
        "```sh",
        ".venv/bin/python benchmarks/conformance.py FOLDER_OF_CAPTURES -o docs/conformance.md",
        "```",
        "",
        "Two flows are equal when their addresses, ports, protocol, VLAN, packets and bytes by direction, and the size",
        f"and direction of each of the first {K} packets are. The last column counts the equal flows that start in",
        "the same millisecond too; the others lie in captures out of order, whose times NFStream replaces, or with",
        "damaged times. *Share without misreadings* leaves out the flows that differ in captures where NFStream meters",
        "bytes that are no IP header, or overflows: " + ", ".join(f"`{name}`" for name in MISREAD) + ".",
        "It counts every other flow that only one of both has.",
        "",
        "| settings | captures | records | flows of Flowloom | of NFStream | equal | share | share without misreadings "
        "| same start |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for settings, found in results:
        lines.append(
            f"| {settings.name} | {found.captures:,} | {found.records:,} | {found.ours:,} | {found.theirs:,} "
            f"| {found.equal:,} | {found.share:.2%} | {found.share_read:.2%} | {found.simultaneous:,} |"
        )
    for settings, found in results:
        lines += ["", f"## Differences under {settings.name}", ""]
        for capture, ours, theirs in found.differences:
            lines += [f"* `{capture}`: {CAUSES.get(capture, 'cause not known')}"]
            lines += [f"  * only Flowloom: {_shown(flow)}" for flow in ours]
            lines += [f"  * only NFStream: {_shown(flow)}" for flow in theirs]
    lines += ["", "## Differences that these captures do not show", "", *(f"* {sentence}" for sentence in MADE), ""]
    return "\n".join(lines)


def _shown(flow: Flow) -> str:
    src, src_port, dst, dst_port, protocol, vlan, packets, sizes, _, _ = flow
    ends = f"{src} port {src_port} to {dst} port {dst_port}"
    tag = f", VLAN {vlan}" if vlan else ""
    return f"{ends}, protocol {protocol}{tag}: {packets[0]} + {packets[1]} packets, {sizes[0]:,} + {sizes[1]:,} bytes"


def main() -> None:
    """Compares all captures of a folder under all settings and writes the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("captures", type=Path, help="folder of captures")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "conformance.md")
    arguments = parser.parse_args()
    captures = sorted(path for path in arguments.captures.iterdir() if path.is_file())
    if not captures:
        parser.error(f"{arguments.captures} must have captures, got no file; give the folder that holds them")
    results = [(settings, compare(captures, settings)) for settings in SETTINGS]
    arguments.output.write_text(page(results))
    for settings, found in results:
        print(
            f"{settings.name}: {found.equal:,} of {max(found.ours, found.theirs):,} flows equal "
            f"({found.share:.2%}; {found.share_read:.2%} without misreadings)"
        )


if __name__ == "__main__":
    main()
