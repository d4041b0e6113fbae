"""Export of a run to a folder for deployment, after a check that it gives the model's probabilities."""

import dataclasses
import importlib.metadata
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, cast, get_args

import keras
import numpy as np
import tensorflow as tf

from flowloom.schemas.abandoned import owned_folder, remove_abandoned
from flowloom.schemas.atomic_files import write_json
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.file_digests import file_sha256, sealed
from flowloom.schemas.folder_lock import locked_output
from flowloom.schemas.models.feature_profile import PROFILE
from flowloom.trainers.conversion import onnx_form
from flowloom.trainers.conversion.inference_form import inference_form
from flowloom.trainers.conversion.litert import LiteRTModel, convert, input_specs
from flowloom.trainers.conversion.lstm_weights import streaming_structure, streaming_weights, unstreamable
from flowloom.trainers.conversion.pruning import prune_experts
from flowloom.trainers.conversion.random_rows import random_rows
from flowloom.trainers.deploy import tree_export
from flowloom.trainers.deploy.export_layout import CONTRACT, FORMAT_VERSION, LITERT, ONNX, SAVED_MODEL, WEIGHTS
from flowloom.trainers.deploy.tree_export import TREE_FORMATS, TreeFormat, tree_contract, write_tree_files
from flowloom.trainers.feed import flow_spec
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.native_logs import native_stderr_muted
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.trees.tree_model import TreeModel

Format = Literal["savedmodel", "litert", "onnx", "arrays", "c"]
"""The first three are for networks, the last three for trees and linear models."""
CHECKED_ROWS = 64
TOLERANCE = 1e-5
"""Largest allowed difference of a probability.

Mixtures stay below 1e-6; the wide layers of a CNN, summed in another order, move logits near 10 by more.
"""
INT8_TOLERANCE = 0.05
"""Largest allowed difference of a probability with weights of 8 bits."""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of `export`."""

    run: Path
    out: Path
    """The folder to create."""
    format: Format = "savedmodel"
    int8: bool = False
    """Whether a LiteRT model stores large weights as 8-bit integers; its probabilities may differ by at most 0.05."""

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            formats = get_args(Format)
            raise FlowloomError(
                f"format must be one of {', '.join(formats)}, got {self.format!r}{did_you_mean(self.format, formats)}"
            )
        if self.int8 and self.format != "litert":
            raise FlowloomError(f"format must be litert for 8-bit weights, got {self.format}; add --format litert")
        if self.format == "onnx":
            onnx_form.require_onnx("exporting to ONNX needs", writing=True)


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Result of `export`."""

    out: Path
    format: Format
    size_bytes: int
    """Size of the model's files."""
    parameters: int
    parameters_trained: int
    """Parameters before unused experts were pruned."""
    largest_error: float
    """Largest difference of a probability between the exported and the trained model, on random rows."""
    streaming: bool
    """Whether `StreamingScorer` can load the folder."""


def export(options: ExportOptions) -> ExportReport:
    """Writes the model of a run for deployment, with the contract of its features.

    The folder has `saved_model/` or `model.onnx` (any number of rows) or `model.tflite` (one row), `features.json`, the
    run's `profile.json` and, for a model that can be scored packet by packet, `weights.npz`. That of trees or linear
    models has `trees.npz`, and `model.c` or `model.onnx` on demand. It appears when it is complete and checked.

    Raises:
      FlowloomError: if the run cannot be read, the folder exists, the format cannot hold the model, or the exported
        model gives other probabilities.
    """
    run = Run.open(options.run)
    model = run.load_model()
    _check_format(options, run)
    pruned = prune_experts(model) if isinstance(model, LMMoE) else model
    with _published(options.out) as folder:
        if isinstance(model, TreeModel):
            error = write_tree_files(model, folder, cast(TreeFormat, options.format), run.recipe.seed)
        else:
            exported = _write(inference_form(model), folder, options)
            error = _largest_error(model, exported, run.recipe.seed)
        tolerance, remedy = (
            (INT8_TOLERANCE, "export it without --int8") if options.int8 else (TOLERANCE, "please report it")
        )
        if not error <= tolerance:
            raise FlowloomError(
                f"the exported model of run {run.root} must give the trained one's probabilities to {tolerance:.0g}, "
                f"got a difference of {error:.2g}; nothing was published, {remedy}"
            )
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        streaming = _write_streaming(pruned, folder)
        if (run.root / PROFILE).is_file():
            shutil.copyfile(run.root / PROFILE, folder / PROFILE)
        report = ExportReport(
            out=options.out,
            format=options.format,
            size_bytes=size,
            parameters=pruned.count_params(),
            parameters_trained=model.count_params(),
            largest_error=error,
            streaming="structure" in streaming,
        )
        contract = {**_contract(run, model, report, options, folder), "streaming": streaming}
        write_json(folder / CONTRACT, sealed(contract))
    return report


def _check_format(options: ExportOptions, run: Run) -> None:
    """Raises unless the format is one of the run's kind of model."""
    formats = TREE_FORMATS if run.recipe.model.is_trees else ("savedmodel", "litert", "onnx")
    if options.format not in formats:
        raise FlowloomError(
            f"format must be {', '.join(formats[:-1])} or {formats[-1]} for model.kind={run.recipe.model.kind}, got "
            f"{options.format}; add --format {formats[0]}"
        )


