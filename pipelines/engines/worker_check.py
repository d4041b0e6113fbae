"""Roll call: before a job begins, its workers show that they live, run this Flowloom and share the job's folder.

Rows wait in files of that folder (decision 9). A worker on a machine without it would write them where nobody looks.
"""

import dataclasses
import importlib.metadata
import json
import os
import socket
import uuid
from typing import Any

import apache_beam as beam

from flowloom.schemas.atomic_files import UNFINISHED, write_text
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.io.spill import SCRATCH

CALLS = 16
"""Calls of one roll, spread over the workers; a worker may answer several."""

_FOLDER = f"{SCRATCH}/roll"


@dataclasses.dataclass(frozen=True)
class Roll:
    """A roll call of a job: the folder that all workers have to share, and a word in it that nobody can guess."""

    job: str
    word: str

    @property
    def _folder(self) -> str:
        return f"{self.job}/{_FOLDER}"

    @classmethod
    def begin(cls, job: str) -> "Roll":
        """Put a new word into a job's folder."""
        roll = cls(job, uuid.uuid4().hex)
        os.makedirs(roll._folder)
        write_text(f"{roll._folder}/word", roll.word)
        return roll

    def answer(self, call: int) -> int:
        """Write down who answers a call, on a worker, and return the call.

        Raises:
          FlowloomError: if the worker does not find the word in the folder.
        """
        try:
            with open(f"{self._folder}/word", encoding="utf-8") as file:
                found = file.read()
        except OSError as error:
            found = error.strerror or str(error)
        if found != self.word:
            raise FlowloomError(
                f"the job's folder {self.job} must be one and the same folder for all workers, the worker on "
                f"{socket.gethostname()} does not see what the submitter put there ({found}); let the dataset lie on "
                "a filesystem that all machines mount at the same path"
            )
        answer = {"host": socket.gethostname(), "version": _version()}
        write_text(f"{self._folder}/answer-{call}-{uuid.uuid4().hex}", json.dumps(answer))
        return call

    def check(self) -> list[str]:
        """Return the hosts that answered, sorted, at the submitter.

        Raises:
          FlowloomError: if nobody's answer arrived in the folder, or a worker has another version of Flowloom.
        """
        answers = []
        for name in os.listdir(self._folder):
            if name.startswith("answer-") and not name.endswith(UNFINISHED):
                with open(f"{self._folder}/{name}", encoding="utf-8") as file:
                    answers.append(json.load(file))
        if not answers:
            raise FlowloomError(
                f"workers answered into a folder {self.job} that is not the submitter's; let the dataset lie on a "
                "filesystem that all machines mount at the same path"
            )
        for answer in answers:
            if answer["version"] != _version():
                raise FlowloomError(
                    f"workers must have the submitter's Flowloom {_version()}, the one on {answer['host']} has "
                    f"{answer['version']}; install the same version there and start its worker pool again"
                )
        return sorted({answer["host"] for answer in answers})


@dataclasses.dataclass
class AnswerRoll(beam.PTransform):
    """`Roll.answer` by all workers, as far as the engine spreads the calls."""

    roll: Roll

    def expand(self, root: Any) -> Any:
        """Return the calls that were answered."""
        calls = root | "Calls" >> beam.Create(range(CALLS), reshuffle=False)
        return calls | "Spread" >> beam.Reshuffle() | "Answer" >> beam.Map(self.roll.answer)


def _version() -> str:
    return importlib.metadata.version("flowloom")
