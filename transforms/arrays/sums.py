"""Sums of counts that several workers or batches have under the same keys."""

from collections.abc import Iterable, Mapping
from typing import Any


def sum_by_key(parts: Iterable[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Adds up the values of each key over all parts; a part without the key adds nothing."""
    sums: dict[Any, Any] = {}
    for part in parts:
        for key, value in part.items():
            sums[key] = sums[key] + value if key in sums else value
    return sums
