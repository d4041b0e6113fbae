"""Flink on this machine: Beam's job server for it, and a standalone cluster of processes of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FLINK = Path(__file__).resolve().parents[2] / ".cache" / "flink"
"""Folder that `make flink` fills."""

_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_OPENED = ("lang", "lang.reflect", "net", "io", "nio", "text", "time", "util", "util.concurrent")
_JAVA = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED]

_SETTINGS = {
    "jobmanager.memory.process.size": "600m",
    "cluster.evenly-spread-out-slots": "true",
    "heartbeat.interval": "1000",  # a lost process is noticed in seconds
    "heartbeat.timeout": "10000",
    "slot.request.timeout": "5000",  # and a job that no slot is left for ends
    "restart-strategy.type": "fixed-delay",
    "restart-strategy.fixed-delay.attempts": "3",
    "restart-strategy.fixed-delay.delay": "1 s",
    # what Flink's start scripts compute of one size
    "taskmanager.cpu.cores": "2",
    "taskmanager.numberOfTaskSlots": "2",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.task.heap.size": "256m",
    "taskmanager.memory.task.off-heap.size": "128m",
    "taskmanager.memory.network.min": "160m",  # one of them has to do for the whole job
    "taskmanager.memory.network.max": "160m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "192m",
    "taskmanager.memory.jvm-overhead.min": "64m",
    "taskmanager.memory.jvm-overhead.max": "64m",
}


def job_server() -> Path:
    """Returns the jar of Beam's job server for Flink; skip where it was not fetched."""
    return _fetched("job-server.jar")


def _fetched(name: str) -> Path:
    if shutil.which("java") is None or not (FLINK / name).exists():
        pytest.skip(f"needs Java, and {name} in .cache/flink: `make flink` fetches it with Maven")
    return FLINK / name


class FlinkCluster:
    """A job manager, two task managers of two slots each, their pool of Python workers, and a job server.

    Attributes:
      flags: what a build needs behind `--`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rest, rpc, self._pool, self._jobs = _free_ports(4)
        self.flags = (
            f"--job_endpoint=localhost:{self._jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config=127.0.0.1:{self._pool}",
            "--parallelism=2",
        )
        settings = {
            **_SETTINGS,
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": rpc,
            "rest.address": "localhost",
            "rest.port": self._rest,
            "taskmanager.host": "localhost",
            "io.tmp.dirs": folder,
        }
        (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
        (folder / "log4j2.properties").write_text(
            "rootLogger.level = INFO\nrootLogger.appenderRef.out.ref = out\n"
            "appender.out.name = out\nappender.out.type = CONSOLE\n"
            "appender.out.layout.type = PatternLayout\nappender.out.layout.pattern = %d %p %c{1} %m%n\n"
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        self._task_managers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Starts everything, and waits until both task managers and the job server are there."""
        flowloom = f"{Path(sys.executable).parent}/flowloom"
        self._run("pool", [flowloom, "worker-pool", f"--port={self._pool}"])
        self._run("job-manager", self._java("-Xmx300m", _JOB_MANAGER, "--executionMode", "cluster"))
        places = [f"--flink-master=localhost:{self._rest}", f"--artifacts-dir={self._folder}/artifacts"]
        ports = [f"--job-port={self._jobs}", "--artifact-port=0", "--expansion-port=0"]
        self._run("job-server", ["java", "-Xmx300m", "-jar", str(job_server()), *places, *ports])
        self.start_task_managers()
        _wait(self._listens, "its job server listens")

    def start_task_managers(self) -> None:
        """Starts two task managers, and waits until the job manager knows of them."""
        for _ in range(2):
            name = f"task-manager-{len(self._processes)}"
            self._task_managers.append(self._run(name, self._java("-Xmx384m", _TASK_MANAGER)))
        _wait(lambda: self._overview()["slots-available"] == 4, "two task managers have free slots")

    def kill_task_manager(self) -> None:
        """Kills the oldest task manager, so that it can say nothing."""
        process = self._task_managers.pop(0)
        process.kill()
        process.wait()

    def kill_task_managers(self) -> None:
        """Kills all task managers."""
        while self._task_managers:
            self.kill_task_manager()

    def stop(self) -> None:
        """Stops all processes, and those that they have started."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _overview(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://localhost:{self._rest}/overview", timeout=5) as answer:
            return json.load(answer)

    def _listens(self) -> bool:
        with socket.create_connection(("localhost", self._jobs), 5):
            return True

    def _java(self, heap: str, main: str, *arguments: str) -> list[str]:
        logging = f"-Dlog4j.configurationFile={self._folder}/log4j2.properties"
        jars = f"{_fetched('cluster')}/*"
        return ["java", heap, logging, *_JAVA, "-cp", jars, main, "--configDir", str(self._folder), *arguments]

    def _run(self, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        with open(self._folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._processes.append(process)
        return process


@contextlib.contextmanager
def flink_cluster(folder: Path) -> Iterator[FlinkCluster]:
    """Runs a cluster while the block does; the output of its processes is in the folder."""
    _fetched("cluster")
    cluster = FlinkCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _wait(true: Callable[[], bool], what: str, limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if true():
                return
        time.sleep(0.1)
    pytest.fail(f"waited {limit_s:.0f} s for a Flink cluster until {what}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in taken]
