"""Inputs of networks of flows, and the checks of their sizes."""

from typing import Any

import keras
from keras import ops


def flow_inputs(k: int, channels: int) -> dict[str, Any]:
    """Returns the inputs of a network of flows.

    Args:
      k: packets per flow.
      channels: features per packet, C.

    Returns:
      {"sequence": float32 [B, k, C], "length": int32 [B]}; packets from `length` on are padding zeros.
    """
    sequence = keras.Input((k, channels), name="sequence")
    return {"sequence": sequence, "length": keras.Input((), dtype="int32", name="length")}


def packet_mask(inputs: dict[str, Any]) -> Any:
    """Returns bool [B, k] for the inputs of `flow_inputs`, false for padding."""
    k = inputs["sequence"].shape[1]
    return ops.less(ops.arange(k), ops.expand_dims(inputs["length"], 1))


def check_sizes(**sizes: int) -> None:
    """Raises unless every size is at least 1.

    Raises:
      ValueError: naming the first size below 1.
    """
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
