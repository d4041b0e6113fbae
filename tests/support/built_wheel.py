"""The wheel of the package, built from what is committed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HALVES = ("pipelines", "schemas", "trainers", "transforms")


def build_wheel(source: Path, **environment: str) -> Path:
    """Returns the wheel of a clean copy in a folder: what an earlier build left behind would be packed again."""
    for name in ("__init__.py", "py.typed", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for half in HALVES:
        shutil.copytree(ROOT / half, source / half, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    (built,) = (source / "dist").glob("flowloom-*.whl")
    return built
