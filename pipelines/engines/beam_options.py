"""Options for Beam: unknown ones are found before a job starts, because Beam would only log them."""

import argparse
import difflib
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions

from flowloom.schemas.errors import did_you_mean

_JOB_SERVERS = ("flink", "spark", "portable")
"""Runners whose job servers have options that Beam's Python half does not know."""

_SURE = 0.9
"""Similarity from which an option is a misspelt one."""


def unknown_option(runner: str, beam_args: Sequence[str]) -> str | None:
    """Returns a sentence about the first option that Beam does not know; None if it knows all.

    An unknown option for a runner with a job server is only a fault if it is nearly a known one.
    """
    if not beam_args:
        return None
    unknown: list[str] = []
    names: list[str] = []

    def ask(parser: argparse.ArgumentParser) -> None:
        unknown.extend(parser.parse_known_args(list(beam_args))[1])
        names.extend(f"--{name}" for name in vars(parser.parse_known_args([])[0]))

    # the function gets a parser of the options of all parts of Beam
    PipelineOptions([]).get_all_options(add_extra_args_fn=ask)
    served = runner.lower().removesuffix("runner") in _JOB_SERVERS
    for given in unknown:
        name = given.partition("=")[0]
        if served and name.startswith("--") and not difflib.get_close_matches(name, names, 1, _SURE):
            continue
        return (
            f"options after -- must be options of Beam, got {given!r}{did_you_mean(name, names)}; correct or remove it"
        )
    return None
