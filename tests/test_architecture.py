"""The architecture: folders in layers, imports one way, contracts that cost nothing to import, flows without Beam."""

import ast
import collections
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import source_tree

HEAVY = ("apache_beam", "numba", "numpy", "polars", "pandas", "tensorflow", "keras")
SKETCHES = "tfx_bsl.sketches"
"""The one module of tfx-bsl that does not import TensorFlow (`tests/transforms/inspection/test_dataset_sketch.py`)."""
FOREIGN = {"schemas": set(HEAVY), "transforms": {"tensorflow", "keras", "tfx_bsl"}, "trainers": {"apache_beam"}}
MOST_FILES = 14
FEWEST_FILES = 4
BEAM_CLASSES = ("PTransform", "DoFn", "CombineFn", "NamedTuple")  # the last for transforms with several outputs

# which folders each folder may import, lowest layer first; a new edge is a decision (docs/decisions/0026-layout.md)
ALLOWED: dict[str, str] = {
    "schemas": "",
    "schemas/arrow": "",
    "trainers": "",
    "trainers/layers": "",
    "transforms": "",
    "schemas/corpus": "schemas schemas/arrow",
    "trainers/layers/packets": "trainers/layers",
    "transforms/arrays": "schemas schemas/arrow",
    "pipelines/terminal": "schemas transforms/arrays",
    "schemas/dataset": "schemas schemas/arrow schemas/corpus",
    "trainers/models": "trainers/layers trainers/layers/packets",
    "transforms/io": "schemas transforms/arrays",
    "transforms/windows": "schemas schemas/arrow transforms/arrays",
    "pipelines/engines": "schemas transforms/io",
    "schemas/models": "schemas schemas/arrow schemas/corpus schemas/dataset",
    "trainers/models/baselines": "trainers/layers trainers/models",
    "trainers/models/packets": "trainers/layers/packets trainers/models",
    "trainers/conversion": "schemas trainers trainers/models trainers/models/packets",
    "trainers/feed": "schemas schemas/arrow trainers schemas/corpus schemas/dataset schemas/models",
    "transforms/captures": "schemas schemas/arrow schemas/corpus transforms/arrays transforms/io schemas/models",
    "trainers/trees": "schemas trainers/conversion trainers/feed",
    "transforms/flows": "schemas schemas/arrow schemas/corpus transforms/arrays transforms/captures",
    "transforms/packets": "schemas schemas/arrow schemas/corpus transforms/arrays transforms/captures",
    "trainers/recipes": (
        "schemas schemas/arrow schemas/corpus schemas/dataset trainers/models schemas/models trainers/models/baselines "
        "trainers/models/packets trainers/feed trainers/trees"
    ),
    "transforms/metering": (
        "schemas schemas/arrow schemas/corpus transforms/arrays transforms/io transforms/captures transforms/flows "
        "transforms/packets"
    ),
    "pipelines/flow_tables": (
        "schemas schemas/arrow schemas/corpus transforms/arrays transforms/io transforms/captures transforms/flows "
        "transforms/packets transforms/metering"
    ),
    "trainers/deploy": (
        "schemas schemas/arrow trainers schemas/corpus trainers/layers/packets trainers/models schemas/models "
        "trainers/conversion trainers/feed trainers/trees trainers/recipes"
    ),
    "trainers/evaluation": (
        "schemas schemas/arrow schemas/corpus schemas/dataset trainers/models trainers/conversion trainers/feed "
        "trainers/trees trainers/recipes"
    ),
    "transforms/labels": (
        "schemas schemas/arrow schemas/corpus transforms/arrays transforms/io transforms/windows transforms/captures "
        "transforms/metering"
    ),
    "pipelines/draft": (
        "schemas schemas/arrow schemas/corpus transforms/arrays schemas/dataset transforms/io transforms/captures "
        "transforms/metering transforms/labels"
    ),
    "pipelines/reproduce/kitsune": (
        "schemas schemas/arrow schemas/corpus transforms/arrays schemas/dataset transforms/packets trainers/evaluation"
    ),
    "trainers/fitting": "schemas trainers/feed trainers/trees trainers/recipes trainers/evaluation",
    "transforms/published": (
        "schemas schemas/arrow schemas/corpus transforms/arrays schemas/dataset transforms/io transforms/windows "
        "transforms/captures transforms/flows transforms/packets transforms/labels"
    ),
    "transforms/splits": (
        "schemas schemas/arrow schemas/corpus transforms/arrays schemas/dataset transforms/io transforms/labels"
    ),
    "trainers/training": (
        "schemas schemas/arrow trainers/layers schemas/corpus schemas/dataset trainers/models schemas/models "
        "trainers/conversion trainers/feed trainers/trees trainers/recipes trainers/evaluation trainers/fitting"
    ),
    "transforms/dataset": (
        "schemas schemas/arrow schemas/corpus transforms/arrays schemas/dataset transforms/io transforms/windows "
        "transforms/captures transforms/packets transforms/metering transforms/labels transforms/published "
        "transforms/splits"
    ),
    "trainers/api": (
        "schemas schemas/arrow trainers schemas/dataset trainers/models trainers/models/packets trainers/feed "
        "trainers/recipes trainers/deploy trainers/evaluation trainers/training"
    ),
    "trainers/tuning": "schemas trainers/feed trainers/recipes trainers/evaluation trainers/training",
    "transforms/inspection": (
        "schemas schemas/arrow schemas/corpus transforms/arrays schemas/dataset transforms/labels transforms/splits "
        "transforms/dataset"
    ),
    "transforms/score": (
        "schemas schemas/arrow schemas/corpus transforms/arrays schemas/dataset transforms/io schemas/models "
        "transforms/captures transforms/metering transforms/dataset"
    ),
    "transforms/weave": (
        "schemas schemas/arrow schemas/corpus transforms/arrays schemas/dataset transforms/io transforms/labels "
        "transforms/dataset"
    ),
    "pipelines/describe": (
        "schemas schemas/arrow trainers schemas/corpus schemas/dataset transforms/io pipelines/engines schemas/models "
        "trainers/evaluation transforms/splits transforms/inspection"
    ),
    "pipelines": (
        "schemas schemas/arrow schemas/corpus schemas/dataset transforms/io pipelines/engines schemas/models "
        "transforms/captures transforms/flows transforms/metering pipelines/flow_tables trainers/deploy "
        "trainers/evaluation transforms/labels transforms/published transforms/splits trainers/training "
        "transforms/dataset transforms/inspection transforms/score transforms/weave pipelines/describe"
    ),
    "pipelines/api": (
        "schemas transforms/io pipelines/engines trainers/feed transforms/captures transforms/metering "
        "transforms/labels transforms/splits transforms/dataset trainers/api transforms/weave pipelines"
    ),
    "pipelines/reproduce/engine": (
        "schemas trainers schemas/corpus schemas/dataset trainers/feed trainers/trees trainers/recipes "
        "trainers/evaluation trainers/training transforms/weave pipelines"
    ),
    "pipelines/retrain": (
        "schemas schemas/arrow trainers schemas/corpus pipelines/terminal schemas/dataset transforms/io "
        "pipelines/engines schemas/models transforms/captures trainers/recipes transforms/metering trainers/evaluation "
        "trainers/training transforms/dataset transforms/score pipelines"
    ),
    "pipelines/reproduce/iot_sentinel": (
        "schemas schemas/arrow trainers/feed trainers/recipes trainers/evaluation trainers/training "
        "pipelines/reproduce/engine"
    ),
    "pipelines/reproduce/mtc": (
        "schemas schemas/arrow trainers/layers schemas/corpus schemas/dataset trainers/models trainers/feed "
        "trainers/recipes trainers/evaluation transforms/published pipelines pipelines/reproduce/engine"
    ),
    "pipelines/reproduce/multa": (
        "schemas schemas/corpus schemas/dataset trainers/feed trainers/recipes trainers/deploy trainers/evaluation "
        "pipelines/reproduce/kitsune trainers/training trainers/tuning transforms/weave pipelines "
        "pipelines/reproduce/engine"
    ),
    "pipelines/reproduce/multitask_cnn": (
        "schemas schemas/arrow schemas/corpus schemas/dataset trainers/feed trainers/recipes trainers/evaluation "
        "transforms/published trainers/training pipelines/reproduce/engine"
    ),
    "pipelines/reproduce": (
        "schemas pipelines/reproduce/engine pipelines/reproduce/iot_sentinel pipelines/reproduce/mtc "
        "pipelines/reproduce/multa pipelines/reproduce/multitask_cnn"
    ),
    "pipelines/cli": (
        "schemas trainers schemas/corpus pipelines/terminal schemas/dataset pipelines/engines schemas/models "
        "trainers/recipes pipelines/flow_tables pipelines/draft transforms/weave pipelines/describe pipelines "
        "pipelines/reproduce/engine pipelines/retrain pipelines/reproduce"
    ),
}


