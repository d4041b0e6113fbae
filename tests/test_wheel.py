"""The wheel: built from what is committed, twice the same bytes, it holds every module and its command answers."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from built_wheel import HALVES, build_wheel

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("source"), SOURCE_DATE_EPOCH="1700000000")


def test_the_same_source_gives_the_same_bytes(wheel, tmp_path):
    (tmp_path / "at another time").mkdir()
    again = build_wheel(tmp_path / "at another time", SOURCE_DATE_EPOCH="1700000000")
    assert again.read_bytes() == wheel.read_bytes()


def test_it_holds_every_module_and_nothing_else(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for half in HALVES for path in (ROOT / half).rglob("*") if path.suffix in (".py", ".j2")]
    roots = [ROOT / "__init__.py", ROOT / "py.typed"]
    assert packed == {f"flowloom/{path.relative_to(ROOT).as_posix()}" for path in [*roots, *files]}


def test_pyproject_lists_every_package():
    told = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = [path.parent.relative_to(ROOT) for half in HALVES for path in (ROOT / half).rglob("__init__.py")]
    assert told == {"flowloom", *(".".join(("flowloom", *folder.parts)) for folder in folders)}
    for half in HALVES:
        for path in (ROOT / half).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has modules and no __init__.py"


def test_its_command_answers(wheel, tmp_path):
    target = tmp_path / "site"
    uv = shutil.which("uv", path=os.path.dirname(sys.executable)) or "uv"
    subprocess.run([uv, "pip", "install", "--quiet", "--no-deps", "--target", target, wheel], check=True)
    # isolated from the editable install beside it: -S leaves its import hook out, the rest of the path is given
    path = [str(target), *(entry for entry in sys.path if entry and Path(entry) != ROOT)]
    code = f"import sys; sys.path[:0] = {path!r}; from flowloom.pipelines.cli.main import main; main(['--version'])"
    answer = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("flowloom ")


SCRIPT = """
import flowloom as fl

reveal_type(fl.open_dataset("DATASET").card.name)
fl.read_flows("x.pcap", k="20")
"""


@pytest.mark.slow
def test_a_type_checker_knows_the_types_of_the_installed_package(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--python-executable", tmp_path / "venv/bin/python", "script.py"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    found = answer.stdout.replace("builtins.", "")
    assert "import-untyped" not in found
    assert 'Revealed type is "str"' in found
    assert 'Argument "k" to "read_flows" has incompatible type "str"' in found
