"""README's commands run as they are written, on its own manifest and the embedded captures that it names."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from flowloom.pipelines.demo_corpus import CORPUS

README = Path(__file__).resolve().parents[3] / "README.md"
CHEAP = ("recipes", "flows", "compare-definitions", "plan", "build", "describe", "verify", "weave")
"""Commands that need no TensorFlow."""
ELSEWHERE = ("score", "evaluate", "tune", "export", "retrain", "publish", "fetch", "reproduce")
"""Commands that take long or need other data; their own tests run them."""


def commands() -> list[list[str]]:
    """Returns the arguments of each `flowloom` line in README's shell blocks, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = (line for block in blocks for line in block.splitlines() if line.startswith("flowloom "))
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture
def readme_folder(tmp_path, monkeypatch) -> Path:
    """A folder with README's manifest and captures, in which commands run."""
    text = README.read_text(encoding="utf-8")
    (manifest,) = re.findall(r"^```yaml\n(name: .*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "corpus.yaml").write_text(manifest)
    for source, target in re.findall(r"`cp -r (\S+) (\S+)`", text):
        shutil.copytree(CORPUS / Path(source).relative_to("tests/corpus"), tmp_path / target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_is_tested_here_or_elsewhere():
    names = {command for command, *_ in commands()}
    assert {"build", "describe", "verify", "train"} <= names <= {*CHEAP, "train", *ELSEWHERE}


@pytest.mark.timeout(300)
def test_cheap_commands_run(run, readme_folder):
    for arguments in commands():
        if arguments[0] in CHEAP and "--statistics" not in arguments:
            # the rates of another machine are enough to see that the command runs
            code, _, err = run(*arguments, *(("--rates", "stored") if arguments[0] == "plan" else ()))
            assert code == 0, (arguments, err)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trainings_run(run, readme_folder):
    for arguments in commands():
        if arguments[0] in ("build", "weave"):
            assert run(*arguments)[0] == 0, arguments
        elif arguments[0] == "train":
            once = () if "paradigm=incremental" in arguments else ("--set", "epochs=1")
            code, _, err = run(*arguments, *once)
            assert code == 0, (arguments, err)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_python_block_runs(run, readme_folder):
    assert run("build", "corpus.yaml", "DATASET")[0] == 0
    (block,) = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names: dict = {}
    exec(block.replace("epochs=20", "epochs=1"), names)
    assert names["flows"].num_rows > names["scored"].scores.num_rows == 16
    assert (readme_folder / "RUN-PYTHON" / "run.json").is_file()
