"""Optional libraries: which extra of this package installs each, and checks before a job that needs one."""

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator

from flowloom.schemas.errors import FlowloomError

EXTRAS = {
    "apache_beam": "build",
    "cryptography": "build",
    "polars": "build",
    "datasets": "huggingface",
    "grpc": "build",
    "imblearn": "train",
    "jinja2": "build",
    "keras": "train",
    "lightgbm": "lightgbm",
    "matplotlib": "train",
    "mlflow": "retrain",
    "nfstream": "dpi",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "scipy": "train",
    "sklearn": "train",
    "tensorflow": "train",
    "tf2onnx": "onnx",
    "tfx_bsl": "train",
    "threadpoolctl": "train",
    "torch": "torch",
}
"""By module, the extra that installs its library."""


def require_installed(purpose: str, libraries: Iterable[str], extra: str, otherwise: str = "") -> None:
    """Raises an error if a library is not installed; imports none of them.

    Args:
      purpose: subject and verb of the message, such as "training needs".
      libraries: names of modules.
      extra: name of this package's extra that installs the libraries.
      otherwise: an alternative for the user, as the end of the message.

    Raises:
      FlowloomError: if a library is not installed; the message gives the command that installs it.
    """
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise FlowloomError(f"{purpose} {library}; install it with: pip install 'flowloom[{extra}]'{otherwise}")


@contextlib.contextmanager
def extra_needed(purpose: str) -> Iterator[None]:
    """Turns the failed import of an optional library inside the block into an error with the command that installs it.

    Args:
      purpose: subject and verb of the message, such as "training needs".

    Raises:
      FlowloomError: if a library of `EXTRAS` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_library(error, purpose) or error from None


def missing_library(error: ModuleNotFoundError, purpose: str) -> FlowloomError | None:
    """Returns the error of an optional library that is not installed; None if another module is missing."""
    library = (error.name or "").partition(".")[0]
    if library not in EXTRAS:
        return None
    return FlowloomError(f"{purpose} {library}; install it with: pip install 'flowloom[{EXTRAS[library]}]'")
