"""Workers of Beam that answer every instruction, so that no runner waits for an answer that never comes.

Beam's worker (`apache_beam/runners/worker/sdk_worker.py`, 2.77) prints the traceback of a failed instruction before it
answers. If stderr is a closed pipe or lies on a full disk, the print raises an error, the answer is not sent, and the
runner waits for ever. The answer carries the traceback, so here nothing is printed.
"""

import logging
import threading
import traceback
from collections.abc import Callable
from typing import Any

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    FNAPI_RUNNER_CAPABILITIES,
    EmbeddedGrpcWorkerHandler,
    WorkerHandler,
)
from apache_beam.runners.worker import statesampler
from apache_beam.runners.worker.sdk_worker import SdkHarness

THREADS = "flowloom:env:threads:v1"
"""Name of the environment whose workers are threads of this process with an `AnsweringHarness`."""

_LOGGER = logging.getLogger(__name__)


class AnsweringHarness(SdkHarness):
    """Worker that answers an instruction with the traceback of its failure, whatever stderr is."""

    def _execute(self, task: Callable[[], Any], request: Any) -> None:
        with statesampler.instruction_id(request.instruction_id):
            try:
                response = task()
            except BaseException:
                trace = traceback.format_exc()
                _LOGGER.debug("instruction %s failed:\n%s", request.instruction_id, trace)
                response = beam_fn_api_pb2.InstructionResponse(instruction_id=request.instruction_id, error=trace)
            self._responses.put(response)


@WorkerHandler.register_environment(THREADS, bytes)
class ThreadsHandler(EmbeddedGrpcWorkerHandler):
    """Starter of workers that are threads of this process."""

    def start_worker(self) -> None:
        """Starts one worker."""
        self.worker = AnsweringHarness(
            self.control_address,
            state_cache_size=self._state_cache_size,
            data_buffer_time_limit_ms=self._data_buffer_time_limit_ms,
            worker_id=self.worker_id,
            runner_capabilities=FNAPI_RUNNER_CAPABILITIES,
        )
        self.worker_thread = threading.Thread(name="run_worker", target=self.worker.run, daemon=True)
        self.worker_thread.start()
