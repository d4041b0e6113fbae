"""Packets of the Kitsune sets: tables by tshark with a row per packet, and labels in the same order.

Source: Mirsky et al., "Kitsune: An Ensemble of Autoencoders for Online Network Intrusion Detection", NDSS 2018.
"""

import ipaddress
from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.arrow.rows import ADDRESS, GROUP_DIGITS, LATER_COLUMNS, PACKETS, with_published_labels
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.tasks import NEGATIVE, POSITIVE
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import column, integer_dtype, view
from flowloom.transforms.flows.open_meter import open_meter
from flowloom.transforms.published.delimited_text import SECONDS, TextRows, read_header, read_rows, seconds_ns
from flowloom.transforms.published.flow_rows import with_nulls
from flowloom.transforms.published.published_files import PublishedFile, published_files
from flowloom.transforms.published.published_rejects import Rejects

KITSUNE_TASK = "attack"

KITSUNE_UNKNOWN = (
    "vlan", "tunnel_id", "duplicates", "pkt_tcp_flags", "pkt_tcp_window", "pkt_ttl", "pkt_payload", *LATER_COLUMNS,
)  # fmt: skip
"""Flow columns that the tables lack."""

_METERABLE = {
    "size": "wire",
    "tcp_close": "none",
    "zero_payload": "keep",
    "orient": "first-packet",
    "tunnels": (),
    "min_packets": 1,
    "icmp_in_key": False,
    "icmp_errors": "packets",
    "duplicates": "count",
    "reorder_s": None,
}
"""Options of a flow definition that need no column that the tables lack, and reject no flow."""

_FIELDS = {
    "time": "frame.time_epoch",
    "length": "frame.len",
    "src_4": "ip.src",
    "dst_4": "ip.dst",
    "src_6": "ipv6.src",
    "dst_6": "ipv6.dst",
    "tcp_src": "tcp.srcport",
    "tcp_dst": "tcp.dstport",
    "udp_src": "udp.srcport",
    "udp_dst": "udp.dstport",
    "icmp": "icmp.type",
}
_ETHERNET = 14
_NO_GROUP = "0" * GROUP_DIGITS
_ICMP, _TCP, _UDP, _NONE = 1, 6, 17, 255


def read_kitsune_packets(path: str, rejects: Rejects) -> Iterator[pa.RecordBatch]:
    """Yields the packets of a table as `schemas.arrow.rows.PACKETS`, to be metered.

    The tables have time, frame length, addresses, protocol and ports. `ip_bytes` and `payload_bytes` are the length of
    the frame without its Ethernet header, which is their upper limit; all other columns are 0. A packet that quotes
    another (ICMP) has no ports. Rows without IP, or with another protocol than TCP, UDP and ICMP, have no flow key and
    are rejects. `record` counts these too, so that it is the position of the packet's label.
    """
    for file in published_files(path, rejects):
        header = read_header(file, "\t", rejects)
        missing = [name for name in _FIELDS.values() if name not in header]
        if missing:
            detail = f"expected a table with the columns of tshark, {', '.join(missing)} are missing"
            rejects.add(file.uri, [0], RejectReason.OTHER_FORMAT, detail)
            continue
        wanted = {name: header.index(field) for name, field in _FIELDS.items()}
        clock_ns = 0
        for rows in read_rows(file, "\t", len(header), wanted, rejects):
            packets = _packets(file, rows, rejects, clock_ns)
            if packets.num_rows:
                clock_ns = packets["clock_ns"][-1].as_py()
            yield packets


def read_kitsune_labels(path: str, rejects: Rejects) -> np.ndarray:
    """Returns the labels of a set's packets in their order.

    A row is the label, or a number and the label, separated by a comma.

    Returns:
      int8 [packets]: 0 benign, 1 attack, -1 for a row that cannot be read.
    """
    labels: list[np.ndarray] = []
    for file in published_files(path, rejects):
        parts = [_labels(file, rows, rejects) for rows in read_rows(file, "\t", 1, {"line": 0}, rejects)]
        read = np.full(max((int(at[-1]) + 1 for at, _ in parts if len(at)), default=0), -1, np.int8)
        for at, values in parts:
            read[at] = values
        labels.append(read)
    return np.concatenate([np.empty(0, np.int8), *labels])


