"""Engines outside this process: requirements are checked before a job is submitted, and every wait has a limit.

Beam waits silently for a jar that cannot be downloaded, a master that does not answer and workers that cannot start.
Here each of these is an error.
"""

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import socket
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    SparkRunnerOptions,
)
from apache_beam.runners.runner import PipelineState
from apache_beam.utils.subprocess_server import JavaJarServer

from flowloom.pipelines.engines.worker_check import WorkerCheck
from flowloom.pipelines.engines.worker_check_ptransforms import AnswerWorkerCheck
from flowloom.schemas.errors import FlowloomError

CONNECT_S = 5.0
"""Seconds that a master has to answer."""
CANCEL_S = 10.0
"""Seconds that an engine has to take a cancellation."""

_CAUSE = re.compile(r"^(?:Caused by: )?[\w.$]*(?:Error|Exception): .+", re.MULTILINE)
_DETAILS = re.compile(r'^\s*details = "(.+)"$', re.MULTILINE)


def check_engine(runner: str, options: PipelineOptions) -> None:
    """Checks that everything is present that a runner needs to submit a job.

    Raises:
      FlowloomError: if Java, a job server's jar, Prism's program, the master or the job endpoint is missing.
    """
    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint:
        if endpoint != "embed":
            _require_listener(endpoint, "--job_endpoint", "start the job server there, or give its address")
        return
    kind = runner.lower()
    if kind in ("flink", "flinkrunner"):
        flink = options.view_as(FlinkRunnerOptions)
        _require_jar(f"flink-{flink.flink_version}", "--flink_job_server_jar", flink.flink_job_server_jar, options)
        if not flink.flink_master.startswith("["):
            _require_flink(flink.flink_master, flink.flink_version)
    elif kind in ("spark", "sparkrunner"):
        spark = options.view_as(SparkRunnerOptions)
        _require_jar(f"spark-{spark.spark_version}", "--spark_job_server_jar", spark.spark_job_server_jar, options)
        if "://" in spark.spark_master_url:
            _require_listener(spark.spark_master_url, "--spark_master_url", "start the master, or give its address")
    elif kind in ("prism", "prismrunner"):
        place = options.view_as(PrismRunnerOptions).prism_location
        if place is None or not os.access(place, os.X_OK) or os.path.isdir(place):
            raise FlowloomError(
                f"{runner}: --prism_location must be Prism's program, got {place or 'nothing'}; build it with: "
                f"go install github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam.__version__}"
            )


def check_workers(pipeline: beam.Pipeline, job: str, limit_s: float) -> list[str]:
    """Runs a worker check as a pipeline of its own, and returns the hosts that answered.

    Args:
      pipeline: an empty pipeline with the options of the job that follows.
      job: the job's folder.
      limit_s: seconds that workers have to start.

    Raises:
      FlowloomError: if no worker answers in time, or a worker fails the check (`WorkerCheck`).
    """
    check = WorkerCheck.begin(job)
    pipeline | "AnswerWorkerCheck" >> AnswerWorkerCheck(check)
    environment = pipeline.options.view_as(PortableOptions)
    where = " ".join(filter(None, (environment.environment_type, environment.environment_config)))
    finish(
        pipeline,
        limit_s,
        f"no worker answered within {limit_s:.0f} s (environment: {where or 'chosen by the runner'}); start a pool of "
        "workers at that address of each machine with `flowloom worker-pool --port PORT`, or raise --start-limit",
    )
    return check.hosts()


def finish(pipeline: beam.Pipeline, limit_s: float | None = None, overdue: str = "") -> None:
    """Runs a pipeline to its end; an exception or a timeout cancels the job.

    Args:
      limit_s: seconds to wait after the job is submitted; None: no limit.
      overdue: the error message when that time is over.

    Raises:
      FlowloomError: if the engine fails, or the time is over.
    """
    state = None
    try:
        result = _submit(pipeline)
        try:
            state = result.wait_until_finish(duration=round(limit_s * 1000) if limit_s else None)
        finally:
            if state is None or not PipelineState.is_terminal(state):
                _within(CANCEL_S, result.cancel)
    except Exception as error:
        raise FlowloomError(f"the engine failed: {innermost_cause(str(error))}") from error
    if state != PipelineState.DONE:
        raise FlowloomError(
            f"the job must end as {PipelineState.DONE}, got {state}; see the engine's log"
            if PipelineState.is_terminal(state)
            else overdue
        )


