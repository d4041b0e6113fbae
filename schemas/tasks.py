"""What a task is: a name, a kind and a vocabulary whose order is the meaning of the label numbers."""

import re
from typing import Literal, Self

import pydantic

from flowloom.schemas.errors import did_you_mean

NEGATIVE, POSITIVE = "negative", "positive"
BINARY_VOCABULARY = (NEGATIVE, POSITIVE)

LabelValue = bool | str
"""A label as a manifest writes it; YAML's true and false mean positive and negative of a binary task."""


class Task(pydantic.BaseModel):
    """One question asked of every flow.

    Labels are int32 positions in `vocabulary`; null means unknown, which is not the same as negative.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["binary", "multiclass"]
    vocabulary: tuple[str, ...] = ()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _binary_words(cls, task: object) -> object:
        if isinstance(task, dict) and task.get("kind") == "binary" and not task.get("vocabulary"):
            return {**task, "vocabulary": BINARY_VOCABULARY}
        return task

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
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

    def index(self, value: LabelValue) -> int:
        """Return the label number of a word.

        Raises:
          ValueError: if the word is not in the vocabulary.
        """
        if isinstance(value, bool) and self.kind == "binary":
            return int(value)
        word = str(value)
        if word not in self.vocabulary:
            raise ValueError(
                f"label of task {self.name!r} must be one of {', '.join(self.vocabulary)}, got {word!r}"
                f"{did_you_mean(word, self.vocabulary)}"
            )
        return self.vocabulary.index(word)
