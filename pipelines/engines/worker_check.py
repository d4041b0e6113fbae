"""Worker check: before a job starts, its workers show that they run this Flowloom and share the job's folder.

Rows wait in files of that folder (docs/decisions/0009-build-pipeline.md). A worker on a machine without it would write
them to a folder that no other worker reads.
"""

import dataclasses
import importlib.metadata
import json
import os
import socket
import uuid
from collections.abc import Iterable, Iterator

from flowloom.schemas.atomic_files import UNFINISHED, write_text
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.io.spill import SCRATCH

REQUESTS = 16
"""Requests of one check, spread over the workers; a worker may answer several."""

_FOLDER = f"{SCRATCH}/worker-check"


@dataclasses.dataclass(frozen=True)
class WorkerCheck:
    """A check of one job: the folder that all workers must share, and a random token that lies in it."""

    job: str
    token: str

    @property
    def _folder(self) -> str:
        return f"{self.job}/{_FOLDER}"

    @classmethod
    def begin(cls, job: str) -> "WorkerCheck":
        """Puts a new token into a job's folder."""
        check = cls(job, uuid.uuid4().hex)
        os.makedirs(check._folder)
        write_text(f"{check._folder}/token", check.token)
        return check

    def answer(self, request: int) -> int:
        """Writes the worker's host and version of Flowloom into the job's folder, and returns the request.

        Raises:
          FlowloomError: if the worker does not find the token in the folder.
        """
        try:
            with open(f"{self._folder}/token", encoding="utf-8") as file:
                found = file.read()
        except OSError as error:
            found = error.strerror or str(error)
        if found != self.token:
            raise FlowloomError(
                f"{self.job}: the job's folder must be the same folder for all workers, but the worker on "
                f"{socket.gethostname()} does not find the submitter's file there ({found}); put the dataset on a "
                "filesystem that all machines mount at the same path"
            )
        answer = {"host": socket.gethostname(), "version": _version()}
        write_text(f"{self._folder}/answer-{request}-{uuid.uuid4().hex}", json.dumps(answer))
        return request

    def hosts(self) -> list[str]:
        """Returns the hosts whose answers arrived at the submitter, sorted.

        Raises:
          FlowloomError: if no answer arrived in the folder, or a worker has another version of Flowloom.
        """
        answers = []
        for name in os.listdir(self._folder):
            if name.startswith("answer-") and not name.endswith(UNFINISHED):
                with open(f"{self._folder}/{name}", encoding="utf-8") as file:
                    answers.append(json.load(file))
        if not answers:
            raise FlowloomError(
                f"{self.job}: the workers' answers must arrive in the submitter's folder, got none; put the dataset on "
                "a filesystem that all machines mount at the same path"
            )
        for answer in answers:
            if answer["version"] != _version():
                raise FlowloomError(
                    f"{answer['host']}: workers must have the submitter's Flowloom {_version()}, got "
                    f"{answer['version']}; install the same version there and restart its worker pool"
                )
        return sorted({answer["host"] for answer in answers})


def answer_worker_check(requests: Iterable[int], check: WorkerCheck) -> Iterator[int]:
    """Answers requests of a worker check on this worker, and yields those that were answered.

    Raises:
      FlowloomError: if this worker does not share the job's folder.
    """
    return map(check.answer, requests)


def _version() -> str:
    return importlib.metadata.version("flowloom")
