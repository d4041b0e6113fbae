"""Comparison of the pipeline with the reference meter, for any packets, definitions and cuts."""

import gzip
import itertools
from pathlib import Path

import pytest
from capture_files import ethernet, ipv4, pcap, tcp, udp
from cut_captures import GROUP, Cut, assert_equal, metered, metered_once
from hypothesis import given, settings
from hypothesis import strategies as st
from random_captures import OPTIONS, START, RandomGroup, associative_definitions, definitions, groups
from reference_meter import Metered, reference_meter

from flowloom.schemas.corpus.flow_definition import EndReason, FlowDefinition
from flowloom.transforms.captures import capture_window, records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures")


def write(group: RandomGroup, folder: Path, *, compressed: bool = False) -> tuple[list[str], list[list[int]]]:
    """Writes the files of a group; returns their paths and the offset after each header and record."""
    uris, edges = [], []
    for number, parts in enumerate(group.parts()):
        path = folder / f"{number}.capture"
        path.write_bytes(gzip.compress(b"".join(parts), 1) if compressed else b"".join(parts))
        uris.append(str(path))
        edges.append(list(itertools.accumulate(map(len, parts))))
    return uris, edges


def expected_of(group: RandomGroup, definition: FlowDefinition) -> Metered:
    files = [b"".join(parts) for parts in group.parts()]
    return reference_meter(files, definition, GROUP, range(len(files)))


def test_random_definitions_try_every_option():
    assert set(OPTIONS) == set(FlowDefinition.model_fields) - {"preset"}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(groups(), definitions, st.sampled_from([1, 2, 5, records.CHUNK_RECORDS]))
def test_a_group_that_is_read_in_one_piece(folder, group, definition, chunk_records):
    uris, _ = write(group, folder)
    one_piece = Cut([None] * len(uris), chunk_records)
    assert_equal(metered(uris, definition, one_piece), expected_of(group, definition))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(groups(most_files=2, most_packets=6), associative_definitions)
def test_a_group_that_is_cut_at_each_record_and_at_all_records(folder, group, definition):
    uris, edges = write(group, folder)
    expected = expected_of(group, definition)
    uncut = [[] for _ in edges]
    for number, boundaries in enumerate(edges):
        for boundary in boundaries:
            cut = Cut([*uncut[:number], [boundary], *uncut[number + 1 :]])
            assert_equal(metered(uris, definition, cut), expected)
    assert_equal(metered(uris, definition, Cut(edges)), expected)
    assert_equal(metered(uris, definition, Cut([None, *edges[1:]])), expected)


