"""Whether the libraries are at hand that an extra of this package brings."""

import importlib.util
from collections.abc import Iterable

from flowloom.schemas.errors import FlowloomError


def require_installed(purpose: str, libraries: Iterable[str], extra: str, otherwise: str = "") -> None:
    """Refuse to begin what could not be done to its end; nothing is imported.

    Args:
      purpose: what needs the libraries, with its verb: "training needs".
      libraries: names of modules.
      extra: of this package, that brings them.
      otherwise: what else to do, as the end of the sentence.

    Raises:
      FlowloomError: if one of them is not installed.
    """
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise FlowloomError(f"{purpose} {library}; install it with: pip install 'flowloom[{extra}]'{otherwise}")