@pytest.mark.parametrize("folder", source_tree.edges())
def test_folders_import_only_what_the_architecture_allows(folder):
    assert set(source_tree.edges()[folder]) <= set(ALLOWED[folder].split())


def test_the_architecture_lists_what_there_is_and_has_no_circle():
    edges = source_tree.edges()
    assert set(ALLOWED) == set(edges)
    unused = {folder: set(told.split()) - set(edges[folder]) for folder, told in ALLOWED.items()}
    assert not any(unused.values()), f"edges that nothing needs any more: {unused}"
    layers = source_tree.layers({folder: dict.fromkeys(told.split(), 1) for folder, told in ALLOWED.items()})
    assert [folder for layer in layers for folder in layer] == list(ALLOWED), "write the folders in their layers"


@pytest.mark.parametrize("half", FOREIGN)
def test_halves_import_no_library_of_another_half(half):
    for path in source_tree.modules():
        if path.parts[0] == half:
            for name in source_tree.imported(path):
                assert name.partition(".")[0] not in FOREIGN[half] or name == SKETCHES, f"{path} imports {name}"


def test_folders_are_small_and_say_what_belongs_in_them():
    files = collections.Counter(path.parent for path in source_tree.modules() if path.name != "__init__.py")
    for folder in {path.parent for path in source_tree.modules()}:
        first, *reason = (
            ast.get_docstring(ast.parse((source_tree.ROOT / folder / "__init__.py").read_text())) or ""
        ).split("\n")
        assert first.endswith("."), f"{folder}/__init__.py must say in one line what belongs there"
        assert files[folder] <= MOST_FILES, f"{folder} has {files[folder]} files"
        assert files[folder] >= FEWEST_FILES or reason, f"{folder} has {files[folder]} files and no reason for so few"


