"""Rotated captures: names that tcpdump and Wireshark write have one stem, others do not."""

import pytest

from flowloom.transforms.io.rotation import rotation_stem

TOGETHER = {
    "tcpdump -C": ["d/trace.pcap", "d/trace.pcap1", "d/trace.pcap12"],
    "tcpdump -C -W": ["trace.pcap00", "trace.pcap01", "trace.pcap10"],
    "tcpdump -G": ["if0-20260131-235900.pcap", "if0-20260201-000000.pcap"],
    "tcpdump -G with dashes": ["if0_2026-01-31_23:59:00.pcap.gz", "if0_2026-02-01_00:00:00.pcap.gz"],
    "tcpdump -G in seconds": ["if0.1769903940.pcap", "if0.1769904000.pcap"],
    "tcpdump -G -C": ["if0-20260131235900.pcap", "if0-20260131235900.pcap1", "if0-20260201000000.pcap"],
    "Wireshark": ["t_00001_20260131235959.pcapng", "t_00002_20260201000101.pcapng"],
    "counter": ["part-001.pcap.zst", "part-002.pcap.zst"],
    "no ending": ["trace", "trace1", "trace22"],
}


@pytest.mark.parametrize("names", TOGETHER.values(), ids=TOGETHER)
def test_files_of_one_rotation_have_one_stem(names):
    assert len({rotation_stem(name) for name in names}) == 1


def test_other_files_keep_apart():
    others = ["host10-trace.pcap", "host11-trace.pcap", "a/trace.pcap", "b/trace.pcap", "b/trace.pcapng", "trace.bak"]
    assert len({rotation_stem(name) for name in others}) == len(others)
