"""`flowloom show`: the page of one flow, with its packets as a drawing, its key, its labels and its captures."""

import dataclasses
import datetime as dt
import ipaddress
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flowloom.pipelines.describe.find_flow import StoredFlow, find_flow
from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.corpus.flow_definition import EndReason
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, DatasetCard, read_card
from flowloom.schemas.dataset.stored_files import table_file
from flowloom.schemas.parquet_files import read_table
from flowloom.trainers.evaluation.page_units import duration
from flowloom.trainers.evaluation.pages import rendered

TEMPLATE = "flow_page.html.j2"
DRAWN_PACKETS, LISTED_PACKETS = 200, 1_000
"""Most packets of the drawings and of the table."""
SHOWN_CAPTURES = 20

FEWEST = 12
"""Number of packets that the first drawing has room for at least, so that the bars of a short flow are not apart."""
FLAGS = "CEUAPRSF"
"""Letters of the TCP flags from the highest bit: CWR, ECE, URG, ACK, PSH, RST, SYN, FIN."""
PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 47: "GRE", 50: "ESP", 58: "ICMPv6", 132: "SCTP"}
HEIGHT, MARGIN, RIGHT, STEP, SMALLEST_WIDTH = 240.0, 52.0, 26.0, 24.0, 760.0
"""Sizes of the drawings, in units of their view boxes."""


