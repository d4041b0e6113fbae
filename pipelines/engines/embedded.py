"""Starts pipelines on the embedded engine, with threads as workers, or on any other engine that Beam supports."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from flowloom.pipelines.engines.remote import check_engine, check_workers, finish
from flowloom.schemas.errors import FlowloomError

EMBEDDED = "FnApiRunner"
"""Beam's in-process runner. `DirectRunner` would choose an engine per pipeline and first try to download one."""

START_LIMIT_S = 180.0
"""Seconds that the workers of another engine have to start."""

_NEVER_MS = 10**12


class ThreadedRunner(FnApiRunner):
    """Beam's in-process runner with threads as workers, and without their flush by time.

    That flush runs once a second in another thread, also while the worker writes an element. It cuts elements in two
    or loses bytes, and the runner then decodes wrong lengths (Beam 2.77, `worker/data_plane.py`,
    `TimeBasedBufferingClosableOutputStream`). Flushes by size happen between elements, and remain.
    """

    def run_via_runner_api(self, pipeline_proto: Any, options: PipelineOptions) -> Any:
        """Runs a pipeline whose environments never flush by time."""
        for environment in pipeline_proto.components.environments.values():
            if environment.urn == python_urns.EMBEDDED_PYTHON_GRPC:
                environment.payload = json.dumps({"data_buffer_time_limit_ms": _NEVER_MS}).encode()
        return super().run_via_runner_api(pipeline_proto, options)


class _Options(PipelineOptions):
    """Options that parse their flags once for each view, as Beam asks for the same views hundreds of times."""

    def __init__(self, flags: Sequence[str]):
        super().__init__(list(flags))
        self.__dict__["views"] = {}  # plain attributes would be taken for options

    def view_as(self, cls: Any) -> Any:
        """Returns the cached view of a class; all views share their values."""
        views = self.__dict__["views"]
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_pipeline(runner: str, workers: int, beam_args: Sequence[str]) -> beam.Pipeline:
    """Returns an empty pipeline; the embedded runner uses threads, as the kernels release the interpreter lock.

    Raises:
      FlowloomError: if Beam has no such runner.
    """
    try:
        if runner == EMBEDDED:
            threads = ["--direct_running_mode=multi_threading", f"--direct_num_workers={workers}"]
            return beam.Pipeline(ThreadedRunner(), options=_Options([*threads, *beam_args]))
        return beam.Pipeline(options=_Options([f"--runner={runner}", *beam_args]))
    except (ValueError, ImportError, AttributeError) as error:
        raise FlowloomError(
            f"runner {runner!r} cannot start with options {' '.join(beam_args) or '(none)'}: {error}"
        ) from None


@contextlib.contextmanager
def running(
    runner: str, workers: int, beam_args: Sequence[str], job: str, start_limit_s: float = START_LIMIT_S
) -> Iterator[beam.Pipeline]:
    """Yields an empty pipeline, and runs it to its end after the block.

    Any engine but the embedded one is checked first, and so are its workers (`WorkerCheck`).

    Args:
      job: the job's folder, which all workers must share.
      start_limit_s: seconds that workers have to start.

    Raises:
      FlowloomError: if a requirement of the engine is missing, no worker answers in time, or the engine fails.
    """
    pipeline = start_pipeline(runner, workers, beam_args)
    if runner == EMBEDDED:
        with pipeline:
            yield pipeline
        return
    check_engine(runner, pipeline.options)
    check_workers(start_pipeline(runner, workers, beam_args), job, start_limit_s)
    yield pipeline
    finish(pipeline)
