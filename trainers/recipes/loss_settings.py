"""Loss settings of a recipe: the weight of each task."""

from typing import Annotated, Literal

import pydantic


class LossSettings(pydantic.BaseModel):
    """The weight of each task's loss."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    weights: dict[str, Annotated[float, pydantic.Field(ge=0)]] = {}
    """Weight of a task's loss, 1 where absent."""
    weighting: Literal["fixed", "uncertainty", "dwa", "gradnorm", "pcgrad"] = "fixed"
    """Adaptive weights of the losses of a joint step, on top of `weights`."""
    label_smoothing: float = pydantic.Field(
        0.0, ge=0, lt=1, description="share of each label that training spreads evenly over all classes"
    )
    reduction: Literal["labelled", "batch"] = "labelled"
    """Divisor of a task's loss over a batch. `labelled`: the labelled rows. `batch`: all rows, as Rezaei and Liu do, so
    that a task with few labels counts for less. Their first choice of a task's weight (section V-B), all rows over the
    labelled ones, cancels that."""
