"""The `flowloom` command: every subcommand turns its options into an options object and calls one function.

Heavy modules are imported inside the commands that need them. Results go to stdout, all else to stderr.
"""

import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer._click.exceptions import ClickException
from typer.rich_utils import rich_format_error

from flowloom.pipelines.cli import dataset_commands, model_commands, reference_commands, reproduce_commands
from flowloom.pipelines.cli.process_end import INTERRUPTED, catch_signals, exit_code_of, leave
from flowloom.pipelines.cli.shared import with_log_format
from flowloom.pipelines.terminal.event_log import log_as
from flowloom.pipelines.terminal.terminal_text import terminal_text

app = typer.Typer(
    name="flowloom",
    help="Build multi-task datasets from packet captures, and train multi-task traffic models on them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

_COMMANDS: Mapping[str, Mapping[str, Callable[..., None]]] = {
    "Datasets": {
        "flows": dataset_commands.flows,
        "compare-definitions": dataset_commands.compare_definitions,
        "init": dataset_commands.init,
        "plan": dataset_commands.plan,
        "build": dataset_commands.build,
        "describe": dataset_commands.describe,
        "show": dataset_commands.show_flow,
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
    "Reference": {
        "recipes": reference_commands.recipes,
        "presets": reference_commands.presets,
        "schema": reference_commands.schema,
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
        app.command(_name, rich_help_panel=_panel)(with_log_format(_command))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with a code of docs/errors.md.

    Args:
      arguments: the command line without the program's name; those after `--` go to Beam. Default: `sys.argv`, which
        makes the process the command's own: it takes signals, and ends whatever its threads do.
    """
    own = arguments is None
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    log_as("text")
    if own:
        catch_signals()
    code = exit_code_of(lambda: _run(given[:end], tuple(given[end + 1 :])))
    if own:
        leave(code)
    log_as("text")  # the format is that of one command, and the process goes on
    sys.exit(code)


def _run(arguments: list[str], beam_args: tuple[str, ...]) -> None:
    """Runs a command; wrong usage is printed as typer prints it, with escaped texts."""
    try:
        code = app(args=arguments, obj=beam_args, standalone_mode=False)
    except ClickException as error:
        error.message = error.message and terminal_text(error.message)
        rich_format_error(error)
        sys.exit(error.exit_code)
    if code == INTERRUPTED:  # typer's form of an interrupt outside of commands
        raise KeyboardInterrupt
    if code:
        sys.exit(code)


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
