"""An experiment that tells of the process that computes it; other processes can import it."""

import os
from typing import Any


def units_of_process(settings: Any) -> dict[str, str | None]:
    """Returns an environment variable of the process."""
    return {"value": os.environ.get("FLOWLOOM_TEST_UNITS")}