def _write(model: keras.Model, folder: Path, options: ExportOptions) -> Callable[[dict[str, np.ndarray]], Any]:
    """Writes the model's files and returns the model read back from disk."""
    if options.format == "litert":
        (folder / LITERT).write_bytes(convert(model, options.int8))
        return LiteRTModel((folder / LITERT).read_bytes())
    if options.format == "onnx":
        (folder / ONNX).write_bytes(onnx_form.convert(model))
        return onnx_form.ONNXModel((folder / ONNX).read_bytes())
    with native_stderr_muted():
        model.export(folder / SAVED_MODEL, verbose=False, input_signature=[input_specs(model, batch=None)])
        served = tf.saved_model.load(str(folder / SAVED_MODEL))
    return lambda flows: served.serve({name: tf.constant(rows) for name, rows in flows.items()})


def _write_streaming(model: Any, folder: Path) -> dict[str, Any]:
    """Writes the files of the streaming scorer and returns its part of the contract."""
    if isinstance(model, TreeModel):
        return {"reason": "trees and linear models read whole flows"}
    if reason := unstreamable(model):
        return {"reason": reason}
    arrays: dict[str, Any] = streaming_weights(model)
    np.savez(folder / WEIGHTS, **arrays)
    return {"structure": streaming_structure(model), "file": WEIGHTS}


def _largest_error(model: Any, exported: Callable[[dict[str, np.ndarray]], Any], seed: int) -> float:
    """Returns the largest difference of two models on random rows; infinite if one gives NaN."""
    rows = random_rows(model, _checked_rows(model), seed)
    expected, found = model(rows, training=False), exported(rows)
    error = max(float(np.max(np.abs(np.asarray(found[task]) - np.asarray(expected[task])))) for task in expected)
    return error if np.isfinite(error) else float("inf")


def _checked_rows(model: Any) -> int:
    """Returns the number of compared rows, for networks enough for flows of every length."""
    if isinstance(model, TreeModel):
        return tree_export.CHECKED_ROWS
    flows = model.input.get("sequence")
    return CHECKED_ROWS if flows is None else max(CHECKED_ROWS, flows.shape[1])


def _contract(run: Run, model: Any, report: ExportReport, options: ExportOptions, folder: Path) -> dict[str, Any]:
    """Returns the contract of the exported model: its inputs, their features, and its outputs."""
    trees = isinstance(model, TreeModel)
    made_by = ("numpy",) if trees else ("tensorflow", "keras")
    names = ("flowloom", *made_by, *(("onnx", "tf2onnx") if options.format == "onnx" and not trees else ()))
    own = {"trees": tree_contract(model, cast(TreeFormat, options.format))} if trees else {}
    return {
        **own,
        "format_version": FORMAT_VERSION,
        "format": options.format,
        "int8": options.int8,
        "batch": 1 if options.format == "litert" else None,
        "inputs": {
            name: {"dtype": tensor.dtype, "shape": ["batch", *tensor.shape[1:]]} for name, tensor in model.input.items()
        },
        "view": run.features.view,
        "features": run.features.model_dump(mode="json"),
        "feature_names": list(run.features.names),
        "constants": {
            name.lower(): value
            for name, value in vars(flow_spec).items()
            if name.startswith(("FIXED_", "LINEAR_"))
        },
        "definition": run.source.definition.model_dump(mode="json"),
        "tasks": [
            {"name": task.name, "vocabulary": list(task.vocabulary), "outputs": 1 if len(task.vocabulary) == 2 else
             len(task.vocabulary)} for task in run.tasks
        ],
        "dataset": {"name": run.source.name, "content_hash": run.source.content_hash},
        "recipe": run.recipe.name,
        "parameters": report.parameters,
        "check": {"rows": _checked_rows(model), "largest_error": report.largest_error},
        "sha256": {
            str(path.relative_to(folder)): file_sha256(path)
            for path in sorted(folder.rglob("*")) if path.is_file()
        },
        "versions": {name: importlib.metadata.version(name) for name in names},
    }  # fmt: skip


@contextmanager
def _published(out: Path) -> Iterator[Path]:
    """Yields a hidden folder beside `out` that becomes `out` if the block succeeds, and is removed if it fails."""
    out = out.absolute()
    hidden = out.parent / f".{out.name}.writing"
    remove_abandoned(str(out.parent), f"{hidden.name}-")
    if os.path.lexists(out):
        raise FlowloomError(f"{out} exists already; remove it, or export to another folder")
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(owned_folder(str(hidden))))
        except OSError as error:
            raise FlowloomError(f"folder {out} cannot be created: {error.strerror}; export to another one") from None
        stack.enter_context(locked_output(out))
        try:
            yield folder
        except (tf.errors.OpError, OSError) as error:  # a full disk is one of several kinds
            raise FlowloomError(
                f"{out}: the model cannot be written: {_reason(error)}; check the free space and export again"
            ) from None
        os.rename(folder, out)


def _reason(error: tf.errors.OpError | OSError) -> str:
    """Returns the reason of an error without the nodes and temporary files that TensorFlow puts around it."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    plain = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error.message), flags=re.DOTALL)
    return plain.strip().rpartition("; ")[2]