def _submit(pipeline: beam.Pipeline) -> Any:
    """Returns the running job.

    The job service inside this process (`--job_endpoint=embed`) runs in threads that inherit whether they are daemons.
    It is started from a daemon thread, because a cancelled job would otherwise keep the process alive for ever.
    """
    if pipeline.options.view_as(PortableOptions).job_endpoint != "embed":
        return pipeline.run()
    submitted: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def submit() -> None:
        try:
            submitted.set_result(pipeline.run())
        except BaseException as error:
            submitted.set_exception(error)

    threading.Thread(target=submit, daemon=True).start()
    return submitted.result()


def innermost_cause(trace: str) -> str:
    """Returns the innermost cause in a trace of Java and Python workers, as one line."""
    causes = _DETAILS.findall(trace) or _CAUSE.findall(trace)
    line = causes[-1] if causes else next(filter(None, map(str.strip, trace.splitlines())), "no message")
    return re.sub(r" \[while running .*", "", line.removeprefix("Caused by: "))


def _within(limit_s: float, action: Callable[[], Any]) -> None:
    """Runs an action that may fail or never end, and waits for it at most `limit_s` seconds."""

    def attempt() -> None:
        with contextlib.suppress(Exception):
            action()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(limit_s)


def _require_jar(kind: str, option: str, given: str | None, options: PipelineOptions) -> None:
    """Checks Java and the jar of a job server; Beam would download a missing jar without a time limit."""
    server = options.view_as(JobServerOptions)
    artifact = f"beam-runners-{kind}-job-server"
    cached = os.path.join(server.jar_cache_dir or JavaJarServer.JAR_CACHE, f"{artifact}-{beam.__version__}.jar")
    jar = given or cached
    if not zipfile.is_zipfile(jar):
        state = "is not a jar" if os.path.exists(jar) else "does not exist"
        raise FlowloomError(
            f"{option} must be the jar of Beam's job server (default: {cached}), but {jar} {state}; get it with: "
            f"mvn dependency:copy -Dartifact=org.apache.beam:{artifact}:{beam.__version__} -DoutputDirectory=DIR"
        )
    if shutil.which(server.job_server_java_launcher) is None:
        raise FlowloomError(
            f"Beam's job server needs Java 11 or 17, but there is no program {server.job_server_java_launcher!r}; "
            "install Java, or name it with --job_server_java_launcher=FILE"
        )


def _require_listener(address: str, option: str, remedy: str) -> None:
    host, _, port = address.rpartition("://")[2].rstrip("/").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), CONNECT_S):
            return
    except ValueError:
        raise FlowloomError(f"{option} must be HOST:PORT, got {address!r}") from None
    except OSError as error:
        raise FlowloomError(f"{option}={address} does not answer ({error.strerror or error}); {remedy}") from None


def _require_flink(master: str, version: str) -> None:
    """Checks that a Flink cluster answers, has task managers and is of the expected version."""
    url = master if "://" in master else f"http://{master}"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/overview", timeout=CONNECT_S) as answer:
            overview = json.load(answer)
            managers, slots, found = overview["taskmanagers"], overview["slots-total"], overview["flink-version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", None) or error
        raise FlowloomError(
            f"--flink_master={master}: no Flink job manager answers ({reason}); start the cluster, or give the address "
            "of its REST interface, HOST:8081"
        ) from None
    if not managers or not slots:
        raise FlowloomError(
            f"--flink_master={master}: the cluster must have at least 1 task manager with 1 slot, got {managers} with "
            f"{slots}; start a task manager"
        )
    if not str(found).startswith(f"{version}."):
        raise FlowloomError(
            f"--flink_version must be the version of the cluster at {master}, {found}, got {version}; use "
            f"--flink_version={'.'.join(str(found).split('.')[:2])} and the jar for it"
        )
