"""Starts pipelines on the embedded engine, with threads as workers, or on any other engine that Beam supports."""

import builtins
import contextlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from flowloom.pipelines.engines.beam_options import unknown_option
from flowloom.pipelines.engines.harness import THREADS
from flowloom.pipelines.engines.remote import check_engine, check_workers, finish, innermost_cause
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.io.spill import SCRATCH
from flowloom.transforms.io.staging import let_go

EMBEDDED = "FnApiRunner"
"""Beam's in-process runner. `DirectRunner` would choose an engine per pipeline and first try to download one."""

START_LIMIT_S = 180.0
"""Seconds that the workers of another engine have to start."""

_NEVER_MS = 10**12
_LOST_CONNECTION = "Channel closed prematurely"
"""Words of Beam's data plane (2.77) when the connection between a worker and the runner has ended."""


class ThreadedRunner(FnApiRunner):
    """Beam's in-process runner with threads as workers that answer always, and without their flush by time.

    Workers are those of `engines/harness.py`. The flush by time runs once a second in another thread, also while the
    worker writes an element. It cuts elements in two or loses bytes, and the runner then decodes wrong lengths (Beam
    2.77, `worker/data_plane.py`, `TimeBasedBufferingClosableOutputStream`). Flushes by size happen between elements,
    and remain.
    """

    def run_via_runner_api(self, pipeline_proto: Any, options: PipelineOptions) -> Any:
        """Runs a pipeline with such workers in all its environments."""
        for environment in pipeline_proto.components.environments.values():
            if environment.urn == python_urns.EMBEDDED_PYTHON_GRPC:
                environment.urn = THREADS
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


class _Pipeline(beam.Pipeline):
    """Pipeline whose temporary files lie in the job's folder, with which they are removed.

    A `with` block, which waits for the end of the pipeline, removes the unfinished datasets of one that fails.
    """

    def __init__(self, job: str | None, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        if job is None:
            return
        os.makedirs(os.path.join(job, SCRATCH), exist_ok=True)
        os.rmdir(self.local_tempdir)  # made by Beam among the temporary files of the machine
        self.local_tempdir = tempfile.mkdtemp(prefix="beam-", dir=os.path.join(job, SCRATCH))

    def __exit__(self, *error: Any) -> None:
        """Runs the pipeline, unless the block failed."""
        try:
            super().__exit__(*error)
        finally:
            let_go(self)


def start_pipeline(runner: str, workers: int, beam_args: Sequence[str], job: str | None = None) -> beam.Pipeline:
    """Returns an empty pipeline; the embedded runner uses threads, as the kernels release the interpreter lock.

    Args:
      job: the job's folder, which gets Beam's temporary files. None: among the temporary files of this machine.

    Raises:
      FlowloomError: if Beam has no such runner, or an option is unknown.
    """
    if fault := unknown_option(runner, beam_args):
        raise FlowloomError(fault)
    try:
        if runner == EMBEDDED:
            threads = ["--direct_running_mode=multi_threading", f"--direct_num_workers={workers}"]
            return _Pipeline(job, ThreadedRunner(), options=_Options([*threads, *beam_args]))
        return _Pipeline(job, options=_Options([f"--runner={runner}", *beam_args]))
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
      FlowloomError: if a requirement of the engine is missing, no worker answers in time, the engine fails, or a step
        meets an error of files or memory.
      RuntimeError: if a step of the embedded runner meets any other error; the message has the worker's traceback.
    """
    pipeline = start_pipeline(runner, workers, beam_args, job)
    if runner == EMBEDDED:
        yield pipeline
        _run_embedded(pipeline)
        with contextlib.suppress(OSError):  # jobs may keep files there
            os.rmdir(os.path.join(job, SCRATCH))
        return
    check_engine(runner, pipeline.options)
    check_workers(start_pipeline(runner, workers, beam_args, job), job, start_limit_s)
    yield pipeline
    finish(pipeline)


def _run_embedded(pipeline: beam.Pipeline) -> None:
    """Runs a pipeline on threads of this process; its workers' tracebacks are raised, not logged.

    Once in thousands of jobs on a busy machine a worker loses its connection to the runner. The job then runs once
    more, which changes nothing, as every step may run several times on any engine.
    """
    logger = logging.getLogger("apache_beam.runners")
    level = logger.level
    logger.setLevel(max(level, logging.CRITICAL))
    try:
        try:
            pipeline.run().wait_until_finish()
        except RuntimeError as error:
            if _LOST_CONNECTION not in str(error):
                raise
            pipeline.run().wait_until_finish()
    except RuntimeError as error:
        if expected := _expected_failure(innermost_cause(str(error))):
            raise FlowloomError(expected) from None
        raise
    finally:
        logger.setLevel(level)


def _expected_failure(cause: str) -> str | None:
    """Returns the message for a failure of files or memory in a worker; None for others, which are our errors."""
    # Beam raises an exception again whose class takes other arguments as a RuntimeError with its text
    kind, _, message = re.sub(r"^RuntimeError: (?=[\w.]+(?:Error|Exception)\b)", "", cause).partition(": ")
    name = kind.rpartition(".")[2]
    if name == FlowloomError.__name__:
        return message
    if name in ("MemoryError", "ArrowMemoryError"):
        return f"a step of the job ran out of memory ({message or name}); use fewer workers, or a larger machine"
    known = getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, OSError):
        # "[Errno 28] No space left on device: '/file'"
        reason = re.sub(r"^\[Errno \d+\] ([^:]+): '(.+)'$", r"\2: \1", message)
        return f"a step of the job failed: {reason}; check the path, its permissions and the free space"
    return None
