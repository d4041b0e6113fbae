"""Imports point one way, and the contract costs nothing to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("apache_beam", "numba", "numpy", "polars", "pandas", "tensorflow", "keras")
ROOMS = {
    "schemas": {"schemas"},
    "transforms": {"schemas", "transforms"},
    "trainers": {"schemas", "trainers"},
}
SKETCHES = "tfx_bsl.sketches"
"""The one module of tfx-bsl that does not import TensorFlow (`tests/transforms/test_describing.py`)."""
FOREIGN = {"schemas": set(HEAVY), "transforms": {"tensorflow", "keras", "tfx_bsl"}, "trainers": {"apache_beam"}}


def imported(path: Path) -> set[str]:
    """Return every dotted name that a module imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_rooms_before_them(room):
    for path in (ROOT / room).glob("*.py"):
        for name in imported(path):
            top, _, rest = name.partition(".")
            assert top not in FOREIGN[room] or name == SKETCHES, f"{path} imports {name}"
            assert top != "flowloom" or rest.split(".")[0] in ROOMS[room], f"{path} imports {name}"


def test_schemas_import_nothing_heavy():
    modules = [f"flowloom.schemas.{path.stem}" for path in (ROOT / "schemas").glob("*.py")]
    code = f"import sys, {', '.join(modules)}; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert ast.literal_eval(loaded) in ([], ["numpy"])  # pyarrow brings NumPy where it is installed
