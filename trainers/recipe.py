"""Recipes: everything that decides a training but the dataset, checked when made, and the named ones."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml

from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.trainers.features import CHANNELS


class Recipe(pydantic.BaseModel):
    """How a model is made and trained."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str

    # features (MULTA, section III-A)
    k: int = pydantic.Field(20, ge=1, description="packets of a flow that the model sees")
    channels: tuple[str, ...] = tuple(CHANNELS)
    scaling: Literal["standard", "fixed"] = "standard"

    # model
    model: Literal["lmmoe"] = "lmmoe"
    experts: int = pydantic.Field(2, ge=1)
    units: int = pydantic.Field(32, ge=1, description="width of an LSTM expert")
    gate_input: Literal["flatten", "mean", "first_packet"] = "flatten"
    tower: tuple[Annotated[int, pydantic.Field(ge=1)], ...] = (16,)

    # training
    paradigm: Literal["auto", "aurora", "rainbow"] = "auto"
    """`auto`: the paradigm of the dataset's layout."""
    loss_weights: dict[str, Annotated[float, pydantic.Field(ge=0)]] = {}
    """Weight of a task's loss under Aurora, 1 where absent."""
    learning_rate: float = pydantic.Field(3e-3, gt=0)
    clip_norm: float | None = pydantic.Field(None, gt=0, description="bound on the norm of each gradient step")
    batch_size: int = pydantic.Field(128, ge=1)
    epochs: int = pydantic.Field(20, ge=1)
    monitor: Literal["auc", "loss"] = "auc"
    """What early stopping watches on the validation split: the mean over tasks."""
    patience: int = pydantic.Field(4, ge=1, description="epochs without improvement before training stops")
    window_rows: int = pydantic.Field(65_536, ge=1, description="flows that are shuffled together")
    miniset_rows: int | None = pydantic.Field(None, ge=1, description="flows of a miniset (Rainbow); null = by size")
    seed: int = pydantic.Field(7, ge=0, lt=2**32)

    @classmethod
    def named(cls, name: str, overrides: Iterable[str] = ()) -> Self:
        """Return a named recipe with some fields replaced.

        Args:
          name: a key of `RECIPES`.
          overrides: `key=value` words; a value is YAML, so `tower=[32, 16]` and `loss_weights={app: 2}` work.

        Raises:
          FlowloomError: if the recipe or a key is unknown, or a value is of the wrong type or out of range.
        """
        if name not in RECIPES:
            raise FlowloomError(
                f"recipe must be one of {', '.join(RECIPES)}, got {name!r}{did_you_mean(name, RECIPES)}"
            )
        fields = {"name": name, **RECIPES[name], **dict(_parse(word) for word in overrides)}
        try:
            return cls.model_validate(fields)
        except pydantic.ValidationError as error:
            raise FlowloomError("; ".join(_explain(entry) for entry in error.errors())) from None


RECIPES: dict[str, dict[str, Any]] = {
    "multa": {},
    "lstm": {"experts": 1},
}
"""`multa`: LMMoE with gates on the flattened features, as MULTA draws it. `lstm`: one LSTM that all towers share."""


def _parse(word: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals:
        raise FlowloomError(f"a recipe setting must look like key=value, got {word!r}")
    known = [field for field in Recipe.model_fields if field != "name"]
    if key not in known:
        raise FlowloomError(f"recipe has no setting {key!r}; it has {', '.join(known)}{did_you_mean(key, known)}")
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError:
        raise FlowloomError(f"{key} must be a YAML value, got {text!r}") from None


def _explain(entry: Any) -> str:
    place = ".".join(str(part) for part in entry["loc"])
    return f"{place}: {entry['msg'].removeprefix('Value error, ')}, got {entry['input']!r}"