@dataclasses.dataclass(frozen=True)
class Packet:
    """A packet of a flow; columns that the dataset lacks are None."""

    number: int
    time_s: float
    """Time since the first packet, from the stored gaps."""
    gap_s: float
    forward: bool
    size: int
    payload: int | None
    flags: str
    window: int | None
    ttl: int | None

    @property
    def title(self) -> str:
        """One line for people who point at the packet."""
        flags = f", {self.flags}" if self.flags else ""
        side = "forward" if self.forward else "backward"
        return f"packet {self.number}: {self.size:,} B {side}{flags}, {duration(self.time_s)} after the first"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Packets as bars: forward above the line, backward below, with ticks as pairs of place and text."""

    width: float
    zero: float
    bars: list[tuple[float, float, float, Packet]]
    """Centre, top, and height of the bar of each packet."""
    sizes: list[tuple[float, str]]
    times: list[tuple[float, str]]


def show_flow(
    dataset: str | os.PathLike[str], flow_id: str, out: str | os.PathLike[str] | None = None
) -> tuple[str, StoredFlow]:
    """Writes the page of one flow, and returns its path and the flow.

    Args:
      dataset: the dataset directory.
      flow_id: the id, or the beginning that no other flow has, in hexadecimal digits.
      out: the file to write; None for `flow-<id>.html` in the current folder.

    Raises:
      FlowloomError: if there is no finished dataset, or `find_flow` raises it.
    """
    card = read_card(dataset)
    flow = find_flow(dataset, card, flow_id)
    columns = ["group", "uri", "first_ns", "last_ns"]
    captures = read_table(table_file(dataset, card, CAPTURES_TABLE), columns).to_pylist() if _has(dataset) else []
    path = os.fspath(out) if out is not None else f"flow-{flow.flow_id}.html"
    write_text(path, render_flow(card, flow, [row for row in captures if row["group"] == flow.row["group"]]))
    return path, flow


def _has(dataset: str | os.PathLike[str]) -> bool:
    return os.path.exists(os.path.join(dataset, CAPTURES_TABLE))


def render_flow(card: DatasetCard, flow: StoredFlow, captures: Sequence[Mapping[str, Any]]) -> str:
    """Returns the page.

    Args:
      card: the card of the dataset.
      flow: the flow.
      captures: rows of the captures table of the flow's group.
    """
    packets = list(flow_packets(flow.row))
    drawn = packets[:DRAWN_PACKETS]
    total = (flow.row.get("packets_fwd") or 0) + (flow.row.get("packets_bwd") or 0)
    start = flow.row.get("start")
    return rendered(
        __package__,
        TEMPLATE,
        {},
        card=card,
        flow=flow,
        key=_key(flow.row),
        start=dt.datetime.fromtimestamp(start / 1e9, dt.UTC) if start is not None else None,
        end=_end(flow.row),
        packets=packets[:LISTED_PACKETS],
        stored=len(packets),
        total=max(total, len(packets)),
        drawn=len(drawn),
        drawings=[draw_by_number(drawn), draw_by_time(drawn)] if drawn else [],
        tcp=any(packet.flags for packet in packets),
        captures=captures[:SHOWN_CAPTURES],
        captures_omitted=max(0, len(captures) - SHOWN_CAPTURES),
        height=HEIGHT,
        margin=MARGIN,
    )


def flow_packets(row: Mapping[str, Any]) -> Iterator[Packet]:
    """Yields the stored packets of a flow in captured order."""
    time_ns = 0
    sizes, sides, gaps = row["pkt_size"], row["pkt_dir"], row["pkt_gap_ns"]
    absent: list[None] = [None] * len(sizes)
    others = [row.get(name) or absent for name in ("pkt_payload", "pkt_tcp_flags", "pkt_tcp_window", "pkt_ttl")]
    tcp = row.get("protocol") == 6
    for number, (size, side, gap, payload, flags, window, ttl) in enumerate(
        zip(sizes, sides, gaps, *others, strict=True), start=1
    ):
        time_ns += gap
        letters = flag_letters(flags) if tcp and flags else ""
        yield Packet(number, time_ns / 1e9, gap / 1e9, side > 0, size, payload, letters, window if tcp else None, ttl)


def flag_letters(flags: int) -> str:
    """Returns the letters of the TCP flags that are set, SYN and FIN first, such as `SA` and `PA`."""
    found = [letter for at, letter in enumerate(FLAGS) if flags & (0x80 >> at)]
    return "".join(sorted(found, key="SFRPAUEC".index))


def draw_by_number(packets: Sequence[Packet]) -> Drawing:
    """Returns the packets side by side, in captured order, with the time of every fourth."""
    width = max(SMALLEST_WIDTH, MARGIN + STEP * len(packets) + RIGHT)
    step = (width - MARGIN - RIGHT) / max(len(packets), FEWEST)
    places = [MARGIN + step * (at + 0.5) for at in range(len(packets))]
    every = max(1, round(4 * STEP / step))
    times = [(places[at], duration(packets[at].time_s)) for at in range(0, len(packets), every)]
    return _drawing(packets, places, width, times)


def draw_by_time(packets: Sequence[Packet]) -> Drawing:
    """Returns the packets by their time since the first, on a linear axis."""
    width, last = SMALLEST_WIDTH, packets[-1].time_s
    inner = width - MARGIN - 6 - RIGHT
    places = [MARGIN + 6 + inner * (packet.time_s / last if last else 0.0) for packet in packets]
    times = [(MARGIN + 6 + inner * part / 4, duration(last * part / 4)) for part in range(5 if last else 1)]
    return _drawing(packets, places, width, times)


def _drawing(
    packets: Sequence[Packet], places: Sequence[float], width: float, times: list[tuple[float, str]]
) -> Drawing:
    """Places the bars; their length is the square root of the size, which leaves room for small packets."""
    largest = max(100, *(packet.size for packet in packets))
    zero = (HEIGHT - 22) / 2
    longest = zero - 16  # flags have their place beyond the bar

    def reach(size: float) -> float:
        return (size / largest) ** 0.5 * longest

    bars = []
    for place, packet in zip(places, packets, strict=True):
        length = max(reach(packet.size), 1.0)
        bars.append((place, zero - length if packet.forward else zero, length, packet))
    sizes = [
        (zero - side * reach(size), f"{size:,.0f} B" if size else "0")
        for size, side in ((largest, 1), (largest / 4, 1), (0, 1), (largest / 4, -1), (largest, -1))
    ]
    return Drawing(width, zero, bars, sizes, times)


def _key(row: Mapping[str, Any]) -> dict[str, str]:
    """Returns the key of a flow as text by name; what the dataset dropped or lacks is stated."""
    key = {}
    protocol = row.get("protocol")
    if protocol is not None:
        name = PROTOCOLS.get(protocol)
        key["protocol"] = f"{name} ({protocol})" if name else str(protocol)
    for side, what in (("src", "source"), ("dst", "destination")):
        port = row.get(f"{side}_port")
        address = row.get(f"{side}_ip")
        text = address_text(address) if address is not None else "address not in the dataset"
        key[what] = f"{text}, port {port}" if port else text
    for name in ("vlan", "tunnel_id"):
        if row.get(name):
            key[name.replace("_", " ")] = str(row[name])
    return key


def address_text(address: bytes) -> str:
    """Returns a stored address as text; IPv4-mapped ones as IPv4."""
    six = ipaddress.IPv6Address(address)
    return str(six.ipv4_mapped or six)


def _end(row: Mapping[str, Any]) -> str | None:
    reason = row.get("end_reason")
    if reason is None:
        return None
    try:
        return EndReason(reason).name.lower().replace("_", " ")
    except ValueError:
        return str(reason)
