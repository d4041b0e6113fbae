"""Behaviour signatures: what a case made the pipeline do, as the fuzzer's measure of coverage.

Compiled kernels report no covered lines, and some of their steps cannot run interpreted. So coverage is observed at the
outputs: reject and drop reasons, formats, link types, protocols, end reasons, disorder, depth of headers, counts in
powers of two, and their combinations. A case that shows a new name is kept and mutated further.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.transforms.arrays.columns import view

FLOW_COLUMNS = ("protocol", "end_reason", "ip_version")
PACKET_COLUMNS = ("protocol", "ip_version", "tcp_flags")


def bucket(number: int) -> int:
    """Returns the number of bits of a count, so that counts group in powers of two."""
    return min(int(number).bit_length(), 6)


def features_of(whole: Any, split: Any) -> frozenset[str]:
    """Returns the names of the behaviours of a case that was read in one piece and in ranges."""
    found: set[str] = set()
    for row, _ in whole.accounts:
        _add_account(found, row)
    found.update(f"reject {reason} {'start' if at <= 24 else bucket(at % 64)}" for _, at, reason in whole.rejects)
    _add_packets(found, whole.decoded)
    _add_flows(found, whole.flows)
    found.update(f"view {number} {bucket(count)}" for number, count in enumerate(whole.dropped) if count)
    found.add(f"rows {bucket(whole.packets.num_rows)}")
    found.add(f"ranges {bucket(split.tasks)} fragments {bucket(split.fragments)}")
    found.add(f"short {bucket(whole.short)}")
    return frozenset(found)


def _add_account(found: set[str], row: dict) -> None:
    drops = [reason for reason in DropReason if row[reason.column]]
    kind = row["format"]
    found.add(f"{kind} records {bucket(row['records'])} {row['compression']}")
    for link in row["link_types"]:
        found.add(f"{kind} link {link if link < 300 else 'other'}")
        found.update(f"link {link if link < 300 else 'other'} drops {int(reason)}" for reason in drops)
    found.update(f"drop {int(reason)} {bucket(row[reason.column])}" for reason in drops)
    if len(drops) > 1:
        found.add(f"drops {','.join(str(int(reason)) for reason in drops)}")


def _add_packets(found: set[str], decoded: list[pa.RecordBatch]) -> None:
    for packets in decoded:
        if not packets.num_rows:
            continue
        columns = {name: view(packets[name]).astype(np.int64) for name in (
            "protocol", "ip_version", "vlan", "tunnel_id", "wire_bytes", "ip_bytes", "payload_bytes", "src_port",
            "dst_port", "tcp_flags", "ip_id",
        )}  # fmt: skip
        depth = np.clip((columns["wire_bytes"] - columns["ip_bytes"]) // 20, -2, 12)
        code = columns["protocol"] * 2 + (columns["ip_version"] == 6)
        code = code * 8 + (columns["vlan"] > 0) * 4 + (columns["tunnel_id"] > 0) * 2 + (columns["payload_bytes"] > 0)
        found.update(f"packet {value}" for value in set(code.tolist()))
        found.update(f"depth {value}" for value in set((depth * 256 + columns["protocol"]).tolist()))
        found.update(f"flags {value}" for value in set(columns["tcp_flags"].tolist()))
        ports = np.minimum(columns["src_port"], columns["dst_port"])
        known = (ports * 256 + columns["protocol"])[ports < 4800]
        found.update(f"port {value}" for value in set(known.tolist()))


def _add_flows(found: set[str], flows: pa.Table) -> None:
    for batch in flows.to_batches():
        if not batch.num_rows:
            continue
        protocol, reason, version = (view(batch[name]).tolist() for name in FLOW_COLUMNS)
        forward, backward = (view(batch[name]).tolist() for name in ("packets_fwd", "packets_bwd"))
        late, twice = (view(batch[name]).tolist() for name in ("out_of_order", "duplicates"))
        for each in zip(protocol, reason, version, forward, backward, late, twice, strict=True):
            found.add(f"flow {each[0]} {each[1]} {each[2]}")
            found.add(f"flow {each[1]} {bucket(each[3])} {bucket(each[4])} {each[5] > 0} {each[6] > 0}")
