"""The embedded engine passes elements on whole, however long they take to write."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from flowloom.pipelines.engines.embedded import EMBEDDED, running, start_pipeline
from flowloom.schemas.errors import FlowloomError


@dataclasses.dataclass(frozen=True)
class Slow:
    """An element that takes longer to write than the pause between two flushes by time."""

    number: int

    def __reduce__(self):
        time.sleep(1.2)
        return Slow, (self.number,)


@pytest.mark.timeout(60)
def test_no_element_is_cut_while_it_is_written(tmp_path):
    with running(EMBEDDED, 2, [], str(tmp_path)) as pipeline:
        numbers = (
            pipeline
            | beam.Create([1, 2])
            | beam.Map(Slow)
            | "Elements" >> beam.Reshuffle()
            | beam.Map(lambda slow: slow.number)
        )
        assert_that(numbers, equal_to([1, 2]))


def test_options_reach_beam(tmp_path):
    pipeline = start_pipeline(EMBEDDED, 3, ["--job_name=loom"], str(tmp_path))
    options = pipeline.options.get_all_options()
    assert (options["direct_num_workers"], options["direct_running_mode"]) == (3, "multi_threading")
    assert options["job_name"] == "loom"


def test_an_unknown_runner_is_named(tmp_path):
    with pytest.raises(FlowloomError, match=r"runner 'FnApiRunnr' cannot start with options"):
        start_pipeline("FnApiRunnr", 1, [], str(tmp_path))


FAILING = """
import errno, sys
import apache_beam as beam
from flowloom.pipelines.engines.embedded import EMBEDDED, running

def fail(element):
    raise {error}

try:
    with running(EMBEDDED, 2, [], sys.argv[1]) as pipeline:
        pipeline | beam.Create([1, 2]) | beam.Map(fail)
except Exception as error:
    print(type(error).__name__, str(error).splitlines()[-1])
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (
            'OSError(errno.ENOSPC, "No space left on device", "/f")',
            "FlowloomError a step of the job failed: /f: No space left on device; check the path, its "
            "permissions and the free space",
        ),
        ('ValueError("x must be 1")', "ValueError: x must be 1 [while running 'Map(fail)']"),
    ],
)
def test_a_job_ends_when_a_worker_fails_and_stderr_is_closed(tmp_path, error, raised):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", FAILING.format(error=error), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=writer,
            text=True,
            timeout=240,
        )
    finally:
        os.close(writer)
    assert done.stdout.strip().endswith(raised)


def test_temporary_files_of_beam_lie_in_the_folder_of_the_job(tmp_path, monkeypatch):
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    pipeline = start_pipeline(EMBEDDED, 1, [], str(tmp_path / "job"))
    assert Path(pipeline.local_tempdir).is_relative_to(tmp_path / "job")
    assert list(elsewhere.iterdir()) == []


def write_numbers(number: int, folder: str) -> int:
    Path(folder, str(number)).write_text(str(number))
    return number


@pytest.mark.parametrize("losses", [1, 2])
def test_a_job_runs_once_more_after_a_lost_connection(tmp_path, monkeypatch, losses):
    runs = []
    run = beam.Pipeline.run

    def counted(pipeline, *arguments):
        result = run(pipeline, *arguments)
        runs.append(result)
        if len(runs) <= losses:
            raise RuntimeError("Traceback (most recent call last):\nRuntimeError: Channel closed prematurely.")
        return result

    monkeypatch.setattr(beam.Pipeline, "run", counted)
    (tmp_path / "out").mkdir()
    expected = pytest.raises(RuntimeError, match="Channel closed") if losses > 1 else contextlib.nullcontext()
    with expected, running(EMBEDDED, 2, [], str(tmp_path)) as pipeline:
        pipeline | beam.Create(range(5)) | beam.Map(write_numbers, str(tmp_path / "out"))
    assert len(runs) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == list("01234")
