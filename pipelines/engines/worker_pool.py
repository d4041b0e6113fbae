"""A pool of workers beside a task manager: they run this very Python, and each ends with the one that asked for it.

Beam's own pool (`apache_beam.runners.worker.worker_pool_main`, 2.77) starts whatever `python` is first on its PATH, and
stops workers by ids that every task manager and every job counts from one: where two share a pool, one stops the worker
of the other, and Flink waits for it for ever.
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
from apache_beam.runners.worker.sdk_worker import SdkHarness

from flowloom.schemas.errors import FlowloomError

_WORK = """\
import sys
from flowloom.pipelines.terminal.startup import quick_start
with quick_start(cloud=False):
    from flowloom.pipelines.engines.worker_pool import work
work(*sys.argv[1:])
"""


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """The service that task managers ask for workers (Beam's `BeamFnExternalWorkerPool`)."""

    def __init__(self) -> None:
        self._workers: list[subprocess.Popen[bytes]] = []

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name for it
        """Start a worker that takes its work from the address which the request names."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        command = [sys.executable, "-c", _WORK, request.control_endpoint.url, request.worker_id]
        self._workers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr))
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Do nothing: whoever asks closes the worker's source of work next, and the worker ends with that."""
        return beam_fn_api_pb2.StopWorkerResponse()

    def kill(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            worker.kill()
            worker.wait()


def work(address: str, worker_id: str) -> None:
    """Be a worker until its source of work closes or is lost; then end at once, whatever else is going on."""
    try:
        SdkHarness(address, worker_id=worker_id, data_buffer_time_limit_ms=-1).run()
    finally:
        os._exit(0)


@contextlib.contextmanager
def worker_pool(port: int) -> Iterator[str]:
    """Serve a pool to this machine while the block runs, and yield its address; its workers end with the block.

    Args:
      port: where to listen; 0: any that is free.

    Raises:
      FlowloomError: if something listens there already.
    """
    # two at one port would each take some of the requests, and so would one at ::1 and one at 127.0.0.1
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    pool = WorkerPool()
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    try:
        address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    except RuntimeError:
        raise FlowloomError(
            f"a pool of workers cannot listen at 127.0.0.1:{port}: expected a free port; stop who listens there, or "
            "name another by --port"
        ) from None
    server.start()
    try:
        yield address
    finally:
        server.stop(None).wait()
        pool.kill()


def serve(port: int, say: Callable[[str], None]) -> None:
    """Serve a pool until this process is asked to end."""
    ended = threading.Event()
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, lambda *_: ended.set())
    with worker_pool(port) as address:
        say(f"workers at {address}")
        ended.wait()
