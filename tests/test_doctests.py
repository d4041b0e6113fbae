"""Examples of the Python surface run and print what they say, on embedded captures."""

import doctest
import functools
import importlib
import os
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import flowloom as fl
from flowloom.pipelines.demo_corpus import CORPUS

MANIFEST = """\
name: small
captures:
  - {glob: "captures/web/nginx/plain-0[12]*", labels: {app: web, tunnel: plain}}
  - {glob: "captures/web/nginx/openvpn-0[12]*", labels: {app: web, tunnel: openvpn}}
  - {glob: "captures/terminal/ssh/plain-0[12]*", labels: {app: ssh, tunnel: plain}}
  - {glob: "captures/terminal/ssh/openvpn-0[12]*", labels: {app: ssh, tunnel: openvpn}}
tasks:
  app: {kind: multiclass, vocabulary: [web, ssh]}
  tunnel: {kind: multiclass, vocabulary: [plain, openvpn]}
splits: {by: flow}
"""
EXTRAS = {"Dataset.torch": "torch", "Dataset.huggingface": "datasets"}
"""By method of a dataset the library of an optional extra that its example needs."""
NAMES = [name for name in fl.__all__ if name != "__version__"] + [f"beam.{name}" for name in fl.beam.__all__]
SETTINGS = doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A folder with captures, a manifest, a dataset and a run, in which examples run."""
    folder = tmp_path_factory.mktemp("examples")
    before = Path.cwd()
    os.chdir(folder)
    Path("captures").symlink_to(CORPUS / "captures")
    Path("corpus.yaml").write_text(MANIFEST)
    fl.train(fl.build("corpus.yaml", "DATASET", workers=1), "RUN", epochs=1)
    yield folder
    os.chdir(before)


def examples(name: str) -> list[doctest.DocTest]:
    """Returns the examples of a public name, and of its methods if it is a class."""
    value = functools.reduce(getattr, name.split("."), fl)
    module = value if isinstance(value, types.ModuleType) else importlib.import_module(value.__module__)
    found = doctest.DocTestFinder(recurse=not isinstance(value, types.ModuleType)).find(value, name, module=module)
    return [test for test in found if test.examples]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example_that_runs(name, folder):
    tests = examples(name)
    assert name in [test.name for test in tests], f"{name} must have an example"
    for test in tests:
        if test.name not in EXTRAS:
            assert not doctest.DocTestRunner(optionflags=SETTINGS).run(test).failed, test.name


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "library"), EXTRAS.items())
def test_examples_of_extras_run(name, library, folder, extra_library):
    extra_library(library)
    (test,) = (test for test in examples("Dataset") if test.name == name)
    assert not doctest.DocTestRunner(optionflags=SETTINGS).run(test).failed


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_example_of_the_package_runs(folder):
    (test,) = doctest.DocTestFinder(recurse=False).find(fl, "flowloom")
    assert test.examples
    assert not doctest.DocTestRunner(optionflags=SETTINGS).run(test).failed


@pytest.mark.parametrize("method", ["scan", "tf", "torch", "to_numpy", "huggingface"])
def test_every_method_of_a_dataset_has_an_example(method):
    assert f"Dataset.{method}" in [test.name for test in examples("Dataset")]


@pytest.mark.parametrize("method", ["evaluate", "export"])
def test_every_method_of_a_run_has_an_example(method):
    assert f"Run.{method}" in [test.name for test in examples("Run")]
