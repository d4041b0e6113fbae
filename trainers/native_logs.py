"""Muted imports of TensorFlow, whose native libraries print lines before they read any log level."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def native_stderr_muted() -> Iterator[None]:
    """Discards output to file descriptor 2 inside the block; Python exceptions pass."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras without the lines of their native libraries.

    Raises:
      ModuleNotFoundError: if one is not installed.
    """
    with native_stderr_muted():
        import keras  # noqa: F401 - imported for later imports
        import tensorflow as tf  # noqa: F401
