"""Workers of a pool end with the task manager that requested them, and with no other."""

import concurrent.futures
import contextlib
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2

from flowloom.pipelines.engines.worker_pool import worker_pool
from flowloom.schemas.errors import FlowloomError

pytestmark = pytest.mark.timeout(120)
LIMIT_S = 60


class TaskManager(beam_fn_api_pb2_grpc.BeamFnControlServicer):
    """A source of work without any work, which records when its worker comes and goes."""

    def __init__(self) -> None:
        self.came, self.went, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(self, self._server)
        self._address = f"localhost:{self._server.add_insecure_port('localhost:0')}"
        self._server.start()

    def Control(self, responses, context):  # noqa: N802 - the name of the service's method
        """Gives no work, and waits until it is closed."""
        context.add_callback(self.went.set)
        self.came.set()
        self._closed.wait()
        yield from ()

    def ask(self, pool: beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub) -> None:
        """Requests a worker from a pool, by the id that all task managers begin with."""
        endpoint = endpoints_pb2.ApiServiceDescriptor(url=self._address)
        pool.StartWorker(beam_fn_api_pb2.StartWorkerRequest(worker_id="1-1", control_endpoint=endpoint))

    def close(self) -> None:
        """Closes the source of work."""
        self._closed.set()
        self._server.stop(0)


@contextlib.contextmanager
def two_task_managers() -> Iterator[tuple[TaskManager, TaskManager]]:
    """Yields two task managers on one machine."""
    both = TaskManager(), TaskManager()
    try:
        yield both
    finally:
        for one in both:
            one.close()


def test_task_managers_that_share_a_pool_do_not_stop_each_others_workers():
    with two_task_managers() as (one, other):
        with worker_pool(0) as address, grpc.insecure_channel(address) as channel:
            pool = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
            for manager in (one, other):
                manager.ask(pool)
            assert one.came.wait(LIMIT_S)
            assert other.came.wait(LIMIT_S)
            pool.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"))
            one.close()
            assert one.went.wait(LIMIT_S)
            assert not other.went.wait(0.5)
        assert other.went.wait(LIMIT_S)


def assert_taken(port: int) -> None:
    with (
        pytest.raises(FlowloomError, match=rf"--port must be a free port of 127.0.0.1, got {port}"),
        worker_pool(port),
    ):
        pass


def test_a_port_of_another_pool_is_an_error():
    with worker_pool(0) as address:
        assert_taken(int(address.rpartition(":")[2]))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_of_another_ipv4_program_is_an_error(host):
    with socket.create_server((host, 0)) as program:
        assert_taken(program.getsockname()[1])
