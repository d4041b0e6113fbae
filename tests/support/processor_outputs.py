"""Digests of what Flowloom stores or shows to a model, as JSON on stdout, for `test_processors.py` to compare.

python tests/support/processor_outputs.py MANIFEST FOLDER
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
from numpy._core._multiarray_umath import __cpu_features__

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.describe.measure_statistics import measure_statistics
from flowloom.trainers.feed.flow_spec import CHANNELS, STANDARDISED, FeatureSpec, Scaling
from flowloom.transforms.arrays.moments import channel_moments
from flowloom.transforms.score.skew import jensen_shannon


def digest(*parts: object) -> str:
    """Returns the SHA-256 of arrays, files and anything with an exact repr."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return sha.hexdigest()


def moments(draws: np.random.Generator) -> dict[str, str]:
    """Returns the sums of every value of each narrow type, and of gaps of all sizes."""
    found = {}
    for kind in (np.int8, np.uint8, np.int16, np.uint16):
        limits = np.iinfo(kind)
        found[f"moments of {kind.__name__}"] = digest(
            channel_moments(np.arange(limits.min, limits.max + 1).astype(kind))
        )
    gaps = draws.integers(0, 2**62, 1_000_000) >> draws.integers(0, 62, 1_000_000)
    return found | {"moments of gaps": digest(channel_moments(gaps))}


def skew(draws: np.random.Generator) -> dict[str, str]:
    """Returns the divergences of a thousand pairs of histograms."""
    pairs = draws.integers(0, 5_000, (1_000, 2, 256)).astype(np.float64)
    return {"divergences": digest([jensen_shannon(a, b) for a, b in pairs])}


def features(shard: Path) -> dict[str, str]:
    """Returns the tensors that a model is given of the flows of a shard, by scaling."""
    (flows,) = pq.ParquetFile(shard).read().combine_chunks().to_batches()
    rows, moments = np.arange(flows.num_rows), dict.fromkeys(STANDARDISED, (3.25, 1.75))
    specs = {
        scaling: FeatureSpec(k=20, channels=tuple(CHANNELS), scaling=scaling, moments=moments)
        for scaling in get_args(Scaling)
    }
    return {f"features under {scaling}": digest(*spec.render(flows, rows)) for scaling, spec in specs.items()}


def dataset(manifest: Path, folder: Path) -> dict[str, str]:
    """Returns the digest of every file of a dataset and of its statistics."""
    build(BuildOptions(manifest, folder, workers=1))
    measure_statistics(folder, folder)
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    manifest, folder = map(Path, sys.argv[1:])
    draws = np.random.default_rng(1)
    outputs = moments(draws) | skew(draws) | dataset(manifest, folder)
    outputs |= features(next(folder.glob("flows/split=train/*.parquet")))
    on = sorted(name for name, there in __cpu_features__.items() if there)
    print(json.dumps({"numpy_features": on, "outputs": outputs}))
