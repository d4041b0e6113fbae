"""Start-up: what libraries import on the chance that it is wanted, hidden while a command starts that never wants it.

Measured on a tiny capture: Beam's cloud clients take 1.0 s of its 1.9 s, SciPy and cffi 0.3 s of Numba's first kernel.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator

_CLOUD_CLIENTS = ("apache_beam.io.gcp.bigquery", "apitools", "google.cloud", "pandas", "pymongo")
"""The dearest imports that Beam does without where they are not installed."""
_NUMBA_EXTRAS = ("scipy", "cffi")
"""What Numba looks for to offer linear algebra and C interfaces inside kernels; ours use neither."""


@contextlib.contextmanager
def lean_beam() -> Iterator[None]:
    """Let Beam, imported in the block for the first time, find none of its cloud clients.

    For jobs on local files only: Beam's filesystems for object stores are not registered then.
    """
    logger = logging.getLogger("apache_beam.io.mongodbio")  # it warns of a missing client
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with _hidden(_CLOUD_CLIENTS):
            yield
    finally:
        logger.setLevel(level)


def start_kernels() -> None:
    """Make Numba ready for compiled kernels, without its extras."""
    with _hidden(_NUMBA_EXTRAS):
        from flowloom.transforms.kernels import mix

        mix(0)


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
