"""Examples in docstrings of networks, layers and row specs run and print what they say."""

import doctest
import importlib

import pytest
import source_tree

FOLDERS = ("feed", "layers", "models")
MODULES = [
    ".".join(("flowloom", *path.with_suffix("").parts))
    for path in source_tree.modules()
    if path.parts[0] == "trainers" and path.parts[1] in FOLDERS and ">>> " in (source_tree.ROOT / path).read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted
    assert not failed
