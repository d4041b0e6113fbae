"""A deterministic generator of synthetic captures: any size, vectorised, for throughput and memory, never for accuracy.

Flow lengths are log-normal (sigma 1) with a stated mean, at least 2 packets; gaps inside a flow are exponential; flows
begin uniformly over their block of packets. Four flows of five are TCP with handshake and FINs, the others UDP. Blocks
follow one another in time and no flow crosses two of them, so the block size bounds the number of open flows.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

_HEADERS = 54  # Ethernet, IPv4, TCP; UDP uses 12 bytes less
_SYN, _SYN_ACK, _ACK, _FIN_ACK = 0x02, 0x12, 0x10, 0x11


@dataclasses.dataclass(frozen=True)
class SyntheticCapture:
    """Size of a synthetic capture: counts of packets, mean packets per flow, bytes captured per packet."""

    packets: int
    packets_per_flow: float = 25.0
    captured_bytes: int = 384
    block_packets: int = 1_000_000
    seconds_per_block: float = 60.0
    seed: int = 7

    def __post_init__(self) -> None:
        if self.captured_bytes < _HEADERS:
            raise ValueError(f"captured_bytes must be >= {_HEADERS}, got {self.captured_bytes}")

    def write(self, path: Path) -> None:
        """Writes a nanosecond pcap file."""
        with path.open("wb") as file:
            header = np.array([0xA1B23C4D, 0x00040002, 0, 0, self.captured_bytes, 1], "<u4")
            file.write(header.tobytes())
            left, block = self.packets, 0
            while left > 0:
                wanted = min(left, self.block_packets)
                for rows in self._block(block, wanted):
                    file.write(rows.tobytes())
                left, block = left - wanted, block + 1

    def _block(self, block: int, packets: int):
        rng = np.random.default_rng([self.seed, block])
        flows = max(int(packets / self.packets_per_flow * 1.5), 8)
        lengths = np.maximum(2, rng.lognormal(np.log(self.packets_per_flow) - 0.5, 1.0, flows).astype(np.int64))
        while lengths.sum() < packets:
            lengths = np.concatenate([lengths, lengths])
        flows = int(np.searchsorted(np.cumsum(lengths), packets)) + 1
        lengths = lengths[:flows]
        lengths[-1] -= lengths.sum() - packets
        flow = np.repeat(np.arange(flows), lengths)
        first = np.repeat(np.cumsum(lengths) - lengths, lengths)
        index = np.arange(packets) - first
        gaps = rng.exponential(2e6, packets)
        elapsed = np.cumsum(gaps)
        start = rng.uniform(0, self.seconds_per_block * 1e9, flows)
        time_ns = (start[flow] + elapsed - elapsed[first]).astype(np.int64)
        time_ns += 1_700_000_000_000_000_000 + int(block * self.seconds_per_block * 1e9)
        tcp = rng.random(flows) < 0.8
        fields = {
            "client": rng.integers(0, 1 << 24, flows, np.uint32) | np.uint32(10 << 24),
            "server": rng.integers(0, 1 << 16, flows, np.uint32) | np.uint32((192 << 24) | (168 << 16)),
            "port": rng.integers(1024, 65536, flows, np.uint32),
            "service": rng.choice(np.array([443, 80, 53, 22, 5060], np.uint32), flows),
            "isn": rng.integers(0, 1 << 32, flows, np.uint32),
        }
        size = np.where(rng.random(packets) < 0.5, 60, 1500).astype(np.uint32)
        forward = np.where(index < 2, index == 0, rng.random(packets) < 0.5)
        order = np.argsort(time_ns, kind="stable")
        for chunk in np.array_split(order, max(1, packets // 50_000)):
            yield self._rows(chunk, time_ns, flow, index, lengths, tcp, fields, size, forward)

    def _rows(self, chunk, time_ns, flow, index, lengths, tcp, fields, size, forward) -> np.ndarray:
        """Returns the records of a chunk as bytes [packets, 16 + captured_bytes]."""
        n = len(chunk)
        rows = np.zeros((n, 16 + self.captured_bytes), np.uint8)
        own = flow[chunk]
        ahead = forward[chunk]
        is_tcp = tcp[own]

        def put(at: int, values: np.ndarray, kind: str) -> None:
            rows[:, at : at + np.dtype(kind).itemsize] = values.astype(kind).view(np.uint8).reshape(n, -1)

        put(0, time_ns[chunk] // 1_000_000_000, "<u4")
        put(4, time_ns[chunk] % 1_000_000_000, "<u4")
        put(8, np.full(n, self.captured_bytes), "<u4")
        # what is captured of a small packet beyond its end is the frame's padding
        put(12, np.maximum(size[chunk] + 14, self.captured_bytes), "<u4")
        put(28, np.full(n, 0x0800), ">u2")
        rows[:, 30] = 0x45
        put(32, size[chunk], ">u2")
        put(34, index[chunk], ">u2")
        rows[:, 38] = 64
        rows[:, 39] = np.where(is_tcp, 6, 17)
        client, server = fields["client"][own], fields["server"][own]
        port, service = fields["port"][own], fields["service"][own]
        put(42, np.where(ahead, client, server), ">u4")
        put(46, np.where(ahead, server, client), ">u4")
        put(50, np.where(ahead, port, service), ">u2")
        put(52, np.where(ahead, service, port), ">u2")
        position = index[chunk]
        flags = np.select(
            [position == 0, position == 1, position >= lengths[own] - 2], [_SYN, _SYN_ACK, _FIN_ACK], default=_ACK
        )
        put(54, np.where(is_tcp, fields["isn"][own] + position.astype(np.uint32), (size[chunk] - 20) << 16), ">u4")
        rows[:, 62] = np.where(is_tcp, 0x50, 0)
        rows[:, 63] = np.where(is_tcp, flags, 0)
        put(64, np.where(is_tcp, 64_240, 0), ">u2")
        return rows


def main() -> None:
    """Writes one synthetic capture from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    for field in dataclasses.fields(SyntheticCapture):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=field.type,
            default=1_000_000 if field.name == "packets" else field.default,
        )
    arguments = vars(parser.parse_args())
    path = arguments.pop("path")
    SyntheticCapture(**arguments).write(path)


if __name__ == "__main__":
    main()