byte_edges = st.none() | st.lists(st.integers(0, 2000), max_size=5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(groups(), associative_definitions, st.lists(byte_edges, min_size=3, max_size=3), st.sampled_from([1, 2, 7]))
def test_a_group_that_is_cut_at_any_bytes(folder, group, definition, edges, chunk_records):
    uris, _ = write(group, folder)
    cut = Cut(edges[: len(uris)], chunk_records)
    assert_equal(metered(uris, definition, cut), expected_of(group, definition))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(groups(), definitions, st.sampled_from([40, 300, 3000]))
def test_compressed_captures_that_are_streamed_in_small_windows(folder, group, definition, window_bytes):
    uris, _ = write(group, folder, compressed=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture_window, "READ_BYTES", window_bytes)
        patch.setattr(capture_window, "_PIECE_BYTES", window_bytes)
        found = metered(uris, definition, Cut([None] * len(uris)))
    assert_equal(found, expected_of(group, definition))


SEGMENTS = {
    "SYN": (0x02, 0, 0),
    "another SYN": (0x02, 0, 1),
    "SYN-ACK": (0x12, 0, 0),
    "ACK": (0x10, 0, 0),
    "data": (0x18, 9, 0),
    "FIN": (0x11, 0, 0),
    "FIN with data": (0x11, 9, 0),
    "RST": (0x14, 0, 0),
}
"""Flags, payload and sequence number."""


@pytest.mark.parametrize("orient", ["first-packet", "syn", "client"])
@pytest.mark.parametrize("tcp_close", ["none", "lifecycle", "fin"])
def test_any_three_segments_in_any_directions(folder, tcp_close, orient):
    turns = list(itertools.product(SEGMENTS.values(), [False, True]))
    scripts = list(itertools.product(turns[::2], turns, turns))
    frames = []
    for number, segments in enumerate(zip(*scripts, strict=True)):
        for connection, ((flags, payload, seq), answers) in enumerate(segments):
            ends, hosts = (1 + connection, 80), ("10.0.0.1", "10.0.0.2")
            ends, hosts = (ends[::-1], hosts[::-1]) if answers else (ends, hosts)
            segment = tcp(bytes(payload), *ends, flags, seq, ack=1)  # answers the SYN of number 0
            frames.append((START + number, ethernet(ipv4(segment, *hosts))))
    path = folder / "0.capture"
    path.write_bytes(pcap(frames))
    definition = FlowDefinition.of(tcp_close=tcp_close, orient=orient, k=2)
    expected = reference_meter([path.read_bytes()], definition, GROUP)
    third = path.stat().st_size // 3
    for edges in ([], [third, 2 * third]):
        assert_equal(metered([str(path)], definition, Cut([edges])), expected)


@pytest.mark.parametrize("chunk_records", [1, 49, 50, records.CHUNK_RECORDS])
def test_a_chunk_that_begins_with_a_later_fragment_and_ends_much_later(folder, chunk_records):
    """The chunk has so many first fragments that the table drops those that waited too long."""
    piece = {"protocol": 17, "fragment": 0x2000}
    first, later = ipv4(udp(bytes(16)), **piece), ipv4(bytes(8), protocol=17, fragment=3)
    others = [ipv4(udp(bytes(16)), **piece, ip_id=1 + number) for number in range(40)]
    packets = [(START, ipv4(udp(), protocol=17))] * 49 + [(START, first), (START + 1_000_000, later)]
    packets += [(START + 40_000_000_000, other) for other in others]
    path = folder / "0.capture"
    path.write_bytes(pcap([(time_ns, ethernet(packet)) for time_ns, packet in packets]))
    found = metered([str(path)], FlowDefinition.of(), Cut([None], chunk_records))
    assert found.captures[0].dropped == {}
    assert_equal(found, reference_meter([path.read_bytes()], FlowDefinition.of(), GROUP))


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("first", "between", "later", "chunk_records"),
    [(0, [31], 28, 1), (0, [31], 28, 50), (0, [40] * 40, 10, 1), (0, [], 30, 1), (5, [0], 35, 2), (0, [29], 1, 1)],
)
def test_first_fragments_wait_by_the_clock_though_times_run_backwards(folder, first, between, later, chunk_records):
    """A packet between moves the clock; the range that has the later fragment may not know that packet."""
    piece = {"protocol": 17, "fragment": 0x2000}
    packets = [(first, ipv4(udp(bytes(16)), **piece))]
    packets += [(second, ipv4(udp(bytes(16)), **piece, ip_id=9 + at)) for at, second in enumerate(between)]
    packets.append((later, ipv4(bytes(8), protocol=17, fragment=3)))
    frames = [(START + second * SECOND, ethernet(packet)) for second, packet in packets]
    path = folder / "0.capture"
    path.write_bytes(pcap(frames))
    expected = reference_meter([path.read_bytes()], FlowDefinition.of(), GROUP)
    length = 16 + len(frames[0][1])
    for edges in (None, [], [24 + length], [24 + length * len(frames[:-1])], [24 + length * at for at in range(50)]):
        assert_equal(metered([str(path)], FlowDefinition.of(), Cut([edges], chunk_records)), expected)
    uris = []
    for number, frame in enumerate(frames):
        uris.append(str(folder / f"{number}.capture"))
        Path(uris[-1]).write_bytes(pcap([frame]))
    expected = reference_meter([Path(uri).read_bytes() for uri in uris], FlowDefinition.of(), GROUP, range(len(uris)))
    for edges in ([None] * len(uris), [[]] * len(uris), [None, *[[]] * (len(uris) - 1)]):
        assert_equal(metered(uris, FlowDefinition.of(), Cut(edges)), expected)


@pytest.mark.parametrize("definition", [FlowDefinition.of(), FlowDefinition.of(active_s=600.0)])
def test_a_record_without_a_packet_moves_the_clock(folder, definition):
    """A later ARP frame ends what is idle by then, in ranges and in the whole."""
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    packet = ethernet(ipv4(udp(bytes(16)), protocol=17))
    frames = [(START + at * SECOND, frame) for at, frame in ((0, packet), (130, arp), (100, packet), (101, packet))]
    path = folder / "0.capture"
    path.write_bytes(pcap(frames))
    expected = reference_meter([path.read_bytes()], definition, GROUP)
    assert sorted(flow["packets_fwd"] for flow in expected.flows) == [1, 2]
    ends = list(itertools.accumulate([24, *(16 + len(frame) for _, frame in frames)]))
    for edges in (None, [], *([end] for end in ends), ends):
        assert_equal(metered([str(path)], definition, Cut([edges], 1)), expected)


