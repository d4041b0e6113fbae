"""Captures of known trouble and the flows that each should give.

python tests/support/capture_cases.py FOLDER prints a table: one line a capture, with yes or no.
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowloom.pipelines.flow_tables.flow_scan import FlowScan, scan_flows
from flowloom.schemas.errors import FlowloomError

UDP_FLOW = ("192.0.2.10", 4000, "198.51.100.20", 53, 17)
INNER_FLOW = ("203.0.113.1", 1234, "203.0.113.2", 5678, 17)
ALL_TUNNELS: Mapping[str, Any] = {"tunnels": "all"}


@dataclasses.dataclass(frozen=True)
class CaptureCase:
    """Flows that a capture should give.

    Attributes:
      subject: what is tried.
      flow: source, its port, destination, its port and protocol of the only flow; None for any flows.
      packets: metered packets of all flows.
      flows: number of flows.
      ip_bytes: IP lengths of all packets together; None for any.
      options: the flow definition.
    """

    subject: str
    flow: tuple[str, int, str, int, int] | None
    packets: int = 1
    flows: int = 1
    ip_bytes: int | None = 48
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _tunnel(subject: str) -> CaptureCase:
    return CaptureCase(subject, INNER_FLOW, options=ALL_TUNNELS)


CASES: dict[str, CaptureCase] = {
    "len_snap68_ipv6_vlan.pcap": CaptureCase(
        "a packet that is cut off behind its ports",
        ("2001:db8::10", 40_000, "2001:db8:1::20", 443, 6), ip_bytes=960,
    ),
    "ng_bigdsb.pcapng.xz": CaptureCase("a block of more than 16 MiB", None, packets=2, ip_bytes=None),
    "link_radiotap127.pcap": CaptureCase("802.11 with radiotap", UDP_FLOW),
    "link_ppi192.pcap": CaptureCase("802.11 with PPI", UDP_FLOW),
    "link_nflog239.pcap": CaptureCase("Netfilter's log", UDP_FLOW),
    "link_pktap258.pcap": CaptureCase("Darwin's packet tap", UDP_FLOW),
    "link_fddi10.pcap": CaptureCase("FDDI", UDP_FLOW),
    "eth_vntag_8926.pcap": CaptureCase("VN-Tag", UDP_FLOW),
    "eth_cmd_sgt_8909.pcap": CaptureCase("Cisco metadata", UDP_FLOW),
    "eth_nsh_894f.pcap": CaptureCase("network service header", UDP_FLOW),
    "eth_mpls_pw_cw.pcap": CaptureCase("Ethernet in MPLS with control word", UDP_FLOW),
    "eth_mpls_pw_nocw.pcap": CaptureCase("Ethernet in MPLS without control word", UDP_FLOW),
    "tun_erspan1.pcap": _tunnel("ERSPAN"),
    "tun_geneve.pcap": _tunnel("Geneve"),
    "tun_vxlan8472.pcap": _tunnel("VXLAN on port 8472"),
    "tun_l2tp.pcap": _tunnel("L2TP"),
    "tun_tzsp.pcap": _tunnel("TZSP"),
    "tun_etherip.pcap": _tunnel("EtherIP"),
    "tun_gre_pptp.pcap": _tunnel("PPTP"),
    "tun_gre_mpls.pcap": _tunnel("MPLS in GRE"),
    "tun_mplsudp.pcap": _tunnel("MPLS in UDP"),
    "tun_capwap.pcap": _tunnel("CAPWAP"),
    "kuznetzov.pcap": CaptureCase("modified pcap", UDP_FLOW, packets=2, ip_bytes=96),
    "plain.modpcap.cap": CaptureCase("modified pcap", UDP_FLOW, packets=2, ip_bytes=96),
    "plain.rh61.pcap": CaptureCase("modified pcap under the usual magic", UDP_FLOW, packets=2, ip_bytes=96),
    "plain.snoop": CaptureCase("snoop", UDP_FLOW, packets=2, ip_bytes=96),
    "rot_0.pcap.lz4": CaptureCase("LZ4", ("192.0.2.10", 40_000, "198.51.100.20", 443, 6), packets=3, ip_bytes=120),
}  # fmt: skip
"""Cases by the name of their capture."""


def difference(path: Path, case: CaptureCase) -> str | None:
    """Returns how the flows of a capture differ from what they should be, None if they do not."""
    try:
        scan = scan_flows(path, case.options, text_addresses=True)
        rows = [row for batch in scan for row in batch.drop_columns("start").to_pylist()]
    except FlowloomError as error:
        return str(error)
    return _difference(rows, scan, case)


def _difference(rows: list[dict[str, Any]], scan: FlowScan, case: CaptureCase) -> str | None:
    if scan.rejects:
        return f"a reject: {scan.rejects[0]['reason']}"
    if len(rows) != case.flows:
        return f"{len(rows)} flows for {case.flows}"
    found = tuple(rows[0][name] for name in ("src_ip", "src_port", "dst_ip", "dst_port", "protocol"))
    if case.flow not in (None, found):
        return f"the flow {found}"
    packets = sum(row["packets_fwd"] + row["packets_bwd"] for row in rows)
    if packets != case.packets:
        return f"{packets} packets for {case.packets}"
    size = sum(row["bytes_fwd"] + row["bytes_bwd"] for row in rows)
    return f"{size} bytes for {case.ip_bytes}" if case.ip_bytes not in (None, size) else None


def main() -> None:
    """Prints the table of all cases."""
    folder = Path(sys.argv[1])
    for name, case in CASES.items():
        found = difference(folder / "captures" / name, case)
        print(f"{'no ' if found else 'yes'}  {name:26} {case.subject}{f': {found}' if found else ''}")


if __name__ == "__main__":
    main()
