"""Splits of a dataset: their names, their column in travelling rows, and the manifest's rule for assigning rows."""

import math
from typing import Literal, Self

import pydantic

SPLITS = ("train", "validation", "test")
SPLIT_COLUMN = "split"
"""Column of rows on their way to a shard: int8 position in `SPLITS`. Shards do not store it; their folder names it."""


class Splits(pydantic.BaseModel):
    """Rule that assigns rows to splits.

    Attributes:
      by: the unit that stays in one split: `capture` (group), `host_pair` (unordered pair of addresses), `flow`, or
        `packet`. `time` orders rows by start, train first. `auto` splits by capture group where every class occurs in
        enough of them, else by flow.
      train: share of the rows, from 0 to 1, like `validation` and `test`; the three add up to 1.
      seed: seed of the hash that draws units.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    by: Literal["auto", "capture", "host_pair", "time", "flow", "packet"] = "auto"
    """Rows that stay together."""
    train: float = pydantic.Field(0.64, ge=0, le=1)
    """Share of train."""
    validation: float = pydantic.Field(0.16, ge=0, le=1)
    """Share of validation."""
    test: float = pydantic.Field(0.20, ge=0, le=1)
    """Share of test."""
    seed: int = 7
    """Seed of all choices."""

    @pydantic.model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        shares = self.train + self.validation + self.test
        if not math.isclose(shares, 1.0, abs_tol=1e-9):
            raise ValueError(f"train + validation + test must be 1, got {shares:g}")
        return self

    @property
    def shares(self) -> tuple[float, float, float]:
        """The shares in the order of `SPLITS`."""
        return self.train, self.validation, self.test
