"""Verdict of a job: its workers write either the result file or `failure.txt`, and the caller reads which."""

import json
import os
from collections.abc import Iterable, Sequence

from flowloom.schemas.atomic_files import write_json, write_text
from flowloom.schemas.errors import FlowloomError

FAILURE = "failure.txt"
"""File with the faults of a job, in place of its result."""


WHOLE_GROUPS = "whole_groups.json"
"""File with the names of groups for which the job must be run again, with each of them metered in one piece."""


def ask_whole(staging: str, groups: Sequence[str]) -> str:
    """Writes the names of groups that must be metered in one piece, and returns the path of the file."""
    write_json(f"{staging}/{WHOLE_GROUPS}", list(groups))
    return f"{staging}/{WHOLE_GROUPS}"


def asked_whole(staging: str) -> list[str]:
    """Returns the groups of `ask_whole`, none if the job did not ask."""
    try:
        with open(f"{staging}/{WHOLE_GROUPS}", encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return []


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