TIMES: dict[str, tuple[list[int], list[int], int, int]] = {
    "one in the year 2106": ([0, 1, 2_500_000_000, 2, 3, 200, 201], [2, 5], 1, 1),
    "one as the last record": ([0, 1, 2_500_000_000], [1, 2], 0, 0),
    "the first without a clock": ([-1_000_000_000, 0, 1, 200], [1, 1, 2], 0, 0),
    "17 in a row": ([0, *[1000] * 17, 1, 2], [1, 19], 1, 1),
    "16 in a row": ([0, *[1000] * 16, 1, 2], [1, 18], 1, 1),
    "the second half first": ([1000, 1001, 1002, 0, 1, 2], [6], 1, 1),
    "a clock that was set back by less than the timeout": ([0, 100, 1, 2], [4], 0, 0),
}
"""By name: seconds of packets of one flow, packets of the flows, clock jumps and steps back."""


@pytest.mark.parametrize("name", TIMES)
def test_times_that_the_records_behind_contradict(folder, name):
    seconds, sizes, jumps, back = TIMES[name]
    packet = ethernet(ipv4(udp(bytes(16)), protocol=17))
    path = folder / "0.capture"
    path.write_bytes(pcap([(START + at * SECOND, packet) for at in seconds]))
    expected = reference_meter([path.read_bytes()], FlowDefinition.of(), GROUP)
    assert sorted(flow["packets_fwd"] for flow in expected.flows) == sizes
    assert (expected.captures[0].clock_jumps, expected.captures[0].steps_back) == (jumps, back)
    ends = [24 + (16 + len(packet)) * number for number in range(len(seconds) + 1)]
    for edges in (None, [], *([end] for end in ends), ends):
        for chunk_records in (1, 3, records.CHUNK_RECORDS):
            assert_equal(metered([str(path)], FlowDefinition.of(), Cut([edges], chunk_records)), expected)


@pytest.mark.parametrize("tcp_close", ["none", "lifecycle", "fin"])
def test_flows_that_begin_at_one_time_have_different_ids(folder, tcp_close):
    """SYN 1, 2, 1, then FIN, SYN 1 and data, all of one key in one nanosecond."""
    segments = [(2, 0, 1), (2, 0, 2), (2, 0, 1), (0x11, 0, 3), (2, 0, 1), (0x18, 9, 5)]
    frames = [ethernet(ipv4(tcp(bytes(size), 1, 80, flags, seq))) for flags, size, seq in segments]
    path = folder / "0.capture"
    path.write_bytes(pcap([(START, frame) for frame in frames]))
    definition = FlowDefinition.of(tcp_close=tcp_close)
    found = metered([str(path)], definition, Cut([[]]))
    assert_equal(found, reference_meter([path.read_bytes()], definition, GROUP))
    ids = [flow["flow_id"] for flow in found.flows]
    assert len(set(ids)) == len(ids) == {"none": 1, "lifecycle": 3, "fin": 2}[tcp_close]


CLIENT, SERVER = True, False
SYN, SYN_ACK, ACK, DATA, FIN = 0x02, 0x12, 0x10, 0x18, 0x11
CONNECTIONS: dict[str, tuple[str, list[tuple[bool, int, int, int]], int]] = {
    "SYN-ACK before its SYN": ("lifecycle", [(SERVER, SYN_ACK, 70, 6), (CLIENT, SYN, 5, 0), (CLIENT, ACK, 6, 71)], 1),
    "SYN-ACK before another SYN": ("lifecycle", [(SERVER, SYN_ACK, 70, 6), (CLIENT, SYN, 4, 0)], 2),
    "data before the SYN": ("lifecycle", [(SERVER, DATA, 70, 6), (CLIENT, SYN, 5, 0)], 2),
    "simultaneous open": (
        "lifecycle",
        [
            (CLIENT, SYN, 5, 0), (SERVER, SYN, 70, 0), (CLIENT, SYN, 5, 0), (CLIENT, SYN_ACK, 5, 71),
            (CLIENT, ACK, 6, 71),
        ],
        1,
    ),
    "SYN of the other side after data": (
        "lifecycle", [(CLIENT, SYN, 5, 0), (CLIENT, DATA, 6, 0), (SERVER, SYN, 7, 0)], 2
    ),
    "data again after FIN": ("fin", [(CLIENT, DATA, 5, 0), (CLIENT, FIN, 14, 0), (CLIENT, DATA, 5, 0)], 1),
    "data of the other side after FIN": ("fin", [(CLIENT, FIN, 14, 0), (SERVER, DATA, 70, 15)], 2),
    "data of both sides after both FINs": (
        "fin", [(CLIENT, FIN, 14, 0), (SERVER, FIN, 70, 15), (SERVER, DATA, 61, 15), (CLIENT, DATA, 5, 0)], 1
    ),
    "SYN after FIN": ("fin", [(CLIENT, FIN, 14, 0), (CLIENT, SYN, 99, 0)], 2),
}  # fmt: skip
"""By name: `tcp_close`, the segments (sender, flags, sequence number, acknowledgement), and the number of flows."""


