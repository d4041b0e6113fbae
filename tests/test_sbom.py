"""The software bill of materials names every pinned package, and who needs it."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def sbom():
    """The module that writes it."""
    spec = importlib.util.spec_from_file_location("write_sbom", ROOT / ".ci" / "write_sbom.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_names_every_pinned_package(sbom):
    document = sbom.bill(LOCK, PROJECT)
    pinned = re.findall(r"^([a-z0-9-]+)==([^ ]+)", LOCK, re.MULTILINE)
    assert [(each["name"], each["version"]) for each in document["components"]] == pinned
    scopes = {each["name"]: each["scope"] for each in document["components"]}
    assert {name: scopes[name] for name in ("pyarrow", "llvmlite", "tensorflow", "pytest")} == {
        "pyarrow": "required", "llvmlite": "required", "tensorflow": "optional", "pytest": "optional",
    }  # fmt: skip


def test_its_references_hold_together(sbom):
    document = sbom.bill(LOCK, PROJECT)
    itself = document["metadata"]["component"]["bom-ref"]
    references = {itself, *(each["bom-ref"] for each in document["components"])}
    assert len(references) == len(document["components"]) + 1
    needs = {each["ref"]: set(each["dependsOn"]) for each in document["dependencies"]}
    assert set(needs) == references
    assert set().union(*needs.values()) == references - {itself}, "every package is needed by another one"
    direct = {purl.partition("@")[0].removeprefix("pkg:pypi/") for purl in needs[itself]}
    assert {sbom.normal(name) for name in PROJECT["dependencies"]} <= direct


def test_the_same_lock_gives_the_same_document(sbom, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert sbom.bill(LOCK, PROJECT) == sbom.bill(LOCK, PROJECT)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    dated = sbom.bill(LOCK, PROJECT)
    assert dated["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert dated["serialNumber"] == sbom.bill(LOCK, PROJECT)["serialNumber"]
    assert dated["serialNumber"] != sbom.bill(LOCK.replace("2.7.1", "2.7.2"), PROJECT)["serialNumber"]


def test_a_lock_of_another_tool_is_refused(sbom):
    with pytest.raises(ValueError, match=r"must be written by uv, got the line 'numpy>=2'"):
        sbom.bill("numpy>=2\n", PROJECT)
