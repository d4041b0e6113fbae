"""Worker pool beside a task manager: workers run this Python, and each ends with the task manager that started it.

Beam's own pool (`apache_beam.runners.worker.worker_pool_main`, 2.77) starts the first `python` on its PATH. It stops
workers by ids that every task manager and every job counts from one. Where two task managers share a pool, one stops
the worker of the other, and Flink waits for that worker for ever.
"""

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from flowloom.pipelines.engines.harness import AnsweringHarness
from flowloom.schemas.errors import FlowloomError

_WORK = """\
import sys
from flowloom.pipelines.terminal.startup import quick_start
with quick_start(cloud=False):
    from flowloom.pipelines.engines.worker_pool import work
work(*sys.argv[1:])
"""


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """The service from which task managers request workers (Beam's `BeamFnExternalWorkerPool`)."""

    def __init__(self) -> None:
        self._workers: list[subprocess.Popen[bytes]] = []

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the service's method
        """Starts a worker that takes its work from the address in the request."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        command = [sys.executable, "-c", _WORK, request.control_endpoint.url, request.worker_id]
        self._workers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr))
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Does nothing: the task manager closes the worker's source of work next, which ends the worker."""
        return beam_fn_api_pb2.StopWorkerResponse()

    def kill(self) -> None:
        """Kills all workers."""
        for worker in self._workers:
            worker.kill()
            worker.wait()


def work(address: str, worker_id: str) -> None:
    """Runs a worker until its source of work closes or is lost, and then ends the process at once."""
    try:
        AnsweringHarness(address, worker_id=worker_id, data_buffer_time_limit_ms=-1).run()
    finally:
        os._exit(0)


@contextlib.contextmanager
def worker_pool(port: int) -> Iterator[str]:
    """Serves a pool to this machine while the block runs, and yields its address; its workers end with the block.

    Args:
      port: the port to listen at; 0: any free port.

    Raises:
      FlowloomError: if the port is in use.
    """
    # without this, two pools at one port would share the requests, as would one at ::1 and one at 127.0.0.1
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    pool = WorkerPool()
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    try:
        address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    except RuntimeError:
        raise FlowloomError(
            f"--port must be a free port of 127.0.0.1, got {port}; stop the program that listens there, or choose "
            "another port"
        ) from None
    server.start()
    try:
        yield address
    finally:
        server.stop(None).wait()
        pool.kill()


def serve(port: int, say: Callable[[str], None]) -> None:
    """Serves a pool until the process receives SIGINT or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with worker_pool(port) as address:
        say(f"workers at {address}")
        ended.wait()
