"""Feed settings of a recipe: the rows, labels and features that a model is trained on."""

from typing import Annotated, Literal, Self

import pydantic

from flowloom.trainers.feed.augmentation import Augmentation
from flowloom.trainers.feed.balancing import Balance
from flowloom.trainers.feed.flow_spec import CHANNELS, Scaling
from flowloom.trainers.feed.table_spec import Scaling as TableScaling
from flowloom.trainers.recipes.task_names import TaskNames


class FeedSettings(pydantic.BaseModel):
    """The rows, labels and features that a model is trained on."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    # features of flows (MULTA, section III-A)
    k: int = pydantic.Field(20, ge=1, description="packets of a flow that the model reads")
    channels: tuple[str, ...] = tuple(CHANNELS)
    """Features of a packet that the model reads, in this order."""
    scaling: Scaling = "standard"
    """Scaling of these features, fitted on the train split."""
    signed: bool = pydantic.Field(True, description="whether scaling=linear gives sizes the sign of the direction")
    augment: Augmentation = Augmentation()
    """Random changes of training rows, such as `{packet_loss: 0.05, gap_scale: [0.5, 1.5]}`; most need scaling=none."""
    furthest_start: int = pydantic.Field(0, ge=0, description="`augment.start` under its first name")
    """In every epoch half of the training rows begin at a packet drawn from 0 (the flow's first) to this one."""

    # features of packets and tables
    source: Literal["bytes", "features", "flows"] = "bytes"
    """Input of networks of rows: the bytes of packets, or the features of tables. Trees can read `flows` too."""
    table_scaling: TableScaling = "standard"
    """Scaling of table features, fitted on the train split: z-scores, ranks in [0, 1], or none."""
    most_features: int | None = pydantic.Field(
        None,
        ge=1,
        description="largest number of features, without constants and without those of |rho| > 0.95; null = all",
    )
    length: int | None = pydantic.Field(None, ge=1, description="bytes of a packet that the model reads; null = all")

    # labels
    tasks: TaskNames = ()
    """Tasks that are trained; empty: all tasks of the dataset."""
    labels_per_class: dict[str, Annotated[int, pydantic.Field(ge=1)]] = {}
    """By task, the number of flows of each class that keep their label on the train split; see `few_labels`."""
    only_labelled: bool = False
    """Skip flows of the train split without a label of the tasks that are trained on them."""
    balance: Balance | None = None
    """Rows of each class on the train split, such as `{task: app, how: undersample}`; null: all rows."""

    # batches
    batch_size: int = pydantic.Field(128, ge=1)
    """Rows of a batch."""
    window_rows: int = pydantic.Field(65_536, ge=1, description="flows that are shuffled together")
    miniset_rows: int | None = pydantic.Field(None, ge=1, description="flows of a miniset (Rainbow); null = by size")

    @pydantic.model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.furthest_start and self.augment.start:
            raise ValueError(
                "feed.furthest_start and feed.augment.start are one setting, got "
                f"{self.furthest_start} and {self.augment.start}; set feed.furthest_start=0"
            )
        return self

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation, with its start from either of the two keys."""
        return self.augment.model_copy(update={"start": self.augment.start or self.furthest_start})