def check_kitsune_definition(definition: FlowDefinition) -> None:
    """Checks that the tables have the columns that a flow definition needs.

    Raises:
      FlowloomError: if an option needs others; the message has the values that it must have.
    """
    wrong = [name for name, value in _METERABLE.items() if getattr(definition, name) != value]
    if wrong:
        got = ", ".join(f"{name}={_shown(getattr(definition, name))}" for name in wrong)
        fits = ", ".join(f"{name}={_shown(_METERABLE[name])}" for name in wrong)
        raise FlowloomError(
            f"the flow definition of a Kitsune set must have {fits}, got {got}; its tables lack the columns"
        )


def _shown(value: object) -> str:
    """Returns the value of an option as YAML shows it."""
    if value is None:
        return "null"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def read_kitsune_flows(
    path: str, labels: str | None, definition: FlowDefinition, rejects: Rejects
) -> Iterator[pa.RecordBatch]:
    """Yields the flows of one table, metered; a flow is an attack if any of its packets is.

    Args:
      path: a table.
      labels: the path of its labels; None if they are unknown.
      definition: a flow definition that passes `check_kitsune_definition`.

    Yields:
      `schemas.arrow.rows.PUBLISHED_FLOWS` with published labels of the kind `attack`, null where no packet has a label.

    Raises:
      FlowloomError: if the definition does not pass.
    """
    check_kitsune_definition(definition)
    meter = open_meter(definition, next((file.group for file in published_files(path, Rejects())), _NO_GROUP))
    known = np.empty(0, np.int8) if labels is None else read_kitsune_labels(labels, rejects)
    known = np.append(known, np.int8(-1))  # for the packets behind the last label
    of_flow: list[np.ndarray] = []
    for packets in read_kitsune_packets(path, rejects):
        at = np.minimum(view(packets["record"]).astype(np.int64), len(known) - 1)
        of_flow.append(np.stack([meter.update(packets), known[at]]))
    meter.finish()
    serials, label = np.concatenate([np.empty((2, 0), np.int64), *of_flow], axis=1)
    worst = np.full(int(serials.max(initial=-1)) + 1, -1)
    np.maximum.at(worst, serials, label)
    names = pa.array([NEGATIVE, POSITIVE, None], pa.string())
    while meter.finished:
        flows, numbers = meter.take_numbered()
        flows = with_nulls(flows, KITSUNE_UNKNOWN)
        codes = column(np.where(worst[numbers] < 0, 2, worst[numbers]), pa.int64())
        yield pa.RecordBatch.from_arrays(
            [*flows.columns, names.take(codes)], schema=with_published_labels(flows.schema, [KITSUNE_TASK])
        )


