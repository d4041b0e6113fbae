"""Build estimates: their bounds, their growth with workers, and the pieces that a build would read."""

import dataclasses

import hypothesis.strategies as st
import pytest
from capture_files import ethernet, ipv4, pcap, udp
from hypothesis import given

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.groups import CaptureGroup, identify_capture
from flowloom.transforms.metering.build_estimate import STORED, estimate_build, work_pieces

MB = 1 << 20
pieces = st.lists(st.integers(1, 4_000 * MB), min_size=1, max_size=30)


def estimate(sizes, workers=1, cores=2, shards=8, rates=STORED):
    return estimate_build(sizes, len(sizes), rates, workers, cores, shards)


@given(pieces, st.integers(1, 64))
def test_bounds_are_in_order_and_more_workers_are_not_slower(sizes, workers):
    found, more = estimate(sizes, workers), estimate(sizes, workers + 1)
    for each in (found.seconds, found.memory_bytes, found.dataset_bytes, found.temporary_bytes):
        assert 0 < each.low <= each.likely <= each.high
    if workers > 1:  # with one worker no serial share is lost
        # the largest piece first, to the least loaded worker, is within 4/3 of the optimum
        assert more.seconds.likely <= found.seconds.likely * 4 / 3 + 1e-9
    assert (found.bytes, found.parallel_pieces) == (sum(sizes), len(sizes))


@given(pieces)
def test_one_worker_takes_as_long_as_the_rates_say(sizes):
    found = estimate(sizes)
    assert found.seconds.likely == pytest.approx(STORED.startup_s + STORED.cpu_s_per_byte.likely * sum(sizes))
    assert found.flows == round(STORED.flows_per_byte * sum(sizes))


def test_workers_beyond_the_pieces_do_not_help():
    assert estimate([MB] * 3, 3).seconds == estimate([MB] * 3, 30).seconds
    assert any("only 3 pieces" in basis for basis in estimate([MB] * 3, 4).bases)


def test_two_workers_gain_as_much_as_measured():
    rates = dataclasses.replace(STORED, startup_s=0.0)
    size = [256 * MB] * 40
    gains = [
        getattr(estimate(size, 1, rates=rates).seconds, bound) / getattr(estimate(size, 2, rates=rates).seconds, bound)
        for bound in ("low", "high")
    ]
    assert gains == pytest.approx([1.81, 1.48], rel=0.01)


def test_modelled_numbers_are_named_in_the_bases():
    assert not any("modelled" in basis for basis in estimate([MB] * 9, 2).bases)
    assert any("modelled" in basis for basis in estimate([MB] * 9, 8).bases)
    assert "stored" in estimate([MB]).bases[0]


def test_memory_grows_only_with_workers_of_this_machine():
    one, two, many = (estimate([MB] * 99, workers).memory_bytes.likely for workers in (1, 2, 50))
    assert one < two == many


def test_pieces_are_those_that_a_build_reads(tmp_path):
    content = pcap([(at, ethernet(ipv4(udp(bytes(1000)), protocol=17))) for at in range(200)])
    (tmp_path / "plain.pcap").write_bytes(content)
    capture = identify_capture(str(tmp_path / "plain.pcap"), [0])
    group = CaptureGroup("0" * 16, (capture,))
    whole = work_pieces([group], FlowDefinition(), MB)
    split = work_pieces([group], FlowDefinition(), 50_000)
    assert whole == [len(content)]
    assert sum(split) == len(content)
    assert max(split) <= 50_000
    assert work_pieces([group], FlowDefinition(active_s=600), 50_000) == [len(content)]
