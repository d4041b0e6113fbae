"""Names of tasks as recipe settings hold them, none of them twice."""

from typing import Annotated

import pydantic


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("must not repeat a task")
    return names


TaskNames = Annotated[tuple[str, ...], pydantic.AfterValidator(_distinct)]