def _packets(file: PublishedFile, rows: TextRows, rejects: Rejects, clock_ns: int) -> pa.RecordBatch:
    """Returns the rows with a flow key as packets; the others are rejects.

    Args:
      clock_ns: the latest time of all packets before.
    """
    table = pl.DataFrame({name: pl.Series(rows.columns[name]) for name in _FIELDS})
    given = {name: (table[name] != "").to_numpy() for name in _FIELDS}
    ip, six = given["src_4"] | given["src_6"], given["src_6"]
    tcp, udp = given["tcp_src"] & ~given["icmp"], given["udp_src"] & ~given["icmp"]
    protocol = np.select([given["icmp"], tcp & ~udp, udp & ~tcp], [_ICMP, _TCP, _UDP], _NONE)
    of_protocol = [protocol == _TCP, protocol == _UDP]
    ports = {
        side: np.select(of_protocol, [_numbers(table, f"{kind}_{side}") for kind in ("tcp", "udp")])
        for side in ("src", "dst")
    }
    addresses = {side: _addresses(table[f"{side}_4"], table[f"{side}_6"]) for side in ("src", "dst")}
    length = _numbers(table, "length")
    timed = pc.match_substring_regex(rows.columns["time"], SECONDS).to_numpy(zero_copy_only=False)
    whole = timed & (length > _ETHERNET)
    for side in ("src", "dst"):
        whole &= (ports[side] >= 0) & (ports[side] < 1 << 16) & addresses[side][1]
    keyed = ip & (protocol != _NONE)
    rejects.add(file.uri, rows.positions[~ip], RejectReason.NO_FLOW_KEY, "no IP packet")
    other = "an IP packet, but neither TCP nor UDP nor ICMP"
    rejects.add(file.uri, rows.positions[ip & ~keyed], RejectReason.NO_FLOW_KEY, other)
    detail = "expected epoch seconds with up to 9 decimals, a frame length above 14, addresses and ports"
    rejects.add(file.uri, rows.positions[keyed & ~whole], RejectReason.BAD_ROW, detail)

    kept = np.flatnonzero(keyed & whole)
    values = {
        "record": rows.positions,
        "src_ip": addresses["src"][0],
        "dst_ip": addresses["dst"][0],
        "src_port": ports["src"],
        "dst_port": ports["dst"],
        "protocol": protocol,
        "ip_version": np.where(six, 6, 4),
        "wire_bytes": length,
        "ip_bytes": length - _ETHERNET,
        "payload_bytes": length - _ETHERNET,
    }
    values = {name: array[kept] for name, array in values.items()}
    values["time_ns"] = seconds_ns(rows.columns["time"].take(column(kept, pa.int64())))
    values["clock_ns"] = np.maximum.accumulate(np.maximum(values["time_ns"], clock_ns))
    arrays = []
    for field in PACKETS:
        array = values.get(field.name, np.zeros(len(kept), np.int64))
        arrays.append(column(array if field.type == ADDRESS else array.astype(integer_dtype(field.type)), field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=PACKETS)


def _numbers(table: pl.DataFrame, name: str) -> np.ndarray:
    """Returns a column as int64, -1 for cells without a number."""
    return table[name].cast(pl.UInt32, strict=False).cast(pl.Int64).fill_null(-1).to_numpy()


def _addresses(four: pl.Series, six: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Returns addresses as uint8 [rows, 16] in the form of `schemas.arrow.rows.ADDRESS`, and a mask of the valid ones.

    Only IPv6 addresses, which are few, are read one by one, and each distinct one once.
    """
    packed = np.zeros((len(four), 16), np.uint8)
    packed[:, 10:12] = 0xFF
    valid = (four.str.count_matches(".", literal=True) == 3).to_numpy()
    octets = four.str.split_exact(".", 3).struct.unnest()
    for at, name in enumerate(octets.columns):
        octet = octets[name].cast(pl.UInt8, strict=False)
        valid &= octet.is_not_null().to_numpy()
        packed[:, 12 + at] = octet.fill_null(0).to_numpy()
    for text in six.unique():
        if text:
            rows = (six == text).to_numpy()
            try:
                packed[rows] = np.frombuffer(ipaddress.IPv6Address(text).packed, np.uint8)
                valid[rows] = True
            except ValueError:
                valid[rows] = False
    return packed, valid


def _labels(file: PublishedFile, rows: TextRows, rejects: Rejects) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions and labels of rows, -1 for rows that have neither 0 nor 1."""
    line = pl.Series(rows.columns["line"]).str.split(",").list.last()
    labels = line.str.strip_chars('" \r').replace_strict({"0": 0, "1": 1}, default=-1, return_dtype=pl.Int8).to_numpy()
    rejects.add(file.uri, rows.positions[labels < 0], RejectReason.BAD_ROW, "expected a label, 0 or 1")
    return rows.positions, labels
