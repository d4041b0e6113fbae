"""The packets view on a synthetic capture, one core: from the mapped file to rows of 1,500 bytes, before Parquet."""

import statistics
import time

from generator import SyntheticCapture
from measure import report, workplace

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.formats import open_records
from flowloom.transforms.flows.meter import FlowMeter
from flowloom.transforms.packets.byte_rows import no_drops, packet_rows
from flowloom.transforms.packets.decoder import PacketDecoder
from flowloom.transforms.packets.ip_fragments import IpFragmentTable

PACKETS, ROUNDS = 1_000_000, 5


def passed(path: str, packet_view: PacketView | None) -> tuple[float, int]:
    """Returns the processor seconds of one pass and its rows; without a view it meters only."""
    begun = time.process_time()
    capture = CaptureBytes(path)
    scanner, decoder, dropped = open_records(capture), PacketDecoder(IpFragmentTable()), no_drops()
    meter = FlowMeter(FlowDefinition(k=60), "00c0ffee00c0ffee")
    rows = 0
    while len(records := scanner.scan()):
        packets, places = decoder.decode_located(records)
        serials = meter.update(packets)
        if packet_view is not None:
            rows += sum(batch.num_rows for batch in packet_rows(packets, places, serials, packet_view, dropped))
    capture.close()
    return time.process_time() - begun, rows


def main() -> None:
    """Prints packets per processor second of the whole pass with metering, and nanoseconds a packet the view adds."""
    with workplace() as folder:
        path = folder / "c.pcap"
        SyntheticCapture(PACKETS, captured_bytes=1514).write(path)
        for preset in ("paper", "strict"):
            passed(str(path), PacketView(preset=preset))
            runs = [(passed(str(path), None), passed(str(path), PacketView(preset=preset))) for _ in range(ROUNDS)]
            alone = statistics.median(seconds for (seconds, _), _ in runs)
            both, rows = statistics.median(seconds for _, (seconds, _) in runs), runs[0][1][1]
            report(
                "packet view",
                capture="synthetic",
                preset=preset,
                packets=PACKETS,
                rows=rows,
                packets_per_s=PACKETS / both,
                gigabytes_per_s=rows * 1500 / both / 1e9,
                ns_per_packet=both / PACKETS * 1e9,
                ns_per_row_added=(both - alone) / rows * 1e9,
            )


if __name__ == "__main__":
    main()