def test_tests_mirror_the_folders():
    tested = {
        path.parent for half in source_tree.HALVES for path in (source_tree.ROOT / "tests" / half).rglob("test_*.py")
    }
    for folder in tested:
        assert (source_tree.ROOT / folder.relative_to(source_tree.ROOT / "tests")).is_dir(), (
            f"{folder} tests a folder that is gone"
        )


def test_no_two_files_have_one_name():
    names = collections.Counter(path.name for path in source_tree.modules() if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_public_classes_have_one_name():
    names = collections.Counter(
        node.name
        for path in source_tree.modules()
        for node in ast.parse((source_tree.ROOT / path).read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_schemas_import_nothing_heavy():
    modules = [
        ".".join(("flowloom", *path.with_suffix("").parts))
        for path in source_tree.modules()
        if path.parts[0] == "schemas"
    ]
    assert ast.literal_eval(_loaded(f"import {', '.join(modules)}", HEAVY)) in ([], ["numpy"])  # pyarrow brings NumPy


def test_the_root_package_imports_nothing_until_it_is_asked():
    assert _loaded("import flowloom; assert dir(flowloom)", (*HEAVY, "pyarrow", "importlib.metadata")) == "[]"
    assert _loaded("import flowloom; assert flowloom.__version__", HEAVY) == "[]"
    with pytest.raises(ImportError):
        from flowloom import nothing  # noqa: F401 - it must not be there


def _loaded(code: str, libraries: tuple[str, ...]) -> str:
    """Returns the list of those libraries that a fresh process has loaded after some code, as text."""
    code = f"import sys; {code}; print([name for name in {libraries} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_modules_of_transforms_that_import_beam_hold_ptransforms_only():
    for path in source_tree.modules():
        if path.parts[0] != "transforms":
            continue
        uses_beam = any(name.partition(".")[0] == "apache_beam" for name in source_tree.imported(path))
        assert uses_beam == path.name.endswith("_ptransforms.py"), f"{path} must be named after its PTransforms"
        if not uses_beam:
            continue
        bases = dict.fromkeys(BEAM_CLASSES, True)
        for node in ast.parse((source_tree.ROOT / path).read_text()).body:
            if isinstance(node, ast.ClassDef):
                bases[node.name] = any(bases.get(ast.unparse(base).removeprefix("beam.")) for base in node.bases)
                assert bases[node.name], f"{path}: {node.name} must be one of {', '.join(BEAM_CLASSES)}"
            elif isinstance(node, ast.FunctionDef):  # of glue between pure functions and Beam, which takes tuples
                assert node.name.startswith("_") or node.name == "single", f"{path}: {node.name} must be elsewhere"


def ptransforms() -> Iterator[tuple[Path, ast.ClassDef]]:
    """Yields the public PTransforms of transforms/ and pipelines/ with their modules."""
    for path in source_tree.modules():
        if path.parts[0] in ("transforms", "pipelines"):
            for node in ast.parse((source_tree.ROOT / path).read_text()).body:
                bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
                if "beam.PTransform" in bases and not node.name.startswith("_"):
                    yield path, node


def test_ptransforms_state_the_types_of_their_collections():
    for path, node in ptransforms():
        (expand,) = (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "expand")
        types = [argument.annotation for argument in expand.args.args[1:]] + [expand.returns]
        stated = all(types) and not any(re.search(r"\bAny\b", ast.unparse(each)) for each in types if each)
        assert stated, f"{path}: {node.name}.expand"


def test_ptransforms_have_a_function_of_their_name():
    for path, node in ptransforms():
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", node.name).lower()
        functions = {
            each.name
            for module in (source_tree.ROOT / path).parent.glob("*.py")
            for each in ast.parse(module.read_text()).body
            if isinstance(each, ast.FunctionDef)
        }
        assert name in functions, f"{path}: {node.name} needs {name}"


def test_ptransforms_are_tested_in_the_mirror_of_their_folder():
    for path, node in ptransforms():
        tests = (source_tree.ROOT / "tests" / path.parent).glob("test_*.py")
        tested = any(re.search(rf"\b{node.name}\b", test.read_text()) for test in tests)
        assert tested, f"{path}: {node.name}"


WITHOUT_BEAM = """
import importlib, sys
sys.modules["apache_beam"] = None  # importing it fails
for name in {names}:
    importlib.import_module(name)

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.capture_files import match_captures
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.metering.group_reader import GroupReader

group, definition = "0" * 16, FlowDefinition.of()
uris = match_captures({pattern!r})
assert len(uris) > 1
flows = 0
for uri in uris:
    reading = GroupReader([CaptureRange(uri)], group, definition)
    flows += sum(batch.num_rows for batch in reading.flows())
print(flows)
"""


def test_flows_are_metered_without_beam():
    names = [
        ".".join(("flowloom", *path.with_suffix("").parts))
        for path in source_tree.modules()
        if path.parts[0] == "transforms" and path.name not in ("__init__.py", "nfstream_worker.py")
        if not path.name.endswith("_ptransforms.py")
    ]
    code = WITHOUT_BEAM.format(names=names, pattern=str(source_tree.ROOT / "tests/corpus/captures/web/nginx/plain-*"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
