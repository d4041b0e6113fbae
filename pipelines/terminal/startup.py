"""Start-up: what libraries import on the chance that it is wanted, hidden while a command starts that never wants it.

Measured on a tiny capture: Beam's cloud clients take 1.0 s of its 1.9 s, SciPy and cffi 0.3 s of Numba's first kernel,
and collecting the garbage that imports do not make 0.4 s of a build.
"""

import contextlib
import gc
import logging
import sys
from collections.abc import Iterator

_CLOUD_CLIENTS = (
    "apache_beam.io.gcp.bigquery",
    "apache_beam.io.gcp.gcsfilesystem",
    "apitools",
    "boto3",
    "google.cloud.dataflow_v1beta3",
    "google.cloud.storage",
    "pandas",
    "pymongo",
)
"""The dearest imports that Beam does without where they are not installed."""
_NUMBA_EXTRAS = ("scipy.linalg", "cffi")
"""What Numba looks for to offer linear algebra and C interfaces inside kernels; ours use neither."""


@contextlib.contextmanager
def quick_start(*, cloud: bool = True) -> Iterator[None]:
    """Import in the block what a command needs; kernels are ready behind it.

    Args:
      cloud: whether Beam, imported in the block for the first time, finds its cloud clients. Without them its
        filesystems for object stores are not registered, so the job has to be one on local files.
    """
    complaints = logging.getLogger("apache_beam.io.mongodbio")  # of a missing client
    level = complaints.level
    gc.disable()
    try:
        with _hidden(_NUMBA_EXTRAS if cloud else (*_NUMBA_EXTRAS, *_CLOUD_CLIENTS)):
            if not cloud:
                complaints.setLevel(logging.ERROR)
            yield
            from flowloom.transforms.arrays.kernels import mix

            mix(0)
    finally:
        complaints.setLevel(level)
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Let modules that are not imported yet seem not to be installed; they can be imported again after the block."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment] # how Python marks what cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
