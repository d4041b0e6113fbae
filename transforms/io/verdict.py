"""Verdict of a job: its workers write either the result file or `failure.txt`, and the caller reads which."""

import os
from collections.abc import Iterable

from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.errors import FlowloomError

FAILURE = "failure.txt"
"""File with the faults of a job, in place of its result."""


def fail(staging: str, faults: Iterable[str]) -> str:
    """Writes the faults of a job, which are sentences, and returns the path of the file."""
    write_text(f"{staging}/{FAILURE}", "; ".join(faults))
    return f"{staging}/{FAILURE}"


def require_success(staging: str, result: str) -> None:
    """Checks that a job wrote its result file.

    Args:
      staging: the folder that the job wrote to.
      result: name of the result file.

    Raises:
      FlowloomError: with the faults of the job, if it failed.
    """
    if os.path.exists(f"{staging}/{result}"):
        return
    try:
        with open(f"{staging}/{FAILURE}", encoding="utf-8") as file:
            faults = file.read()
    except FileNotFoundError:
        faults = f"the job ended and wrote neither {result} nor {FAILURE}; see the logs of its engine"
    raise FlowloomError(faults)
