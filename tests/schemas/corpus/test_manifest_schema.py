"""The JSON schema allows the manifests of the documentation, and marks what the build would refuse."""

import json
import re
from pathlib import Path

import pytest
import yaml
from json_schema import faults

from flowloom.schemas.corpus.manifest_schema import SCHEMA_LINE, manifest_schema

DOCS = Path(__file__).resolve().parents[3] / "docs"
CORPORA = sorted((DOCS / "corpora").glob("*.yaml"))


def found(document) -> list[str]:
    return list(faults(document, manifest_schema(), manifest_schema()))


@pytest.mark.parametrize("path", CORPORA, ids=lambda path: path.stem)
def test_manifests_of_the_documentation_fit_and_name_the_schema(path):
    text = path.read_text()
    assert found(yaml.safe_load(text)) == []
    assert text.startswith(SCHEMA_LINE + "\n")


@pytest.mark.parametrize("page", ["manifest.md", "../README.md"])
def test_whole_manifests_of_pages_fit(page):
    blocks = re.findall(r"^```yaml\n(name: .*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        assert found(yaml.safe_load(block)) == []


def test_the_schema_beside_the_manifests_is_that_of_the_command():
    stored = (DOCS / "corpora" / "manifest.schema.json").read_text()
    assert json.loads(stored) == manifest_schema(), "write it with: flowloom schema manifest"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"layuot": "aurora"}, ".layuot: unknown key"),
        ({"captures": [{"glob": "a", "label_from": {"app": "folder"}}]}, ".captures.0.label_from.app: 'folder' is not"),
        ({"captures": [{"published": "quic-ucdavis"}]}, ".captures.0.path: required"),
        ({"tasks": {"app": {"kind": "multi"}}}, ".tasks.app.kind: 'multi' is not one of"),
        ({"definition": {"preset": "defualt"}}, ".definition.preset: 'defualt' is not one of"),
        ({"definition": {"tunnels": "every"}}, "'every' is not"),
    ],
)
def test_faults_are_marked(changes, fault):
    document = {"name": "a", "captures": [{"glob": "*"}], "tasks": {"app": {"kind": "multiclass"}}}
    assert found(document) == []
    assert any(fault in line for line in found(document | changes))


@pytest.mark.parametrize("tunnels", ["all", ["gre"]])
def test_short_forms_are_allowed(tunnels):
    entry = {"published": "quic-ucdavis", "path": "q", "labels_as": {"service": "app"}, "words": {"app": {"d": None}}}
    document = {"name": "a", "captures": [entry], "tasks": {"app": {"kind": "multiclass", "vocabulary": ["d", "e"]}}}
    assert found({**document, "definition": {"tunnels": tunnels}, "output": {"split_bytes": "256MiB"}}) == []
