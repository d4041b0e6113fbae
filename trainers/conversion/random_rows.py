"""Random inputs for timing and comparing any model."""

import keras
import numpy as np


def random_rows(model: keras.Model, rows: int, seed: int, whole: bool = False) -> dict[str, np.ndarray]:
    """Returns random inputs of a model by name, [rows, ...] each.

    Bytes are uniform, features are normal. The flows have the lengths 1 to k in turn, and zeros as padding. Of a model
    that reads packets in units, the features are multiplied by its `typical_packet`.

    Args:
      model: a model with inputs by name.
      rows: number of rows.
      seed: of the random numbers.
      whole: gives every flow all k packets.
    """
    generator = np.random.default_rng(seed)
    found = {}
    for name, tensor in model.input.items():
        shape = (rows, *tensor.shape[1:])
        if tensor.dtype == "uint8":
            found[name] = generator.integers(0, 256, shape, dtype=np.uint8)
        elif name != "length":
            found[name] = generator.normal(size=shape).astype(np.float32)
            if name == "sequence":
                found[name] *= np.asarray(getattr(model, "typical_packet", 1.0), np.float32)
    if "sequence" in found:
        k = found["sequence"].shape[1]
        length = np.full(rows, k) if whole else np.arange(rows) % k + 1
        found["sequence"][np.arange(k)[None, :] >= length[:, None]] = 0
        found["length"] = length.astype(np.int32)
    return found
