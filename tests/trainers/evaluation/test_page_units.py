"""Numbers of pages as people write them."""

import datetime as dt

import pytest

from flowloom.trainers.evaluation.page_units import bin_of, duration, moment, percent, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (4.2e-8, "42 ns"), (48e-6, "48 µs"), (0.00123, "1.23 ms"), (0.9999, "1 s"), (3.4, "3.4 s"),
        (48.94, "48.9 s"), (99.0, "99 s"), (125.4, "2 min 5 s"), (3_600, "1 h"), (12_000, "3 h 20 min"),
        (90_000, "1 d 1 h"), (400 * 86_400, "400 d"),
    ],
)  # fmt: skip
def test_durations_have_the_largest_unit_that_fits(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 5, "0 %"), (5, 5, "100 %"), (58, 100, "58 %"), (4, 1000, "0.4 %"), (1, 10**6, "< 0.1 %"),
     (999_999, 10**6, "> 99.9 %"), (994, 1000, "99.4 %"), (3, 0, "0 %")],
)  # fmt: skip
def test_shares_are_0_and_100_only_if_exact(part, whole, text):
    assert percent(part, whole) == text


def test_sizes_times_and_bins():
    assert [size(value) for value in (0, 999, 1_000, 1_234_567, 5e12)] == ["0 B", "999 B", "1 kB", "1.23 MB", "5 TB"]
    assert moment("2024-05-06T09:08:09.5+02:00") == "2024-05-06 07:08:09 UTC"
    assert moment(dt.datetime(2024, 1, 1, tzinfo=dt.UTC)) == "2024-01-01 00:00:00 UTC"
    assert bin_of("16777216 to 33554431", "pkt_gap_ns") == "16.8 ms to 33.6 ms"
    assert bin_of("128 to 255", "pkt_size") == "128 to 255"
