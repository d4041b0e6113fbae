"""Schedule settings of a recipe: the steps of a training, its optimizer, and its end."""

from typing import Literal, Self

import pydantic

from flowloom.trainers.recipes.task_names import TaskNames

STRIPED = ("rainbow", "incremental", "single")
"""Paradigms whose batches train one task each."""


class ScheduleSettings(pydantic.BaseModel):
    """The steps of a training, its optimizer, and its end."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    paradigm: Literal["auto", "aurora", "rainbow", "rainbow_mixed", "incremental", "single", "transfer", "isolated"] = (
        "auto"
    )
    """Tasks that one step trains. `auto`: the paradigm of the dataset's layout, `aurora` for fused rows and `rainbow`
    for striped ones. `isolated`: only the new tasks of a grown model, which retraining sets."""

    # tasks that arrive one after another (incremental)
    arrivals: TaskNames = ()
    """Tasks in the order of their arrival; empty: the dataset's order."""
    latecomer: Literal["sequential", "repair", "replay", "isolate"] = "sequential"
    """Protection of earlier tasks. `sequential`: none. `repair`: the first task is trained again at the end. `replay`:
    batches of earlier tasks are mixed in. `isolate`: earlier tasks are not updated, and the latecomer gets its own
    expert."""
    phase_epochs: int = pydantic.Field(5, ge=1, description="epochs of each arrival, instead of `epochs`")
    repair_epochs: int = pydantic.Field(1, ge=1, description="epochs on the first task at the end (repair)")
    replay_share: float = pydantic.Field(0.2, gt=0, lt=1, description="share of batches of earlier tasks (replay)")

    # convolutions learned from other tasks (transfer)
    pretrain_tasks: TaskNames = ()
    """Tasks that the convolutions are learned from; empty: the tasks of kind auto."""
    pretrain_epochs: int = pydantic.Field(20, ge=1)
    """Epochs on the tasks that the convolutions are learned from."""

    # optimizer
    optimizer: Literal["adam", "adamw"] = "adam"
    """Form of `weight_decay`. `adam`: part of the gradient, a penalty on the loss. `adamw`: each step also subtracts it
    from the weights, times the learning rate (Loshchilov and Hutter, ICLR 2019)."""
    learning_rate: float = pydantic.Field(3e-3, gt=0)
    """Step size of the optimizer at the beginning."""
    clip_norm: float | None = pydantic.Field(
        None, gt=0, description="largest norm over all gradients of a step together; null = no limit"
    )
    weight_decay: float = pydantic.Field(0.0, ge=0, description="times each weight, as `optimizer` applies it")
    decay: Literal["plateau", "cosine"] = "plateau"
    """Fall of the learning rate. `plateau`: by `plateau_factor` when the validation loss stalls. `cosine`: with each
    step, after a rise over the first tenth, along half a cosine to zero at the end of `epochs`."""
    plateau_factor: float = pydantic.Field(1.0, gt=0, le=1, description="times the learning rate on a plateau")
    plateau_patience: int = pydantic.Field(10, ge=0, description="epochs without a lower loss before a plateau")
    microbatch: int | None = pydantic.Field(
        None, ge=1, description="rows of a batch that are computed at once, to save memory; null = all"
    )
    mixed_precision: bool = False
    """Compute in bfloat16 on float32 weights; the stored model computes in float32. Faster only on processors with
    bfloat16, slower on all others."""
    xla: bool = False
    """Compile steps by XLA. Compilation takes long, and on a CPU few models gain (docs/decisions/0019)."""

    # end
    epochs: int = pydantic.Field(20, ge=1)
    """Largest number of epochs."""
    monitor: Literal["auc", "loss"] = "auc"
    """Validation measure of early stopping: the tasks' mean ROC AUC, or the sum of their losses by `loss.weights`. The
    learning rate always follows the loss."""
    patience: int = pydantic.Field(4, ge=1, description="epochs without improvement before training stops")
    keep: Literal["best", "last"] = "best"
    """Weights that are kept. `best`: those of the epoch with the best `monitor`; training stops when it stalls. `last`:
    those at the end of all epochs, which no measurement on the validation split has chosen."""

    @pydantic.model_validator(mode="after")
    def _arrivals_are_incremental(self) -> Self:
        if self.paradigm != "incremental" and (self.arrivals or self.latecomer != "sequential"):
            raise ValueError(
                "schedule.arrivals and schedule.latecomer need schedule.paradigm=incremental, got "
                f"{self.paradigm}; set schedule.paradigm=incremental or remove them"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _a_cosine_ends(self) -> Self:
        if self.decay == "cosine" and (self.keep != "last" or self.plateau_factor != 1):
            raise ValueError(
                "schedule.decay=cosine needs schedule.keep=last and no schedule.plateau_factor, as its last epochs "
                f"matter most, got keep={self.keep} and plateau_factor={self.plateau_factor:g}; set "
                "schedule.keep=last"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _microbatch_is_not_compiled(self) -> Self:
        if self.microbatch and self.xla:
            raise ValueError(
                "schedule.microbatch must be null under schedule.xla=true, which needs batches of one size, got "
                f"{self.microbatch}; set schedule.xla=false"
            )
        return self
