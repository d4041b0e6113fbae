"""Synthetic flows: valid `FLOWS` batches from a seed, without a capture."""

import hashlib

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOWS, LATER_COLUMNS, SEQUENCES
from flowloom.transforms.arrays.columns import column, list_column

START_NS = 1_700_000_000_000_000_000


def synthetic_flows(rows: int, seed: int = 0, group: str = "00c0ffee00c0ffee", k: int = 60) -> pa.RecordBatch:
    """Returns `rows` flows of one group with 1 to k packets each; the same arguments give the same bytes."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed} {group}".encode()).digest()[:8], "little"))
    heads = np.minimum(rng.geometric(0.08, rows), k).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(heads)]).astype(np.int32)
    packets = int(offsets[-1])
    addresses = np.zeros((rows, 2, 16), np.uint8)
    addresses[:, :, 10:12] = 0xFF
    addresses[:, :, 12:] = rng.integers(0, 256, (rows, 2, 4))
    gaps = rng.exponential(5e6, packets).astype(np.int64)
    gaps[offsets[:-1]] = 0
    sequences = {
        "pkt_size": rng.integers(20, 1500, packets).astype(np.uint16),
        "pkt_dir": rng.choice(np.array([1, -1], np.int8), packets),
        "pkt_gap_ns": gaps,
        "pkt_tcp_flags": rng.integers(0, 64, packets).astype(np.uint8),
        "pkt_tcp_window": rng.integers(0, 65_536, packets).astype(np.uint16),
        "pkt_ttl": rng.choice(np.array([52, 64, 128], np.uint8), packets),
        "pkt_payload": rng.integers(0, 1460, packets).astype(np.uint16),
    }
    scalars: dict[str, np.ndarray] = {
        "flow_id": rng.integers(0, 256, (rows, 16), dtype=np.uint8),
        "start": START_NS + rng.integers(0, 3_600_000_000_000, rows),
        "duration_ns": np.add.reduceat(gaps, offsets[:-1]) if rows else np.empty(0, np.int64),
        "ip_version": np.full(rows, 4, np.uint8),
        "protocol": rng.choice(np.array([6, 17], np.uint8), rows),
        "src_ip": addresses[:, 0],
        "dst_ip": addresses[:, 1],
        "src_port": rng.integers(1024, 65_536, rows).astype(np.uint16),
        "dst_port": rng.choice(np.array([53, 80, 443], np.uint16), rows),
        "vlan": np.zeros(rows, np.uint16),
        "tunnel_id": np.zeros(rows, np.uint32),
        "packets_fwd": heads.astype(np.uint64),
        "packets_bwd": np.zeros(rows, np.uint64),
        "bytes_fwd": heads.astype(np.uint64) * 700,
        "bytes_bwd": np.zeros(rows, np.uint64),
        "end_reason": rng.choice(np.array([1, 3, 4], np.uint8), rows),
        "out_of_order": np.zeros(rows, np.uint64),
        "duplicates": np.zeros(rows, np.uint64),
    }
    columns = {
        "group": pa.array([group] * rows, pa.string()),
        **{name: column(values, FLOWS.field(name).type) for name, values in scalars.items()},
        **{name: pa.nulls(rows, FLOWS.field(name).type) for name in LATER_COLUMNS},
        **{name: list_column(offsets, sequences[name], FLOWS.field(name).type) for name in SEQUENCES},
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in FLOWS.names], schema=FLOWS)
