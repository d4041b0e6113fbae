"""Check for the libraries of an optional extra, before a job that needs them starts."""

import importlib.util
from collections.abc import Iterable

from flowloom.schemas.errors import FlowloomError


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
