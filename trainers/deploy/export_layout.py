"""Layout of an exported model's folder, and its checked files, for its writer and for readers without TensorFlow."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import check_digest, unsealed

CONTRACT = "features.json"
SAVED_MODEL = "saved_model"
LITERT = "model.tflite"
ONNX = "model.onnx"
WEIGHTS = "weights.npz"
FORMAT_VERSION = 1
_AGAIN = "export the run again"


def read_contract(root: Path) -> dict[str, Any]:
    """Returns the contract of an export, or the features of a run that has the same file name.

    Raises:
      OSError: if it cannot be read.
      FlowloomError: if it is damaged.
    """
    path = root / CONTRACT
    try:
        contract = json.loads(path.read_bytes())
    except ValueError as error:
        raise FlowloomError(f"{path} is not JSON ({error}); {_AGAIN}") from None
    if not isinstance(contract, dict):
        raise FlowloomError(f"{path} must be a JSON object, got {type(contract).__name__}; {_AGAIN}")
    return dict(unsealed(contract, path, _AGAIN))


def model_folder(path: Path) -> Path:
    """Returns the folder of a model, given the folder or the model file in it."""
    return path.parent if path.name in (LITERT, ONNX) and path.is_file() else path


def export_file(root: Path, contract: Mapping[str, Any], name: str) -> Path:
    """Returns a file of an export, after a check of its digest in the contract.

    Raises:
      FlowloomError: if the contract does not list the file, or lists another digest.
    """
    listed = contract.get("sha256")
    sha256 = listed.get(name) if isinstance(listed, dict) else None
    if not isinstance(sha256, str) or not sha256:
        raise FlowloomError(f"{root / name} must be listed in {CONTRACT} with its SHA-256, got none; {_AGAIN}")
    check_digest(root / name, sha256, _AGAIN)
    return root / name


def saved_model_folder(root: Path, contract: Mapping[str, Any]) -> Path:
    """Returns the SavedModel of an export, after a check of every file in it.

    Raises:
      FlowloomError: if a file is missing or damaged, or the contract does not list it.
    """
    folder = root / SAVED_MODEL
    stored = {path.relative_to(root).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    listed = {name for name in contract.get("sha256", {}) if name.startswith(f"{SAVED_MODEL}/")}
    for name in sorted(stored | listed):
        export_file(root, contract, name)
    return folder
