"""`import flowloom as fl`: names that are imported when they are used, and nothing that they do not need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flowloom as fl
from flowloom.pipelines.demo_corpus import CORPUS

ROOT = Path(__file__).resolve().parent.parent
CAPTURE = CORPUS / "captures/web/nginx/plain-01.pcap.zst"
HEAVY = ("apache_beam", "tensorflow", "keras", "torch", "datasets", "polars", "numba", "pyarrow", "numpy", "pandas")


def loaded(code: str, cwd: Path) -> list[str]:
    """Returns the heavy libraries that a fresh process has loaded after some code."""
    code = f"import sys; {code}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


def test_importing_the_package_loads_nothing_heavy(tmp_path):
    assert loaded("import flowloom as fl; dir(fl); fl.__version__", tmp_path) == []


@pytest.mark.parametrize(
    "call",
    [
        f"fl.read_flows({str(CAPTURE)!r})",
        f"list(fl.scan_flows({str(CAPTURE)!r}, text_addresses=True, capture=True))",
        f"fl.read_packets({str(CAPTURE)!r}, text_addresses=True)",
    ],
)
def test_flows_and_packets_need_numba_and_arrow_alone(call, tmp_path):
    assert set(loaded(f"import flowloom as fl; {call}", tmp_path)) - {"pandas"} == {"numba", "pyarrow", "numpy"}


@pytest.mark.parametrize("name", ["FlowDefinition", "Task", "CorpusManifest", "FlowloomError", "open_dataset"])
def test_contracts_and_datasets_need_no_tensorflow(name, tmp_path):
    assert not {"tensorflow", "keras", "apache_beam", "polars"} & set(loaded(f"from flowloom import {name}", tmp_path))


def test_every_name_is_there_and_typed():
    assert fl.__all__ == sorted(fl.__all__)
    assert set(fl.__all__) <= set(dir(fl))
    for name in fl.__all__:
        assert getattr(fl, name) is not None
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {
        alias.asname: (each.module, alias.name)
        for each in typed.body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    assert set(imported) == set(fl.__all__) - {"__version__"}
    for name, (module, inner) in imported.items():
        place, colon, known = fl._PLACES[name].partition(":")
        expected = (module, inner) if known or not colon else (f"{module}.{inner}", inner)
        assert (f"flowloom.{place}", known or (name if not colon else inner)) == expected


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'flowloom' has no attribute 'raed_flows'"):
        _ = fl.raed_flows


@pytest.mark.parametrize(
    ("library", "name", "extra"),
    [("apache_beam", "build", "build"), ("apache_beam", "weave", "build"), ("tensorflow", "train", "train"),
     ("keras", "models", "train")],
)  # fmt: skip
def test_a_missing_library_is_named_with_the_command_that_installs_it(library, name, extra, tmp_path):
    code = f"""if True:
        import sys
        sys.modules[{library!r}] = None  # importing it fails
        import flowloom as fl
        try:
            fl.{name}
        except fl.FlowloomError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    expected = f"flowloom.{name} needs {library}; install it with: pip install 'flowloom[{extra}]'\n"
    assert (done.stdout, done.returncode) == (expected, 0), done.stderr
