"""Exports are loaded only as their contract lists them, and mixtures without a graph of TensorFlow."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import file_sha256, sealed
from flowloom.trainers.deploy.deployed_model import DeployedModel
from flowloom.trainers.deploy.export_layout import CONTRACT, LITERT, WEIGHTS, read_contract
from flowloom.trainers.deploy.packet_scorer import StreamingScorer

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "flowloom-0.1"


@pytest.fixture
def export(tmp_path) -> Path:
    """A copy of an export, with the digest of its contract."""
    folder = Path(shutil.copytree(FIXTURES / "export", tmp_path / "export"))
    (folder / CONTRACT).write_text(json.dumps(sealed(json.loads((folder / CONTRACT).read_text()))))
    return folder


def flip(path: Path, at: int) -> None:
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def reweigh(folder: Path, **changes: np.ndarray) -> None:
    """Replaces arrays of an export as its author could, with the right digest."""
    with np.load(folder / WEIGHTS) as arrays:
        np.savez(folder / WEIGHTS, **{**arrays, **changes})
    contract = read_contract(folder)
    contract["sha256"][WEIGHTS] = file_sha256(folder / WEIGHTS)
    (folder / CONTRACT).write_text(json.dumps(contract))


def test_a_mixture_needs_no_tensorflow(export):
    shutil.rmtree(export / "saved_model")
    code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None  # importing them fails
from flowloom.trainers.deploy.deployed_model import DeployedModel
from flowloom.trainers.deploy.packet_scorer import StreamingScorer
assert DeployedModel.open({str(export)!r}).engine == "lanes"
DeployedModel.open({str(export)!r}).load()
StreamingScorer.load({str(export)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", [0, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("name", [WEIGHTS, CONTRACT])
def test_a_flipped_bit_of_a_mixture_is_named(export, name, place):
    flip(export / name, int(place * (export / name).stat().st_size))
    for load in (lambda: DeployedModel.open(export).load(), lambda: StreamingScorer.load(export)):
        with pytest.raises(FlowloomError, match=f"{name}|{export}"):
            load()


def test_files_that_the_contract_does_not_list_are_refused(export):
    contract = read_contract(export)
    del contract["sha256"][WEIGHTS]
    (export / CONTRACT).write_text(json.dumps(contract))
    with pytest.raises(FlowloomError, match=r"\.npz must be listed in features\.json with its SHA-256, got none"):
        DeployedModel.open(export).load()


@pytest.mark.parametrize("name", ["saved_model/saved_model.pb", "saved_model/more"])
def test_a_graph_is_loaded_only_if_all_its_files_are_listed(export, name):
    contract = read_contract(export)
    contract["streaming"] = {"reason": "to need the graph"}
    (export / CONTRACT).write_text(json.dumps(contract))
    with open(export / name, "ab") as file:
        file.write(b"more")
    with pytest.raises(FlowloomError, match=rf"{name}.* must (have the SHA-256|be listed)"):
        DeployedModel.open(export).load()


def test_a_flipped_bit_of_a_litert_model_is_named(tmp_path):
    folder = Path(shutil.copytree(FIXTURES / "litert", tmp_path / "lite"))
    contract = read_contract(folder)
    contract["streaming"] = {"reason": "to need the LiteRT model"}
    (folder / CONTRACT).write_text(json.dumps(contract))
    flip(folder / LITERT, 2000)
    with pytest.raises(FlowloomError, match=r"model\.tflite must have the SHA-256"):
        DeployedModel.open(folder).load()


def test_a_hostile_graph_with_the_right_digests_does_not_run(export, tmp_path):
    canary = tmp_path / "canary"

    class Hostile(tf.Module):
        """A model that writes a file."""

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def serve(self, rows):
            tf.io.write_file(str(canary), "written")
            return {"app": rows}

    shutil.rmtree(export / "saved_model")
    tf.saved_model.save(Hostile(), str(export / "saved_model"))
    contract = read_contract(export)
    contract["streaming"] = {"reason": "to need the graph"}
    contract["sha256"] = {
        str(path.relative_to(export)): file_sha256(path)
        for path in (export / "saved_model").rglob("*")
        if path.is_file()
    }
    contract["sha256"]["profile.json"] = file_sha256(export / "profile.json")
    (export / CONTRACT).write_text(json.dumps(contract))
    with pytest.raises(FlowloomError, match=r"must have only operations of networks, got .*WriteFile; do not run"):
        DeployedModel.open(export).load()
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("gate_kernel", np.zeros((1, 1, 1), np.float32)),
        ("sees", np.ones((1, 900), bool)),
        ("gated", np.ones(50, bool)),
        ("bias", np.zeros((1, 4), np.float32)),
        ("head_bias_0", np.zeros(9, np.float32)),
        ("kernel", np.zeros((1, 2, 3), np.float32)),
        ("shares", np.zeros((1, 1), np.float64)),
    ],
)
def test_arrays_must_fit_the_structure(export, name, array):
    reweigh(export)
    DeployedModel.open(export).load()
    reweigh(export, **{name: array})
    for load in (lambda: DeployedModel.open(export).load(), lambda: StreamingScorer.load(export)):
        with pytest.raises(FlowloomError, match=rf"weights\.npz does not fit its contract \({name}|kernel must be"):
            load()


def test_a_compressed_archive_is_refused(export):
    with np.load(export / WEIGHTS) as arrays:
        np.savez_compressed(export / WEIGHTS, **arrays)
    contract = read_contract(export)
    contract["sha256"][WEIGHTS] = file_sha256(export / WEIGHTS)
    (export / CONTRACT).write_text(json.dumps(contract))
    with pytest.raises(FlowloomError, match="must be stored without compression"):
        DeployedModel.open(export).load()
