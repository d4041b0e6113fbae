"""A way to run commands."""

from collections.abc import Callable

import pytest

from flowloom.pipelines.cli.main import main


@pytest.fixture
def command(capsys) -> Callable[..., tuple[int, str, str]]:
    """A function that runs one command and returns (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return run
