"""Locks hold between processes, end with their process, and leave no file behind."""

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.folder_lock import LOCK, locked_folder, locked_output


@contextlib.contextmanager
def holder(lock: str, path: Path) -> Iterator[subprocess.Popen]:
    """Yields another process that holds a lock until it is killed or its input is closed."""
    code = textwrap.dedent(f"""
        import sys
        from flowloom.schemas.folder_lock import {lock}
        with {lock}({str(path)!r}):
            print("held", flush=True)
            sys.stdin.read()
    """)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("lock", [locked_folder, locked_output])
def test_another_process_waits_until_the_holder_ends(tmp_path, lock):
    path = tmp_path / "run"
    with holder(lock.__name__, path) as process:
        refused = rf"run is in use by process {process.pid} on \S+ since 20\S+; wait for it, or end that process"
        with pytest.raises(FlowloomError, match=refused), lock(path):
            pytest.fail("both hold the lock")
        process.communicate("")
        with lock(path):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lock", [locked_folder, locked_output])
def test_a_killed_process_holds_no_lock(tmp_path, lock):
    path = tmp_path / "run"
    with holder(lock.__name__, path) as process:
        process.kill()
        process.wait()
        assert list(tmp_path.rglob(f"*{LOCK}"))
        with lock(path):
            pass
    assert not list(tmp_path.rglob(f"*{LOCK}"))


def test_a_folder_that_was_written_to_stays(tmp_path):
    with locked_folder(tmp_path / "run"):
        (tmp_path / "run" / "recipe.json").write_text("{}")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.json"]


def test_places_without_a_lock_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FlowloomError, match="file must be a folder to write to, got"), locked_folder(tmp_path / "file"):
        pass
    with pytest.raises(FlowloomError, match="cannot be locked by the file"), locked_output(tmp_path / "none" / "out"):
        pass
