"""Output of commands: everything that goes to a terminal passes `terminal_text`, which escapes and masks."""

import json
import os
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from flowloom.schemas.printable import printable
from flowloom.schemas.secrets import values_without_secrets, without_secrets


def terminal_text(text: object) -> str:
    """Returns text of one line without control characters (`printable`) and without secrets (`without_secrets`)."""
    return printable(without_secrets(str(text)))


class TerminalConsole(Console):
    """Console whose tables and lines pass `terminal_text`; the control sequences are those of rich alone."""

    def on_broken_pipe(self) -> None:
        """Raises the error on stdout, whose reader wants no more; messages on stderr are lost."""
        if not self.stderr:
            raise BrokenPipeError
        self.quiet = True

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields the segments of a renderable with escaped text."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n":
                yield segment
            else:
                lines = "\n".join(map(terminal_text, segment.text.split("\n")))
                yield segment if lines == segment.text else Segment(lines, segment.style)


def say(text: object) -> None:
    """Prints one line of a result on stdout."""
    typer.echo(terminal_text(text))


def show(renderable: RenderableType) -> None:
    """Prints a table of a result on stdout."""
    TerminalConsole().print(renderable)


def print_json(document: Any) -> None:
    """Prints a document as one line of JSON on stdout, in ASCII."""
    typer.echo(json_line(document))


def json_line(document: Any) -> str:
    """Returns a document as one line of JSON in ASCII, without secrets and control characters."""
    return json.dumps(values_without_secrets(document), default=os.fspath).replace("\x7f", "\\u007f")
