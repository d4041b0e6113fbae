"""Random inputs for timing and comparing any model."""

import keras
import numpy as np


def random_rows(model: keras.Model, rows: int, seed: int, whole: bool = False) -> dict[str, np.ndarray]:
    """Returns random inputs of a model by name, [rows, ...] each.

    Bytes are uniform, features are normal, and packets in units have values of their ranges. The flows have the lengths
    1 to k in turn, and zeros as padding.

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
        elif name == "sequence" and isinstance(model, keras.Model) and getattr(model, "features", None):
            columns = [_units(feature, shape[:2], generator) for feature in model.features]
            found[name] = np.stack(columns, axis=-1).astype(np.float32)
        elif name != "length":
            found[name] = generator.normal(size=shape).astype(np.float32)
    if "sequence" in found:
        k = found["sequence"].shape[1]
        length = np.full(rows, k) if whole else np.arange(rows) % k + 1
        found["sequence"][np.arange(k)[None, :] >= length[:, None]] = 0
        found["length"] = length.astype(np.int32)
    return found


def _units(feature: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Returns random values of a feature of packets in units."""
    largest = {"size": 1500, "payload": 1460, "ttl": 255, "window": 65_535}
    if feature == "gap":
        return np.exp(generator.uniform(0, 18, shape))  # microseconds, up to a minute
    if feature == "direction":
        return generator.choice([-1, 1], shape)
    return generator.integers(0, largest.get(feature, 1) + 1, shape)
