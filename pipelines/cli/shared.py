"""Options, output and imports that several commands share."""

import functools
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowloom.pipelines.terminal.event_log import LogFormat, log_as
from flowloom.pipelines.terminal.terminal_text import say
from flowloom.schemas.extras import extra_needed

if TYPE_CHECKING:
    from flowloom.schemas.dataset.dataset_card import DatasetCard

HASH_DIGITS = 12
"""Digits of a hash that are printed; `--json` prints all of them."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting of the recipe.")
]
OneEpoch = Annotated[
    bool, typer.Option("--quick", help="Train one epoch, to check that everything runs; scores mean little.")
]
Runner = Annotated[str | None, typer.Option(help="Beam runner; its own options follow after --. Default: embedded.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the manifest's relative paths. Default: the folder of the manifest."),
]
Threads = Annotated[int | None, typer.Option("--workers", min=1, help="Threads. Default: all cores.")]
EmbeddedThreads = Annotated[
    int | None, typer.Option("--workers", min=1, help="Threads of the embedded runner. Default: all cores.")
]
Sha256 = Annotated[
    bool,
    typer.Option("--sha256", help="Read captures once more for their SHA-256, beside their digest."),
]
MaxUncompressed = Annotated[
    str | None, typer.Option(metavar="BYTES", help="Most uncompressed bytes of a compressed capture, such as 10GiB.")
]
MaxRatio = Annotated[
    float | None, typer.Option(min=1, help="Most uncompressed bytes for each byte of a compressed capture.")
]

_LogOption = Annotated[
    LogFormat, typer.Option("--log-format", help="Messages on stderr: text, or json with one line for each event.")
]


def import_trainer(module: str) -> Any:
    """Imports a module that imports TensorFlow, without TensorFlow's messages on stderr.

    Raises:
      FlowloomError: if TensorFlow is not installed.
    """
    with extra_needed("training needs"):
        from flowloom.trainers.native_logs import native_stderr_muted

        with native_stderr_muted():
            return importlib.import_module(module)


def beam_options(context: typer.Context, runner: str) -> tuple[str, ...]:
    """Returns the options after `--`.

    Raises:
      typer.BadParameter: if Beam does not know one.
    """
    from flowloom.pipelines.engines.beam_options import unknown_option

    given: tuple[str, ...] = context.obj or ()
    if fault := unknown_option(runner, given):
        raise typer.BadParameter(fault)
    return given


def print_rows(card: "DatasetCard") -> None:
    """Prints the rows of each split and the content hash."""
    rows = ", ".join(f"{split} {counts.rows:,}" for split, counts in card.splits.items())
    say(f"rows: {rows}; content hash {card.content_hash[:HASH_DIGITS]}")


class CommandEnded(BaseException):
    """Interrupt or closed pipe inside a command, for which typer has ends of its own."""


def with_log_format(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a command with the option `--log-format`, which sets the format of all that goes to stderr.

    Interrupts and closed pipes leave the command as `CommandEnded`.
    """

    @functools.wraps(command)
    def run(*arguments: Any, log_format: LogFormat = "text", **options: Any) -> None:
        log_as(log_format)
        try:
            command(*arguments, **options)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise CommandEnded(error) from error

    signature = inspect.signature(command)
    option = inspect.Parameter("log_format", inspect.Parameter.KEYWORD_ONLY, default="text", annotation=_LogOption)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "log_format": _LogOption}
    return run
