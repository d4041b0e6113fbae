"""Loss settings of a recipe: how much the loss of each task counts."""

from typing import Annotated, Literal

import pydantic


class LossSettings(pydantic.BaseModel):
    """How much the loss of each task counts."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    weights: dict[str, Annotated[float, pydantic.Field(ge=0)]] = {}
    """Weight of a task's loss, 1 where absent."""
    weighting: Literal["fixed", "uncertainty", "dwa", "gradnorm", "pcgrad"] = "fixed"
    """How the losses of a joint step are weighted on top of `weights`."""
    reduction: Literal["labelled", "batch"] = "labelled"
    """Divisor of a task's loss over a batch. `labelled`: the labelled rows. `batch`: all rows, as Rezaei and Liu do, so
    that a task with few labels counts for less. Their first choice of a task's weight (section V-B), all rows over the
    labelled ones, cancels that."""
