"""Writer of large captures from a few numbers, by NumPy columns and without a Python step a packet."""

import dataclasses
import struct
from pathlib import Path

import numpy as np

START_S = 1_700_000_000
ACK, SYN = 0x10, 0x02
WRITTEN = 1 << 19
"""Packets that are made at a time."""

RECORD = np.dtype(
    [
        ("seconds", "<u4"),
        ("nanoseconds", "<u4"),
        ("captured", "<u4"),
        ("wire", "<u4"),
        ("macs", "V12"),
        ("ether_type", ">u2"),
        ("version", "u1"),
        ("tos", "u1"),
        ("ip_bytes", ">u2"),
        ("ip_id", ">u2"),
        ("fragment", ">u2"),
        ("ttl", "u1"),
        ("protocol", "u1"),
        ("checksum", ">u2"),
        ("src_ip", ">u4"),
        ("dst_ip", ">u4"),
        ("src_port", ">u2"),
        ("dst_port", ">u2"),
        ("seq", ">u4"),
        ("ack", ">u4"),
        ("offset", "u1"),
        ("flags", "u1"),
        ("window", ">u2"),
        ("tcp_checksum", ">u2"),
        ("urgent", ">u2"),
        ("payload", "V6"),
    ]
)
"""One pcap record of a TCP segment with six bytes of payload, 76 bytes in all."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Traffic whose flows are known before it is metered.

    Attributes:
      packets, files: numbers of both; every file has as many packets, but for the last.
      flows: number of flows; all packets of a flow are in one turn.
      at_once: flows of a turn, which send one packet each in their order until the turn is over.
      gap_ns: time between two packets.
      flags: TCP flags of all packets.
    """

    packets: int
    files: int
    flows: int
    at_once: int
    gap_ns: int
    flags: int = ACK

    def __post_init__(self) -> None:
        if self.flows % self.at_once or self.packets < self.flows:
            raise ValueError(
                f"flows must be a multiple of at_once and at most packets, got {self.flows} flows, {self.at_once} at "
                f"once and {self.packets} packets; choose another number"
            )

    def flow_of(self, number: np.ndarray) -> np.ndarray:
        """Returns the flow of each packet; every flow of a turn has a packet in each round of it."""
        turns = self.flows // self.at_once
        turn = np.minimum(number * turns // self.packets, turns - 1)
        first = -(-turn * self.packets // turns)
        return turn * self.at_once + (number - first) % self.at_once

    def write(self, folder: Path) -> list[Path]:
        """Writes the files into a folder and returns their paths."""
        folder.mkdir(parents=True)
        each = -(-self.packets // self.files)
        paths = []
        for file in range(self.files):
            paths.append(folder / f"made-{file:03}.pcap")
            with paths[-1].open("wb") as stream:
                stream.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1))
                for begin in range(file * each, min((file + 1) * each, self.packets), WRITTEN):
                    end = min(begin + WRITTEN, (file + 1) * each, self.packets)
                    self.records(np.arange(begin, end, dtype=np.int64)).tofile(stream)
        return paths

    def records(self, number: np.ndarray) -> np.ndarray:
        """Returns the records of packets by their numbers."""
        flow, time_ns = self.flow_of(number), number * self.gap_ns
        records = np.zeros(len(number), RECORD)
        records["seconds"], records["nanoseconds"] = START_S + time_ns // 10**9, time_ns % 10**9
        records["captured"] = records["wire"] = RECORD.itemsize - 16
        records["ether_type"], records["version"], records["ip_bytes"] = 0x0800, 0x45, RECORD.itemsize - 30
        records["ip_id"], records["ttl"], records["protocol"] = number & 0xFFFF, 64, 6
        records["src_ip"], records["dst_ip"] = 0x0A000000 + flow // 50_000, 0xC0A80001
        records["src_port"], records["dst_port"] = 1024 + flow % 50_000, 443
        records["seq"] = number & 0xFFFFFFFF
        records["offset"], records["flags"], records["window"] = 0x50, self.flags, 1000
        return records
