"""Flows of packets in units, as models with a representation read them."""

import numpy as np

from flowloom.trainers.feed.flow_spec import CHANNELS

FEATURES = tuple(feature for channel in CHANNELS.values() for feature in channel.features)


def units(rows, k, features=FEATURES, seed=0):
    """Returns flows of every length up to k as a model takes them, with values of real packets."""
    generator = np.random.default_rng(seed)
    columns = {
        "size": generator.integers(40, 1501, (rows, k)),
        "gap": np.exp(generator.uniform(0, 18, (rows, k))),
        "direction": generator.choice([-1, 1], (rows, k)),
        "ttl": generator.choice([1, 63, 64, 128, 255], (rows, k)),
        "window": generator.integers(0, 65_536, (rows, k)),
        "payload": generator.integers(0, 1461, (rows, k)),
    }
    given = [columns.get(name, generator.integers(0, 2, (rows, k))) for name in features]
    sequence = np.stack(given, axis=-1).astype(np.float32)
    length = (np.arange(rows) % k + 1).astype(np.int32)
    if "gap" in features:
        sequence[:, 0, features.index("gap")] = 0
    sequence[np.arange(k)[None] >= length[:, None]] = 0
    return {"sequence": sequence, "length": length}