@pytest.mark.parametrize("name", CONNECTIONS)
def test_segments_in_unusual_order(folder, name):
    tcp_close, segments, flows = CONNECTIONS[name]
    ends, hosts = (1234, 80), ("10.0.0.1", "10.0.0.2")
    frames = []
    for number, (client, flags, seq, ack) in enumerate(segments):
        turn = slice(None, None, 1 if client else -1)
        segment = tcp(bytes(9 if flags == DATA else 0), *ends[turn], flags, seq, ack=ack)
        frames.append((START + number, ethernet(ipv4(segment, *hosts[turn]))))
    path = folder / "0.capture"
    path.write_bytes(pcap(frames))
    definition = FlowDefinition.of(tcp_close=tcp_close)
    expected = reference_meter([path.read_bytes()], definition, GROUP)
    assert len(expected.flows) == flows
    ends = list(itertools.accumulate([24, *(16 + len(frame) for _, frame in frames)]))
    for edges in (None, [], *([end] for end in ends), ends):
        assert_equal(metered([str(path)], definition, Cut([edges])), expected)


def test_a_flow_starts_at_its_earliest_time(folder):
    """The second packet is 10 ms earlier than the first."""
    packet = ethernet(ipv4(udp(bytes(16)), protocol=17))
    path = folder / "0.capture"
    path.write_bytes(pcap([(START + 10_000_000, packet), (START, packet)]))
    for edges in (None, [], [24 + 16 + len(packet)]):
        (flow,) = metered([str(path)], FlowDefinition.of(), Cut([edges])).flows
        assert (flow["start"], flow["duration_ns"], flow["out_of_order"]) == (START, 10_000_000, 1)
        assert flow["pkt_gap_ns"] == [0, 0]


@pytest.mark.parametrize("max_open_flows", [1, 7, 8, 100, 400])
@pytest.mark.parametrize("preset", ["default", "packet-windows"])
def test_more_flows_than_may_be_open(folder, preset, max_open_flows):
    """A scan of 1,000 hosts beside 7 busy ones: the longest idle flows end, and no packet is lost."""
    frames = []
    for number in range(1_000):
        frames.append((number, ethernet(ipv4(udp(bytes(8)), f"10.1.{number // 250}.{number % 250}", protocol=17))))
        frames.append((number, ethernet(ipv4(udp(bytes(8)), f"10.2.0.{number % 7}", protocol=17))))
    path = folder / "0.capture"
    path.write_bytes(pcap([(START + number * 1_000_000, frame) for number, frame in frames]))
    definition = FlowDefinition.of(preset, max_open_flows=max_open_flows, k=3)
    expected = reference_meter([path.read_bytes()], definition, GROUP)
    edges = [10_000, 50_000]
    for cut in (Cut([None]), Cut([[]], 7), Cut([edges])):
        assert_equal(metered([str(path)], definition, cut), expected)
    if preset == "default":
        early = sum(flow["end_reason"] == EndReason.LACK_OF_RESOURCES for flow in expected.flows)
        once, _ = metered_once([str(path)], definition, Cut([None]))
        assert early >= 1_000 - max_open_flows
        assert metered_once([str(path)], definition, Cut([edges]))[1] == [GROUP]
        assert len(once.flows) == len(expected.flows)


REAL_CAPTURES = (
    "dns_doh.pcap", "dnscrypt-v1-and-resolver-pings.pcap", "sip.pcap", "skype.pcap", "reasm_crash_anon.pcapng",
)  # fmt: skip


@pytest.mark.parametrize("definition", [FlowDefinition.of(k=20), FlowDefinition.of("nfstream", k=10)])
@pytest.mark.parametrize("name", REAL_CAPTURES)
def test_real_captures(real_data, name, definition):
    path = real_data / "nfstream-tests/pcaps" / name
    found = metered([str(path)], definition, Cut([[10_000, 20_000]], 100))
    assert_equal(found, reference_meter([path.read_bytes()], definition, GROUP))


@pytest.mark.slow
@settings(max_examples=1200, deadline=None, derandomize=True)
@given(
    groups(4, 40), associative_definitions, st.lists(byte_edges, min_size=4, max_size=4),
    st.sampled_from([1, 3, records.CHUNK_RECORDS]),
)  # fmt: skip
def test_many_large_groups_that_are_cut_at_any_bytes(folder, group, definition, edges, chunk_records):
    uris, _ = write(group, folder)
    cut = Cut(edges[: len(uris)], chunk_records)
    assert_equal(metered(uris, definition, cut), expected_of(group, definition))
