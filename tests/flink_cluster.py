"""Flink on this machine: Beam's job server for it, and a standalone cluster of processes of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLINK = Path(__file__).resolve().parent.parent / ".cache" / "flink"
"""What `make flink` fetches."""
VERSION = "1.19"

_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_OPENED = ("lang", "lang.reflect", "net", "io", "nio", "text", "time", "util", "util.concurrent")
_JAVA = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED]

_SETTINGS = {
    "jobmanager.memory.process.size": "600m",
    "cluster.evenly-spread-out-slots": "true",
    "heartbeat.interval": "1000",  # a lost process is noticed in seconds
    "heartbeat.timeout": "10000",
    "slot.request.timeout": "15000",  # and a job that no slot is left for ends
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
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "192m",
    "taskmanager.memory.jvm-overhead.min": "64m",
    "taskmanager.memory.jvm-overhead.max": "64m",
}


def job_server() -> list[str]:
    """Return the options that name Beam's job server for Flink; skip where it was not fetched."""
    return [f"--flink_version={VERSION}", f"--flink_job_server_jar={_fetched('job-server.jar')}", "--parallelism=2"]


def _fetched(name: str) -> Path:
    if not (FLINK / name).exists():
        pytest.skip(f"needs Flink ({name} in .cache/flink): `make flink` fetches it with Maven")
    return FLINK / name


class FlinkCluster:
    """A job manager, two task managers of two slots, and a pool of Python workers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, rpc, pool = _free_ports(3)
        self.master = f"localhost:{self._port}"
        self.pool = f"localhost:{pool}"
        self._settings = {
            **_SETTINGS,
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": rpc,
            "rest.address": "localhost",
            "rest.port": self._port,
            "taskmanager.host": "localhost",
            "io.tmp.dirs": folder,
        }
        (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in self._settings.items()))
        (folder / "log4j2.properties").write_text(
            "rootLogger.level = INFO\nrootLogger.appenderRef.out.ref = out\n"
            "appender.out.name = out\nappender.out.type = CONSOLE\n"
            "appender.out.layout.type = PatternLayout\nappender.out.layout.pattern = %d %p %c{1} %m%n\n"
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        self.task_managers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start everything, and wait until both task managers have reported."""
        flowloom = f"{Path(sys.executable).parent}/flowloom"
        self._run("pool", [flowloom, "worker-pool", "--port", self.pool.rpartition(":")[2]])
        self._run("job-manager", self._java("-Xmx300m", _JOB_MANAGER, "--executionMode", "cluster"))
        self.start_task_manager()
        self.start_task_manager()
        self.wait_for_task_managers(2)

    def start_task_manager(self) -> None:
        """Start one more task manager."""
        name = f"task-manager-{len(self._processes)}"
        self.task_managers.append(self._run(name, self._java("-Xmx384m", _TASK_MANAGER)))

    def kill_task_manager(self) -> None:
        """Kill the oldest task manager, so that it can say nothing."""
        process = self.task_managers.pop(0)
        process.kill()
        process.wait()

    def wait_for_task_managers(self, count: int, limit_s: float = 60) -> None:
        """Wait until the job manager knows of so many task managers."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if self.ask("overview")["taskmanagers"] == count:
                    return
            time.sleep(0.2)
        pytest.fail(f"the Flink cluster has not {count} task managers after {limit_s:.0f} s: see {self._folder}")

    def ask(self, what: str) -> dict[str, Any]:
        """Return what the job manager's REST interface answers."""
        with urllib.request.urlopen(f"http://{self.master}/{what}", timeout=5) as answer:
            return json.load(answer)

    def stop(self) -> None:
        """Stop all processes, and those that they have started."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

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
def flink_cluster() -> Iterator[FlinkCluster]:
    """Run a cluster while the block does; what its processes say is in a folder that is kept if the block fails."""
    _fetched("cluster")
    folder = Path(tempfile.mkdtemp(prefix="flink-"))
    cluster = FlinkCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in taken]
