"""The `flowloom` command: every subcommand turns its options into an options object and calls one function.

Heavy modules are imported inside the commands that need them. Results go to stdout, all else to stderr.
"""

import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from flowloom.pipelines.cli import dataset_commands, model_commands, reproduce_commands
from flowloom.pipelines.cli.shared import fail
from flowloom.schemas.errors import FlowloomError

app = typer.Typer(
    name="flowloom",
    help="Build multi-task datasets from packet captures, and train multi-task traffic models on them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_COMMANDS: Mapping[str, Mapping[str, Callable[..., None]]] = {
    "Datasets": {
        "flows": dataset_commands.flows,
        "compare-definitions": dataset_commands.compare_definitions,
        "plan": dataset_commands.plan,
        "build": dataset_commands.build,
        "describe": dataset_commands.describe,
        "verify": dataset_commands.verify,
        "weave": dataset_commands.weave,
        "publish": dataset_commands.publish,
        "fetch": dataset_commands.fetch,
        "worker-pool": dataset_commands.worker_pool,
    },
    "Models": {
        "train": model_commands.train,
        "tune": model_commands.tune,
        "evaluate": model_commands.evaluate,
        "export": model_commands.export,
        "score": model_commands.score,
        "retrain": model_commands.retrain,
    },
    "Demo and papers": {
        "demo": reproduce_commands.demo,
        "reproduce": reproduce_commands.reproduce,
    },
}
"""All commands by the panel of `flowloom --help` that lists them."""

_BEAM_COMMANDS = ("build", "score")

for _panel, _commands in _COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_panel)(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with 0, 1 (the job failed) or 2 (wrong usage).

    Args:
      arguments: the command line without the program's name; those after `--` go to Beam. Default: `sys.argv`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    try:
        app(args=given[:end], obj=tuple(given[end + 1 :]))
    except FlowloomError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error}; check the path, its permissions and the free space")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flowloom {importlib.metadata.version('flowloom')}")
        raise typer.Exit


@app.callback()
def _check_beam_options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.obj and context.invoked_subcommand not in _BEAM_COMMANDS:
        given: Any = " ".join(context.obj)
        raise typer.BadParameter(
            f"only {' and '.join(_BEAM_COMMANDS)} take options for Beam after --, got {given}; remove them"
        )
