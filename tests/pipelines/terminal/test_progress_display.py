"""Progress on stderr: a bar of known or unknown length on a terminal, plain lines elsewhere."""

import pytest

from flowloom.pipelines.terminal import progress_display
from flowloom.pipelines.terminal.progress_display import LINE_S, ProgressDisplay, time_left
from flowloom.schemas.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """The seconds that the display reads, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(progress_display.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_are_few_and_lines_that_stay_are_all_shown(capsys, clock):
    with ProgressDisplay("job") as display:
        display.show(Progress("1 shard written", 1))
        display.show(Progress("2 shards written", 2))  # too early
        display.show(Progress("metering [a].pcap", stays=True))
        clock[0] += LINE_S
        display.show(Progress("1 shard written", 1))  # as before
        display.show(Progress("3 of 4 shards", 3, 4))
        display.show(Progress("metering b.pcap", stays=True))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "job: 1 shard written", "job: metering [a].pcap", "job: 3 of 4 shards", "job: metering b.pcap"
    ]  # fmt: skip


def test_a_terminal_has_a_bar_of_known_or_unknown_length(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressDisplay("job") as display:
        assert display._bar is not None
        (bar,) = display._bar.tasks
        states = []
        for progress in (Progress("read"), Progress("step 3 of 4", 3, 4), Progress("step 1 of 4", 1, 4), Progress("x")):
            display.show(progress)
            states.append((bar.description, bar.completed, bar.total))
        display.show(Progress("epoch 1: validation AUC: app 0.912", 4, 4, stays=True))
    assert states == [
        ("job: read", 0, None),
        ("job: step 3 of 4", 3, 4),
        ("job: step 1 of 4", 1, 4),
        ("job: x", 0, None),
    ]
    assert "job: epoch 1: validation AUC: app 0.912\n" in capsys.readouterr().err


def test_a_job_of_known_length_shows_the_time_that_is_left(capsys, clock):
    with ProgressDisplay("job") as display:
        for done, text in ((0, "0 of 100 MB"), (10, "10 of 100 MB"), (40, "40 of 100 MB"), (100, "100 of 100 MB")):
            display.show(Progress(text, done, 100))
            clock[0] += 60
        display.show(Progress("epoch 2, step 5 of 50", 5, 50))  # a new part, whose pace is not known yet
    assert capsys.readouterr().err.splitlines() == [
        "job: 0 of 100 MB",
        "job: 10 of 100 MB, about 9 min left",
        "job: 40 of 100 MB, about 3 min left",
        "job: 100 of 100 MB",
        "job: epoch 2, step 5 of 50",
    ]


def test_a_bar_shows_the_time_that_is_left(monkeypatch, clock):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressDisplay("job") as display:
        display.show(Progress("0 of 4", 0, 4))
        clock[0] += 30
        display.show(Progress("1 of 4", 1, 4))
        (bar,) = display._bar.tasks
        assert bar.fields["left"] == "about 2 min left"
        display.show(Progress("writing"))
        assert bar.fields["left"] == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s left"), (44, "about 44 s left"), (100, "about 2 min left"), (9000, "about 2 h left")],
)
def test_times_have_one_unit(seconds, words):
    assert time_left(seconds) == words
