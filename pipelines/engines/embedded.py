"""Engines: the embedded one, pinned and threaded, or any other that Beam knows."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from flowloom.pipelines.engines.remote import call_roll, check_engine, finish
from flowloom.schemas.errors import FlowloomError

EMBEDDED = "FnApiRunner"
"""Beam's in-process runner. `DirectRunner` would choose an engine per pipeline and first try to download one."""

START_LIMIT_S = 180.0
"""Seconds that the workers of another engine have for coming up."""

_NEVER_MS = 10**12


class ThreadedRunner(FnApiRunner):
    """Beam's in-process runner with threads for workers, and without their flush by time.

    That flush comes from a thread of its own, once a second, whatever the worker is just writing: it cuts elements in
    two, or loses bytes, and the runner then decodes lengths out of nothing (Beam 2.77, `worker/data_plane.py`,
    `TimeBasedBufferingClosableOutputStream`). Flushes by size, which come between elements, remain.
    """

    def run_via_runner_api(self, pipeline_proto: Any, options: PipelineOptions) -> Any:
        """Run a pipeline whose environments have been told never to flush by time."""
        for environment in pipeline_proto.components.environments.values():
            if environment.urn == python_urns.EMBEDDED_PYTHON_GRPC:
                environment.payload = json.dumps({"data_buffer_time_limit_ms": _NEVER_MS}).encode()
        return super().run_via_runner_api(pipeline_proto, options)


class _Options(PipelineOptions):
    """Options that parse their flags once for each view; Beam asks for the same few views hundreds of times."""

    def __init__(self, flags: Sequence[str]):
        super().__init__(list(flags))
        self.__dict__["views"] = {}  # plain attributes would be taken for options

    def view_as(self, cls: Any) -> Any:
        """Return the one view of a kind; all views share their values anyway."""
        views = self.__dict__["views"]
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_pipeline(runner: str, workers: int, beam_args: Sequence[str]) -> beam.Pipeline:
    """Return an empty pipeline; the embedded runner works in threads, as the kernels let go of the interpreter lock.

    Raises:
      FlowloomError: if Beam has no such runner.
    """
    try:
        if runner == EMBEDDED:
            threads = ["--direct_running_mode=multi_threading", f"--direct_num_workers={workers}"]
            return beam.Pipeline(ThreadedRunner(), options=_Options([*threads, *beam_args]))
        return beam.Pipeline(options=_Options([f"--runner={runner}", *beam_args]))
    except (ValueError, ImportError, AttributeError) as error:
        raise FlowloomError(f"runner {runner!r} with options {list(beam_args)} cannot be used: {error}") from None


@contextlib.contextmanager
def running(
    runner: str, workers: int, beam_args: Sequence[str], job: str, start_limit_s: float = START_LIMIT_S
) -> Iterator[beam.Pipeline]:
    """Yield an empty pipeline that runs to its end when the block does.

    Any engine but the embedded one is checked before, and its workers are called.

    Args:
      job: the job's folder, which all workers have to share.
      start_limit_s: seconds that workers have for coming up.

    Raises:
      FlowloomError: if the engine lacks something, no worker answers in time, or the engine gives the job up.
    """
    pipeline = start_pipeline(runner, workers, beam_args)
    if runner == EMBEDDED:
        with pipeline:
            yield pipeline
        return
    check_engine(runner, pipeline.options)
    call_roll(start_pipeline(runner, workers, beam_args), job, start_limit_s)
    yield pipeline
    finish(pipeline)
