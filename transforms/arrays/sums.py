"""Sums: what several workers or batches counted under the same names, added up."""

from collections.abc import Iterable, Mapping
from typing import Any


def sum_by_key(parts: Iterable[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Add up the values of each key over all parts; a key that one part lacks counts nothing there."""
    sums: dict[Any, Any] = {}
    for part in parts:
        for key, value in part.items():
            sums[key] = sums[key] + value if key in sums else value
    return sums
