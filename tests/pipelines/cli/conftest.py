"""A dataset that the command line built, and a way to run commands."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flowloom.pipelines.cli.main import main


@pytest.fixture(scope="module")
def dataset(corpus, manifest, tmp_path_factory) -> Path:
    """A dataset that the command line built."""
    (corpus / "cli.yaml").write_text(manifest)
    out = tmp_path_factory.mktemp("cli") / "dataset"
    with pytest.raises(SystemExit) as exit_:
        main(["build", str(corpus / "cli.yaml"), str(out), "--workers", "1"])
    assert exit_.value.code == 0
    return out


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """A function that runs one command and returns (exit code, stdout, stderr)."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return command
