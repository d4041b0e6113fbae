"""Start-up: optional imports of libraries are hidden from commands that do not use them.

Measured on a tiny capture: Beam's cloud clients take 1.0 s of its 1.9 s, SciPy and cffi 0.3 s of Numba's first kernel,
and the garbage collector 0.4 s of a build, although imports produce no garbage.
"""

import contextlib
import gc
import logging
import sys
from collections.abc import Iterator

from flowloom.pipelines.terminal.event_log import log_event, logs_json, write_stderr

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
"""The slowest imports of Beam that it can do without."""
_NUMBA_EXTRAS = ("scipy.linalg", "cffi")
"""Modules that Numba uses for linear algebra and C interfaces inside kernels; ours use neither."""


@contextlib.contextmanager
def quick_start(*, cloud: bool = True) -> Iterator[None]:
    """Speeds up the imports in the block, and loads the kernels after it.

    Args:
      cloud: whether Beam finds its cloud clients when it is first imported in the block. Without them it does not
        register its filesystems for object stores, so the job must use local files only.
    """
    warnings = logging.getLogger("apache_beam.io.mongodbio")  # about a missing client
    level = warnings.level
    gc.disable()
    try:
        with _hidden(_NUMBA_EXTRAS if cloud else (*_NUMBA_EXTRAS, *_CLOUD_CLIENTS)):
            if not cloud:
                warnings.setLevel(logging.ERROR)
            yield
            from flowloom.transforms.arrays.kernels import mix

            before = sum(mix.stats.cache_misses.values())
            mix(0)
            if sum(mix.stats.cache_misses.values()) > before:
                _tell("compiling kernels for the first time, which takes about 11 s; later commands load them")
    finally:
        warnings.setLevel(level)
        gc.freeze()
        gc.enable()


def _tell(text: str) -> None:
    """Writes a line or an event to stderr."""
    if logs_json():
        log_event("flowloom", "line", text)
    else:
        write_stderr(f"flowloom: {text}")


@contextlib.contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Makes modules that are not imported yet appear uninstalled; they can be imported after the block."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment] # marks a module that cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
