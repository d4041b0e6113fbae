"""Cycles grow with work and have a source."""

import pytest

from flowloom.trainers.evaluation.cpu_cycles import CycleCounter, nominal_ghz


def test_work_takes_cycles():
    counter = CycleCounter()
    assert counter.source == "perf_event" or counter.source.startswith("nominal ")
    before = counter.read()
    sum(range(300_000))
    between = counter.read()
    sum(range(3_000_000))
    assert 0 < between - before < counter.read() - between


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/cpuinfo": "model name\t: Fast CPU @ 2.50GHz\ncpu MHz\t\t: 1200.000\n"}, 2.5),
        ({"proc/cpuinfo": "model name\t: Some CPU\ncpu MHz\t\t: 2445.428\n"}, 2.445428),
        ({"sys/devices/system/cpu/cpu0/cpufreq/base_frequency": "3100000\n"}, 3.1),
        ({"proc/cpuinfo": "processor: 0\n"}, None),
        ({}, None),
    ],
)
def test_the_nominal_rate_has_an_order_of_sources(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert nominal_ghz(tmp_path) == pytest.approx(expected)
