"""Runs the blocks of a page in a folder, and gives what their commands print."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from object_store import object_store
from page_blocks import ROOT, Block, blocks, commands
from page_folder import Stock

from flowloom.pipelines.cli.main import main

SHORTER = {
    "train": ("--set", "epochs=1"),
    "retrain": ("--set", "epochs=1"),
    "tune": ("--quick",),
    "plan": ("--rates", "stored"),
}
"""Options that make a command shorter, for blocks whose figures no page shows."""
WHOLE = (
    "--rollback",
    "paradigm=incremental",
    "--rates",
    "extra-trees",
    "forest",
    "boosted-trees",
    "lightgbm",
    "logistic",
)
"""Arguments of commands that are short already, or have no epochs."""
_SHELL = re.compile(r"[|>$*]")


def flowloom(arguments: list[str], shorter: bool = True) -> None:
    """Runs a command in this process, whose imports and compiled kernels are there already."""
    options = () if not shorter or set(WHOLE) & set(arguments) else SHORTER.get(arguments[0], ())
    try:
        main([*arguments, *options])
    except SystemExit as ended:
        if ended.code:
            raise AssertionError(f"{shlex.join(arguments)}: exit code {ended.code}") from None


def run_page(page: Path, stock: Stock) -> Iterator[tuple[Block, str]]:
    """Runs a page in the working folder; yields each block with figures, and the output of the block before it.

    Scripts of a page share their names. Environment variables end with the page.

    Raises:
      AssertionError: with the place of a block that fails.
    """
    names: dict[str, object] = {"__name__": "__page__"}
    found = blocks(page)
    output = ""
    with mock.patch.dict(os.environ), contextlib.ExitStack() as stores:
        for block, following in zip(found, [*found[1:], None], strict=True):
            for name, source in block.given:
                if name == "bucket":
                    stores.enter_context(object_store(name))
                elif not Path(name).exists():
                    stock.put(source, Path(name))
            if "file" in block.comments:
                Path(block.comments["file"]).write_text(block.text)
            elif "figures" in block.comments:
                yield block, output
            elif block.runs:
                output = _run_block(block, names, shown=following is not None and "figures" in following.comments)


def _run_block(block: Block, names: dict[str, object], shown: bool) -> str:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            if block.language == "python":
                exec(compile(block.text, block.place, "exec"), names)
            else:
                for command in commands(block.text):
                    _run_command(command.replace("/srv/flowloom", "srv"), shown)
    except Exception as error:
        raise AssertionError(f"{block.place} must run, got {error!r}\n{printed.getvalue()[-3_000:]}") from error
    return printed.getvalue()


def _run_command(command: str, shown: bool) -> None:
    """Runs one command; targets of make are only checked, because CI runs them, but for a demo whose figures count."""
    words = shlex.split(command, comments=True)
    if words[0] == "export":
        os.environ.update(word.split("=", 1) for word in words[1:])
    elif words == ["make", "demo"] and shown:
        flowloom(["demo", "--out", "demo-output"])
    elif words[0] == "make":
        _run_shell(f"make -C {ROOT} -n {shlex.join(words[1:])}")
    elif words[0] == ".ci/run":
        assert os.access(ROOT / words[0], os.X_OK)
    elif words[0] == "pip":
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        unknown = {name for extras in re.findall(r"\[([a-z,]+)\]", command) for name in extras.split(",")} - set(known)
        assert not unknown, f"{command}: extras must be those of pyproject.toml, got {unknown}"
    elif words[0] == "flowloom" and not _SHELL.search(re.sub(r"'[^']*'| #.*", "", command)):
        flowloom(words[1:], shorter=not shown)
    else:
        _run_shell(command)


def _run_shell(command: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(shell, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}"
