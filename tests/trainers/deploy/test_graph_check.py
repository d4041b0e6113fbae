"""Graphs of hostile models are refused before they run, and those of all named recipes pass."""

import shutil
from pathlib import Path

import flatbuffers
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from untrained_models import MIXTURES, NETWORKS, untrained

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.conversion.inference_form import inference_form
from flowloom.trainers.conversion.litert import input_specs
from flowloom.trainers.deploy.graph_check import check_litert, check_saved_model
from flowloom.trainers.recipes.recipe import Recipe

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "flowloom-0.1"


def exported(folder: Path, recipe: Recipe) -> Path:
    """Writes the SavedModel of an untrained model as `export` does."""
    model = inference_form(untrained(recipe))
    model.export(folder, verbose=False, input_signature=[input_specs(model, batch=None)])
    return folder


def test_a_mixture_passes(tmp_path):
    check_saved_model(exported(tmp_path / "model", Recipe.named("multa", ("k=12", "scaling=fixed", "units=4"))))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NETWORKS, *MIXTURES])
def test_the_graphs_of_all_recipes_pass(tmp_path, name):
    recipe = Recipe.named(*MIXTURES.get(name, (name,)))
    check_saved_model(exported(tmp_path / "model", recipe))


class Hostile(tf.Module):
    """A model whose functions do more than a network."""

    def __init__(self, canary: str, how: str) -> None:
        super().__init__()
        self.canary, self.how = canary, how

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def serve(self, rows):
        if self.how == "write":
            tf.io.write_file(self.canary, "written")
        elif self.how == "read":
            rows += tf.cast(tf.strings.length(tf.io.read_file(self.canary)), tf.float32)
        elif self.how == "python":
            rows = tf.numpy_function(lambda x: x, [rows], tf.float32)
        elif self.how == "inside a loop":
            for _ in tf.range(tf.size(rows)):
                tf.io.write_file(self.canary, "written")
        return {"app": rows}


@pytest.mark.parametrize(
    ("how", "operation"),
    [("write", "WriteFile"), ("read", "ReadFile"), ("python", "PyFunc"), ("inside a loop", "WriteFile")],
)
def test_a_graph_that_touches_files_is_refused(tmp_path, how, operation):
    canary = tmp_path / "canary"
    tf.saved_model.save(Hostile(str(canary), how), str(tmp_path / "model"))
    with pytest.raises(FlowloomError, match=rf"\.pb must have only operations of networks, got .*{operation}"):
        check_saved_model(tmp_path / "model")
    assert not canary.exists()


def test_a_graph_with_asset_files_is_refused(tmp_path):
    module, table = tf.Module(), tmp_path / "words.txt"
    table.write_text("a\n")
    module.words = tf.saved_model.Asset(str(table))
    tf.saved_model.save(module, str(tmp_path / "model"))
    with pytest.raises(FlowloomError, match="must have only variables and functions, got asset files"):
        check_saved_model(tmp_path / "model")


def test_a_damaged_graph_is_named(tmp_path):
    shutil.copytree(FIXTURES / "export" / "saved_model", tmp_path / "model")
    check_saved_model(tmp_path / "model")
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(FlowloomError, match=r"saved_model\.pb cannot be read"):
        check_saved_model(tmp_path / "model")


def test_a_litert_model_has_built_in_operations_alone():
    path = FIXTURES / "litert" / "model.tflite"
    content = path.read_bytes()
    check_litert(content, path)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].customCode = b"FlexWriteFile"
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(FlowloomError, match="must have only built-in operations, got FlexWriteFile"):
        check_litert(bytes(builder.Output()), path)
    with pytest.raises(FlowloomError, match=r"cannot be read|got another file"):
        check_litert(b"\xff" * 64, path)
