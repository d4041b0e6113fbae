"""Weights of exported mixtures: reading, and the check of all shapes that compiled loops rely on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.conversion.weight_arrays import read_arrays
from flowloom.trainers.deploy.export_layout import WEIGHTS, export_file
from flowloom.trainers.deploy.pooled_scorer import PooledScorer
from flowloom.trainers.deploy.represented_packets import checked_width

GATE_INPUTS = ("flatten", "mean", "first_packet")


def read_mixture(root: Path, contract: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the structure and the weights of an exported mixture, which need no TensorFlow.

    Raises:
      FlowloomError: if the file differs from the contract, or its arrays do not fit the structure.
    """
    path = export_file(root, contract, WEIGHTS)
    weights = dict(read_arrays(path, "export the run again"))
    structure = contract["streaming"]["structure"]
    try:
        check_weights(structure, weights)
    except (KeyError, TypeError, ValueError) as error:
        raise FlowloomError(f"{path} does not fit its contract ({error}); export the run again") from None
    return structure, weights


def check_weights(structure: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    """Checks that all arrays have the types and shapes of `streaming_weights`, as compiled loops do not check indices.

    Raises:
      KeyError, TypeError, ValueError: if a setting or an array is missing or another one.
    """
    tasks, layers, k = dict(structure["tasks"]), structure["tower_layers"], structure["k"]
    for name, value in {"k": k, **tasks}.items():
        if type(value) is not int or not 1 <= value < 1 << 20:
            raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
    if type(layers) is not int or not 0 <= layers < 100 or not tasks:
        raise ValueError(f"tower_layers must be from 0 to 99, and tasks at least 1, got {layers!r} and {len(tasks)}")
    if structure["gate_input"] not in GATE_INPUTS:
        raise ValueError(f"gate_input must be one of {', '.join(GATE_INPUTS)}, got {structure['gate_input']!r}")
    if structure.get("pooled"):
        PooledScorer(dict(structure), weights)  # NumPy checks all shapes of a trial
        return
    if weights["kernel"].ndim != 3 or weights["kernel"].shape[2] % 4:
        raise ValueError(f"kernel must be [experts, channels, 4 units], got {list(weights['kernel'].shape)}")
    experts, channels, width = weights["kernel"].shape
    if (features := structure.get("features")) is not None and channels != (read := checked_width(features, weights)):
        raise ValueError(f"kernel must read the {read} values of a represented packet, got {channels}")
    units, number = width // 4, len(tasks)
    gate = k * channels if structure["gate_input"] == "flatten" else channels
    shapes: dict[str, tuple[int, ...]] = {
        "kernel": (experts, channels, width),
        "recurrent_kernel": (experts, units, width),
        "bias": (experts, width),
        "gate_kernel": (number, gate, experts),
        "gate_bias": (number, experts),
        "shares": (number, experts),
        "gated": (number,),
        "sees": (number, experts),
    }
    read = units
    for layer in range(layers):
        written = weights[f"tower_kernel_{layer}"].shape[-1]
        shapes[f"tower_kernel_{layer}"] = (number, read, written)
        shapes[f"tower_bias_{layer}"] = (number, 1, written)
        read = written
    for at, classes in enumerate(tasks.values()):
        outputs = classes if classes > 2 else 1
        shapes[f"head_kernel_{at}"], shapes[f"head_bias_{at}"] = (read, outputs), (outputs,)
    for name, shape in shapes.items():
        kind = np.dtype(bool) if name in ("gated", "sees") else np.dtype(np.float32)
        if weights[name].shape != shape or weights[name].dtype != kind:
            raise ValueError(
                f"{name} must be {kind} {list(shape)}, got {weights[name].dtype} {list(weights[name].shape)}"
            )
