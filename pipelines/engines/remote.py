"""Engines beyond this process: what they need is looked for before a job is handed over, and nobody waits for ever.

Beam waits without a word for a jar that cannot be downloaded, for a master that does not answer, and for workers that
cannot start. Here each of them is a message.
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

from flowloom.pipelines.engines.worker_check import AnswerRoll, Roll
from flowloom.schemas.errors import FlowloomError

CONNECT_S = 5.0
"""Seconds within which a master has to answer."""
CANCEL_S = 10.0
"""Seconds for telling an engine that nobody waits any more."""

_CAUSE = re.compile(r"^(?:Caused by: )?[\w.$]*(?:Error|Exception): .+", re.MULTILINE)
_DETAILS = re.compile(r'^\s*details = "(.+)"$', re.MULTILINE)


def check_engine(runner: str, options: PipelineOptions) -> None:
    """Check that everything is at hand that a runner needs for submitting a job.

    Raises:
      FlowloomError: if Java, a job server's jar, Prism's program, the master or the job endpoint is missing.
    """
    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint:
        if endpoint != "embed":
            _require_listener(endpoint, "--job_endpoint", "start the job server there, or name where it listens")
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
            _require_listener(
                spark.spark_master_url, "--spark_master_url", "start the master, or name where it listens"
            )
    elif kind in ("prism", "prismrunner"):
        place = options.view_as(PrismRunnerOptions).prism_location
        if place is None or not os.access(place, os.X_OK) or os.path.isdir(place):
            raise FlowloomError(
                f"{runner} needs Prism's program: expected --prism_location=FILE, got {place}; make it with: "
                f"go install github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam.__version__}"
            )


def call_roll(pipeline: beam.Pipeline, job: str, limit_s: float) -> list[str]:
    """Run a pipeline of nothing but a roll call, and return the hosts of the workers that answered.

    Args:
      pipeline: an empty one with the options of the job that is to follow.
      job: its folder.
      limit_s: seconds that workers have for coming up.

    Raises:
      FlowloomError: if no worker answers in time, or `Roll` finds what is wrong with one.
    """
    roll = Roll.begin(job)
    pipeline | "AnswerRoll" >> AnswerRoll(roll)
    environment = pipeline.options.view_as(PortableOptions)
    where = " ".join(filter(None, (environment.environment_type, environment.environment_config)))
    finish(
        pipeline,
        limit_s,
        f"no worker answered within {limit_s:.0f} s (environment: {where or 'as the runner chooses'}): expected a "
        "pool of workers at that address of each machine; start it there with `flowloom worker-pool --port PORT`, or "
        "wait longer with --start-limit",
    )
    return roll.check()


def finish(pipeline: beam.Pipeline, limit_s: float | None = None, overdue: str = "") -> None:
    """Run a pipeline to its end; whoever stops waiting cancels the job.

    Args:
      limit_s: seconds to wait once the job is submitted; None: for ever.
      overdue: what to say after that.

    Raises:
      FlowloomError: if the engine fails, or time is up.
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
        raise FlowloomError(f"the engine gave the job up: {cause(str(error))}") from error
    if state != PipelineState.DONE:
        raise FlowloomError(f"the job ended as {state}" if PipelineState.is_terminal(state) else overdue)


def _submit(pipeline: beam.Pipeline) -> Any:
    """Return the running job.

    The job service inside this process works in threads that end with it only if they are begun by one that does; else
    a job that was given up would keep the process for ever.
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


def cause(complaint: str) -> str:
    """Return the innermost cause that a complaint through several workers, Java's and Python's, tells, as one line."""
    causes = _DETAILS.findall(complaint) or _CAUSE.findall(complaint)
    line = causes[-1] if causes else next(filter(None, map(str.strip, complaint.splitlines())), "it says nothing")
    return re.sub(r" \[while running .*", "", line.removeprefix("Caused by: "))


def _within(limit_s: float, action: Callable[[], Any]) -> None:
    """Do something that may fail, or never end."""

    def attempt() -> None:
        with contextlib.suppress(Exception):
            action()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(limit_s)


def _require_jar(kind: str, option: str, given: str | None, options: PipelineOptions) -> None:
    """Check Java and the jar of a job server; Beam would download one, and wait for it without a limit."""
    server = options.view_as(JobServerOptions)
    artifact = f"beam-runners-{kind}-job-server"
    cached = os.path.join(server.jar_cache_dir or JavaJarServer.JAR_CACHE, f"{artifact}-{beam.__version__}.jar")
    jar = given or cached
    if not zipfile.is_zipfile(jar):
        state = "is no jar" if os.path.exists(jar) else "is not there"
        raise FlowloomError(
            f"Beam's job server is missing: expected a jar as {option}=FILE or at {cached}, but {jar} {state}; get it "
            f"with: mvn dependency:copy -Dartifact=org.apache.beam:{artifact}:{beam.__version__} -DoutputDirectory=DIR"
        )
    if shutil.which(server.job_server_java_launcher) is None:
        raise FlowloomError(
            f"Beam's job server needs Java 11 or 17, there is no program {server.job_server_java_launcher!r}; install "
            "it, or name it by --job_server_java_launcher=FILE"
        )


def _require_listener(address: str, option: str, remedy: str) -> None:
    host, _, port = address.rpartition("://")[2].rstrip("/").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), CONNECT_S):
            return
    except ValueError:
        raise FlowloomError(f"{option} must be HOST:PORT, got {address!r}") from None
    except OSError as error:
        raise FlowloomError(f"nobody answers at {option}={address} ({error.strerror or error}); {remedy}") from None


def _require_flink(master: str, version: str) -> None:
    """Ask a Flink cluster for its version and its task managers."""
    url = master if "://" in master else f"http://{master}"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/overview", timeout=CONNECT_S) as answer:
            overview = json.load(answer)
            managers, slots, found = overview["taskmanagers"], overview["slots-total"], overview["flink-version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", None) or error
        raise FlowloomError(
            f"no Flink job manager answers at --flink_master={master} ({reason}); start the cluster, or name the "
            "address of its REST interface, HOST:8081"
        ) from None
    if not managers or not slots:
        raise FlowloomError(
            f"the Flink cluster at {master} has {managers} task managers with {slots} slots; start at least one"
        )
    if not str(found).startswith(f"{version}."):
        raise FlowloomError(
            f"the Flink cluster at {master} is of version {found}, --flink_version says {version}; say "
            f"--flink_version={'.'.join(str(found).split('.')[:2])} and use the jar for it"
        )
