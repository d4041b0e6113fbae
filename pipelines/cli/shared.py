"""Options, output and imports that several commands share."""

import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flowloom.schemas.errors import FlowloomError

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
Threads = Annotated[int | None, typer.Option("--workers", min=1, help="Threads. Default: all cores.")]
EmbeddedThreads = Annotated[
    int | None, typer.Option("--workers", min=1, help="Threads of the embedded runner. Default: all cores.")
]


def import_trainer(module: str) -> Any:
    """Imports a module that imports TensorFlow, without TensorFlow's messages on stderr.

    Raises:
      FlowloomError: if TensorFlow is not installed.
    """
    try:
        from flowloom.trainers.native_logs import native_stderr_muted

        with native_stderr_muted():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise FlowloomError(f"training needs {error.name}; install it with: pip install 'flowloom[train]'") from None


def print_json(document: Any) -> None:
    """Prints a document as one line of JSON on stdout."""
    typer.echo(json.dumps(document, default=os.fspath))


def print_rows(card: "DatasetCard") -> None:
    """Prints the rows of each split and the content hash."""
    rows = ", ".join(f"{split} {counts.rows:,}" for split, counts in card.splits.items())
    typer.echo(f"rows: {rows}; content hash {card.content_hash[:HASH_DIGITS]}")


def fail(message: str) -> None:
    """Prints an error on stderr and exits with 1."""
    Console(stderr=True).print(f"error: {message}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)
