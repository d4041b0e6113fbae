"""Tasks: a name, a kind, and a vocabulary whose order defines the label numbers."""

import decimal
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

import pydantic

from flowloom.schemas.errors import did_you_mean

NEGATIVE, POSITIVE = "negative", "positive"
BINARY_VOCABULARY = (NEGATIVE, POSITIVE)

LabelValue = bool | str
"""Label value in a manifest; true and false mean positive and negative of a binary task."""

Quantity = Literal["bandwidth", "duration", "mean_size", "gap_deviation", "bursts"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
"""Measured quantities of a flow; see `transforms/labels/flow_quantities.py`."""
_UNITS: dict[str, str] = {
    "bandwidth": " bit/s", "duration": " s", "mean_size": " B", "gap_deviation": " s", "bursts": ""
}  # fmt: skip
_DIGITS = decimal.Context(prec=4, rounding=decimal.ROUND_HALF_UP)


class Dividers(pydantic.BaseModel):
    """Boundaries between the classes of an automatic task ("dividers" in Rezaei and Liu).

    Class n has the values from divider n - 1 up to, but without, divider n. Methods: `class-means` puts dividers midway
    between neighbouring means of a reference task's classes, over the labelled rows of the train split; `quantiles`
    makes classes of equal size there; `given` takes `at`.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    method: Literal["class-means", "quantiles", "given"]
    """Means of neighbouring classes, quantiles, or given values."""
    reference: str | None = None
    """Name of the task whose class means are used."""
    classes: int | None = pydantic.Field(None, ge=2)
    """Number of classes of equal size."""
    at: tuple[float, ...] = ()
    """Ascending dividers, from the manifest or found by the build."""

    @pydantic.model_validator(mode="after")
    def _method_has_what_it_needs(self) -> Self:
        needs = {"class-means": "reference", "quantiles": "classes", "given": "at"}[self.method]
        for name in ("reference", "classes"):
            if getattr(self, name) is not None and name != needs:
                raise ValueError(f"dividers with method: {self.method} take {needs}, got {name}; remove {name}")
        if not getattr(self, needs):
            raise ValueError(f"dividers with method: {self.method} need {needs}, got none; add {needs}")
        if not all(map(math.isfinite, self.at)) or any(a >= b for a, b in itertools.pairwise(self.at)):
            raise ValueError(f"dividers must be finite and ascending, got {list(self.at)}")
        return self


class Task(pydantic.BaseModel):
    """Classification task, with one label per row.

    Labels are int32 positions in `vocabulary`; null means unknown, which differs from negative. An `auto` task has no
    label sources: its label is the class of a measured `quantity` between `dividers`.

    Example:

    >>> import flowloom as fl
    >>> fl.Task(name="app", kind="multiclass", vocabulary=("web", "ssh")).index("ssh")
    1
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    """Name of the task, also of its column `label_<name>`."""
    kind: Literal["binary", "multiclass", "auto"]
    """Two label values, several, or classes of a measured quantity."""
    vocabulary: tuple[str, ...] = ()
    """Label values in order of their numbers; of an `auto` task the names of its ranges, generated if absent.

    A manifest may omit those of a multiclass task: they are then the label values of its entries, sorted.
    """
    quantity: Quantity | None = None
    """Quantity of `kind: auto`."""
    dividers: Dividers | None = None
    """Boundaries between the classes of the quantity."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _binary_vocabulary(cls, task: object) -> object:
        if isinstance(task, dict) and task.get("kind") == "binary" and not task.get("vocabulary"):
            return {**task, "vocabulary": BINARY_VOCABULARY}
        return task

    @pydantic.model_validator(mode="before")
    @classmethod
    def _given_ranges(cls, task: object) -> object:
        """Names the ranges between known dividers, unless the vocabulary does."""
        if isinstance(task, dict) and task.get("kind") == "auto" and not task.get("vocabulary"):
            dividers = task.get("dividers")
            at = dividers.get("at") if isinstance(dividers, dict) else getattr(dividers, "at", None)
            if at and all(isinstance(each, (int, float)) for each in at):
                return {**task, "vocabulary": _ranges(at, _UNITS.get(str(task.get("quantity")), ""))}
        return task

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "auto":
            self._check_automatic()
        elif self.quantity or self.dividers:
            raise ValueError(
                f"task {self.name!r}: quantity and dividers need kind: auto, got kind: {self.kind}; remove them, or "
                "write kind: auto"
            )
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(
                f"task name must be lower-case letters, digits and _, starting with a letter, got {self.name!r}"
            )
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError(f"vocabulary of task {self.name!r} must not repeat a value, got {list(self.vocabulary)}")
        if self.kind == "binary" and len(self.vocabulary) != 2:
            raise ValueError(
                f"binary task {self.name!r} needs 2 label values, the second for positive, got {list(self.vocabulary)}"
            )
        if self.kind == "multiclass" and len(self.vocabulary) == 1:
            raise ValueError(
                f"multiclass task {self.name!r} needs at least 2 values in its vocabulary, got {list(self.vocabulary)}"
            )
        return self

    def _check_automatic(self) -> None:
        if not self.quantity or not self.dividers:
            raise ValueError(f"task {self.name!r} of kind auto needs quantity and dividers; add what is missing")
        if self.dividers.reference == self.name:
            raise ValueError(f"reference of task {self.name!r} must be another task, got {self.name!r}")
        values, classes = len(self.vocabulary), self.dividers.classes or len(self.dividers.at) + 1
        known = self.dividers.method != "class-means" or self.dividers.at
        if self.vocabulary and known and values != classes:
            raise ValueError(
                f"vocabulary of task {self.name!r} must have {classes} label values, one per class, got {values}"
            )

    @property
    def is_open(self) -> bool:
        """True if the vocabulary is still to be found in the corpus; tasks of a dataset are never open."""
        return self.kind == "multiclass" and not self.vocabulary

    @pydantic.model_serializer(mode="wrap")
    def _as_written(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out absent fields of automatic tasks; content hashes of datasets depend on this form."""
        return {name: value for name, value in handler(self).items() if value is not None}

    def with_bins(self, at: Sequence[float]) -> "Task":
        """Returns an automatic task with its dividers, and with names for its ranges unless it has a vocabulary.

        Raises:
          ValueError: if the task is not automatic, the dividers do not ascend, or the vocabulary's size differs from
            the number of classes.
        """
        if self.dividers is None:
            raise ValueError(f"task {self.name!r} must be of kind auto to have label bins, got {self.kind}")
        return Task.model_validate({**self.model_dump(), "dividers": {**self.dividers.model_dump(), "at": tuple(at)}})

    def check(self, value: LabelValue) -> None:
        """Checks that a value can be a label; any text can be one of an open task.

        Raises:
          ValueError: as `index`.
        """
        if not self.is_open:
            self.index(value)

    def index(self, value: LabelValue) -> int:
        """Returns the number of a label value.

        Raises:
          ValueError: if the vocabulary lacks the value, or the task is automatic.
        """
        if self.kind == "auto":
            raise ValueError(f"task {self.name!r} is measured and takes no labels, got {value!r}; remove the label")
        if isinstance(value, bool) and self.kind == "binary":
            return int(value)
        text = str(value)
        if text not in self.vocabulary:
            raise ValueError(
                f"label of task {self.name!r} must be one of {', '.join(self.vocabulary)}, got {text!r}"
                f"{did_you_mean(text, self.vocabulary)}"
            )
        return self.vocabulary.index(text)


def _ranges(at: Sequence[float], unit: str) -> tuple[str, ...]:
    """Returns names for the ranges between dividers, with four digits if that keeps them distinct."""
    shown = [f"{float(_DIGITS.create_decimal(repr(float(each)))):g}" for each in at]
    if len(set(shown)) < len(shown):
        shown = [repr(float(each)) for each in at]
    between = [f"{low} to {high}{unit}" for low, high in itertools.pairwise(shown)]
    return (f"below {shown[0]}{unit}", *between, f"from {shown[-1]}{unit}")
