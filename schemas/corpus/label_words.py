"""Meaning of a source's own labels for a task: the mapping `words` of a manifest, with patterns."""

import functools
import re
from collections.abc import Mapping
from typing import Annotated, TypeVar

import pydantic

from flowloom.schemas.corpus.tasks import LabelValue, Task

Other = TypeVar("Other")


def _texts_of_numbers(mapping: object) -> object:
    if isinstance(mapping, dict):
        return {str(label) if type(label) is int else label: value for label, value in mapping.items()}
    return mapping


LabelMapping = Annotated[dict[str, LabelValue | None], pydantic.BeforeValidator(_texts_of_numbers)]
"""Label values of a task by a source's own labels, or by patterns of them (`flow=Background*`); null means unknown.

Labels that the mapping lacks keep their meaning if they are label values of the task.
"""


def label_meaning(label: str, mapping: Mapping[str, LabelValue | None], otherwise: Other) -> LabelValue | Other | None:
    """Returns the label value of a source's own label under `words`, and `otherwise` if they do not have it.

    A word is a whole label or a pattern: `*` stands for any characters, `?` for one. A word equal to the label comes
    first, then the first pattern that fits.

    Example:
      >>> label_meaning("flow=From-Botnet-V42-TCP", {"flow=Background*": "negative", "*Botnet*": "positive"}, "none")
      'positive'
    """
    if label in mapping:
        return mapping[label]
    return next((value for word, value in mapping.items() if _fits(word, label)), otherwise)


def _fits(word: str, label: str) -> bool:
    return ("*" in word or "?" in word) and _pattern(word).fullmatch(label) is not None


@functools.lru_cache(1024)
def _pattern(word: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(each, re.escape(each)) for each in word), re.DOTALL)


def label_code(label: str, mapping: dict[str, LabelValue | None], task: Task) -> int | None:
    """Returns the label number of a source's own label: -1 means unknown, None means that nothing defines the label.

    Also accepts 0 and 1 as the two values of a binary task.
    """
    value = label_meaning(label, mapping, _UNDEFINED)
    if not isinstance(value, _Undefined):
        return -1 if value is None else task.index(value)
    if label in task.vocabulary:
        return task.vocabulary.index(label)
    if task.kind == "binary" and label in ("0", "1"):
        return int(label)
    return None


class _Undefined:
    pass


_UNDEFINED = _Undefined()
