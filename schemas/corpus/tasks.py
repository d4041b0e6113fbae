"""What a task is: a name, a kind and a vocabulary whose order is the meaning of the label numbers."""

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
"""A label as a manifest writes it; YAML's true and false mean positive and negative of a binary task."""


Quantity = Literal["bandwidth", "duration", "mean_size", "gap_deviation", "bursts"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
"""What can be measured of a flow itself; see `transforms/labels/flow_quantities.py`."""
_UNITS: dict[str, str] = {
    "bandwidth": " bit/s", "duration": " s", "mean_size": " B", "gap_deviation": " s", "bursts": ""
}  # fmt: skip
_DIGITS = decimal.Context(prec=4, rounding=decimal.ROUND_HALF_UP)


class Dividers(pydantic.BaseModel):
    """Where the classes of an automatic task meet: class n holds what reaches divider n - 1 and is below divider n.

    `class-means`: midpoints between the neighbouring means of a reference task's classes over the labelled rows of the
    train split; `quantiles`: classes of equal size there; `given`: as written in `at`.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    method: Literal["class-means", "quantiles", "given"]
    reference: str | None = None
    """The task whose classes have the means."""
    classes: int | None = pydantic.Field(None, ge=2)
    """How many classes of equal size."""
    at: tuple[float, ...] = ()
    """The dividers themselves, ascending: written by the user, or found when the dataset was built."""

    @pydantic.model_validator(mode="after")
    def _method_has_what_it_needs(self) -> Self:
        needs = {"class-means": "reference", "quantiles": "classes", "given": "at"}[self.method]
        for name in ("reference", "classes"):
            if getattr(self, name) is not None and name != needs:
                raise ValueError(f"dividers by {self.method} take {needs}, not {name}; remove {name}")
        if not getattr(self, needs):
            raise ValueError(f"dividers by {self.method} need {needs}")
        if not all(map(math.isfinite, self.at)) or any(a >= b for a, b in itertools.pairwise(self.at)):
            raise ValueError(f"dividers must be finite and ascend, got {list(self.at)}")
        return self


class Task(pydantic.BaseModel):
    """One question asked of every flow.

    Labels are int32 positions in `vocabulary`; null means unknown, which is not the same as negative. The labels of an
    `auto` task are not claimed by a source but measured: the class of `quantity` between `dividers`.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["binary", "multiclass", "auto"]
    vocabulary: tuple[str, ...] = ()
    """Of an `auto` task the ranges between its dividers, in words of the user's or its own."""
    quantity: Quantity | None = None
    dividers: Dividers | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _binary_words(cls, task: object) -> object:
        if isinstance(task, dict) and task.get("kind") == "binary" and not task.get("vocabulary"):
            return {**task, "vocabulary": BINARY_VOCABULARY}
        return task

    @pydantic.model_validator(mode="before")
    @classmethod
    def _given_ranges(cls, task: object) -> object:
        """Name the ranges between dividers that are known, if they have no words yet."""
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
            raise ValueError(f"quantity and dividers of task {self.name!r} are for kind: auto, got kind: {self.kind}")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(
                f"task name must be lower-case letters, digits and _, starting with a letter, got {self.name!r}"
            )
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError(f"vocabulary of task {self.name!r} must not repeat a word, got {list(self.vocabulary)}")
        if self.kind == "binary" and len(self.vocabulary) != 2:
            raise ValueError(
                f"binary task {self.name!r} needs 2 words (the second is positive), got {list(self.vocabulary)}"
            )
        if self.kind == "multiclass" and len(self.vocabulary) < 2:
            raise ValueError(
                f"multiclass task {self.name!r} needs at least 2 words in its vocabulary, got {list(self.vocabulary)}"
            )
        return self

    def _check_automatic(self) -> None:
        if not self.quantity or not self.dividers:
            raise ValueError(f"automatic task {self.name!r} needs quantity and dividers")
        if self.dividers.reference == self.name:
            raise ValueError(f"automatic task {self.name!r} cannot be its own reference")
        words, classes = len(self.vocabulary), self.dividers.classes or len(self.dividers.at) + 1
        known = self.dividers.method != "class-means" or self.dividers.at
        if self.vocabulary and known and words != classes:
            raise ValueError(f"automatic task {self.name!r} has {classes} classes, but {words} words for them")

    @pydantic.model_serializer(mode="wrap")
    def _as_written(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only automatic tasks have; the content hash of a dataset is made with this."""
        return {name: value for name, value in handler(self).items() if value is not None}

    def with_bins(self, at: Sequence[float]) -> "Task":
        """Return an automatic task with its dividers, and with words for its ranges unless it has some.

        Raises:
          ValueError: if it is not automatic, the dividers do not ascend, or the words are too few or too many.
        """
        if self.dividers is None:
            raise ValueError(f"task {self.name!r} must be of kind auto to have label bins, got {self.kind}")
        return Task.model_validate({**self.model_dump(), "dividers": {**self.dividers.model_dump(), "at": tuple(at)}})

    def index(self, value: LabelValue) -> int:
        """Return the label number of a word.

        Raises:
          ValueError: if the word is not in the vocabulary.
        """
        if self.kind == "auto":
            raise ValueError(f"labels of task {self.name!r} are measured, not given; remove the label {value!r}")
        if isinstance(value, bool) and self.kind == "binary":
            return int(value)
        word = str(value)
        if word not in self.vocabulary:
            raise ValueError(
                f"label of task {self.name!r} must be one of {', '.join(self.vocabulary)}, got {word!r}"
                f"{did_you_mean(word, self.vocabulary)}"
            )
        return self.vocabulary.index(word)


def _ranges(at: Sequence[float], unit: str) -> tuple[str, ...]:
    """Return words for the ranges between dividers, in four digits where these tell them apart."""
    shown = [f"{float(_DIGITS.create_decimal(repr(float(each)))):g}" for each in at]
    if len(set(shown)) < len(shown):
        shown = [repr(float(each)) for each in at]
    between = [f"{low} to {high}{unit}" for low, high in itertools.pairwise(shown)]
    return (f"below {shown[0]}{unit}", *between, f"from {shown[-1]}{unit}")
