"""Recipes: everything that decides a training but the dataset, checked when made, and the named ones."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.trainers.feed.balancing import Balance
from flowloom.trainers.feed.flow_spec import CHANNELS, Scaling
from flowloom.trainers.feed.table_spec import Scaling as TableScaling

ROW_MODELS = ("mtc", "byte_transformer", "byte_cnn")
"""Models that see packets or tables; all others see flows."""


class SummedTask(pydantic.BaseModel):
    """A task that follows from another one, such as the kind of traffic from its kind inside and outside of a VPN."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    of: str
    """The task that it follows from."""
    words: dict[str, str] = {}
    """For words of that task the word of this one; a word that is absent means itself."""


class Recipe(pydantic.BaseModel):
    """How a model is made and trained."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str

    # features (MULTA, section III-A)
    k: int = pydantic.Field(20, ge=1, description="packets of a flow that the model sees")
    channels: tuple[str, ...] = tuple(CHANNELS)
    scaling: Scaling = "standard"
    signed: bool = pydantic.Field(True, description="whether scaling linear gives sizes the sign of the direction")

    furthest_start: int = pydantic.Field(0, ge=0, description="packet that a training row begins at, at most")
    """In every epoch half of the training rows begin at a packet drawn from 0 (the flow's first) up to this one."""

    # model
    model: Literal["lmmoe", "multitask_cnn", "cnn_rnn2", "mtc", "byte_transformer", "byte_cnn"] = "lmmoe"
    architecture: Literal["shared_bottom", "mmoe", "cgc", "ple", "dselect_k"] = "mmoe"
    """How tasks share the LSTM experts: all read one; each weighs all of them by a gate; shared ones and its own, at
    one level or at two; few of them in the end, whatever the flow."""
    experts: int = pydantic.Field(2, ge=1, description="LSTM experts; under cgc and ple those that all tasks see")
    task_experts: int = pydantic.Field(1, ge=1, description="experts of each task alone, under cgc and ple")
    selected_experts: int = pydantic.Field(1, ge=1, description="experts that a task ends with, under dselect_k")
    gate_entropy: float = pydantic.Field(0.1, ge=0, description="weight of undecided gates in the loss (dselect_k)")
    units: int = pydantic.Field(32, ge=1, description="width of an LSTM expert")
    gate_input: Literal["flatten", "mean", "first_packet"] = "flatten"
    tower: tuple[Annotated[int, pydantic.Field(ge=1)], ...] = (16,)
    convolutions: Literal["paper", "fit"] = "paper"
    """How many the multi-task CNN has for a short k: as Rezaei and Liu choose, or all that fit."""

    # models of long rows: mtc and those it is compared with
    source: Literal["bytes", "features"] = "bytes"
    """What they see: the bytes of packets, or the features of tables."""
    table_scaling: TableScaling = "standard"
    """Of features, fitted on the train split: z-scores, ranks in [0, 1], or as they are."""
    most_features: int | None = pydantic.Field(
        None, ge=1, description="features at most: no constants, then none with |rho| > 0.95 to one before; null = all"
    )
    length: int | None = pydantic.Field(None, ge=1, description="bytes of a packet that the model sees; null = all")
    transformer_tasks: tuple[str, ...] = ()
    """The tasks that read the Transformer branch of mtc; all others read its CNN branch."""
    stem: int | None = pydantic.Field(
        1, ge=1, description="bytes that the CNN branch of mtc sees as one step; null = a token of the other branch"
    )
    expanded: bool = pydantic.Field(
        False, description="whether both branches of mtc see the bits of a byte, or waves of a feature, too"
    )
    positions: bool = pydantic.Field(False, description="whether both branches of mtc know where a byte stands")
    readout: Literal["mean", "all", "wide"] = "mean"
    """What tasks of the CNN branch of mtc read: the mean over its steps, all of them, or all of them and all values."""
    masked: float = pydantic.Field(0.0, ge=0, lt=1, description="share of the bytes that mtc misses in training")
    repetitions: tuple[int, int, int] = (1, 5, 6)
    """Encoder layers of each block of mtc."""
    encoders: int = pydantic.Field(7, ge=1, description="layers of byte_transformer")
    attention_heads: int | None = pydantic.Field(
        None, ge=1, description="null = 6 on bytes, on features as many as values of a token, as in MTC"
    )
    dropout: float = pydantic.Field(0.07, ge=0, lt=1, description="rate in the CNN branch of mtc")
    sums: dict[str, SummedTask] = {}
    """Tasks without an output layer: what is said of them follows from what is said of another task."""

    # labels
    tasks: tuple[str, ...] = ()
    """The tasks that are trained; none named: all of the dataset."""
    labels_per_class: dict[str, Annotated[int, pydantic.Field(ge=1)]] = {}
    """Of some tasks how many flows of each class keep their label on the train split; see `few_labels`."""
    only_labelled: bool = False
    """Leave out flows of the train split that have no label of the tasks that are trained on them."""

    balance: Balance | None = None
    """Of which class how many rows of the train split are shown, as `{task: app, how: undersample}`; null: all rows."""

    # training
    paradigm: Literal["auto", "aurora", "rainbow", "rainbow_mixed", "incremental", "single", "transfer", "isolated"] = (
        "auto"
    )
    """`auto`: the paradigm of the dataset's layout; `isolated`: new tasks of a model that knew others, which retraining
    alone can do."""
    weighting: Literal["fixed", "uncertainty", "dwa", "gradnorm", "pcgrad"] = "fixed"
    """How the losses of a joint step are weighed beyond `loss_weights`."""
    arrivals: tuple[str, ...] = ()
    """The tasks in the order in which they arrive (incremental); none named: the dataset's order."""
    latecomer: Literal["sequential", "repair", "replay", "isolate"] = "sequential"
    """What is done for the tasks before when one arrives: nothing; the first is trained again at the end; batches of
    them are mixed in; they are left as they are, and the latecomer gets an expert of its own."""
    phase_epochs: int = pydantic.Field(5, ge=1, description="epochs of each arrival (incremental), instead of `epochs`")
    repair_epochs: int = pydantic.Field(1, ge=1, description="epochs on the first task at the end (repair)")
    replay_share: float = pydantic.Field(0.2, gt=0, lt=1, description="share of batches of tasks before (replay)")
    pretrain_tasks: tuple[str, ...] = ()
    """The tasks whose convolutions the others get (transfer); none named: those of kind auto."""
    pretrain_epochs: int = pydantic.Field(20, ge=1)
    loss_weights: dict[str, Annotated[float, pydantic.Field(ge=0)]] = {}
    """Weight of a task's loss under Aurora, 1 where absent."""
    reduction: Literal["labelled", "batch"] = "labelled"
    """What a task's loss over a batch is divided by: its labelled rows, or all rows as by Rezaei and Liu, so that one
    with few labels counts for less. Their starting rule for its weight (section V-B), all rows over the labelled ones,
    undoes that."""
    learning_rate: float = pydantic.Field(3e-3, gt=0)
    clip_norm: float | None = pydantic.Field(None, gt=0, description="bound on the norm of each gradient step")
    weight_decay: float = pydantic.Field(0.0, ge=0, description="times each weight, added to its gradient")
    plateau_factor: float = pydantic.Field(1.0, gt=0, le=1, description="times the learning rate on a plateau")
    plateau_patience: int = pydantic.Field(10, ge=0, description="epochs without a lower loss that are no plateau")
    batch_size: int = pydantic.Field(128, ge=1)
    microbatch: int | None = pydantic.Field(
        None, ge=1, description="rows of a batch that are computed at once, to need less memory; null = all"
    )
    mixed_precision: bool = False
    """Compute in bfloat16 on weights of float32; the model that is kept computes in float32. For processors that have
    bfloat16: others are slower with it."""
    xla: bool = False
    """Compile steps by XLA, which takes long; on a CPU only few models gain (docs/decisions/0019)."""
    epochs: int = pydantic.Field(20, ge=1)
    monitor: Literal["auc", "loss"] = "auc"
    """What early stopping watches on the validation split: the mean AUC of the tasks, or the sum of their losses by
    `loss_weights`, which the learning rate follows in any case."""
    patience: int = pydantic.Field(4, ge=1, description="epochs without improvement before training stops")
    window_rows: int = pydantic.Field(65_536, ge=1, description="flows that are shuffled together")
    miniset_rows: int | None = pydantic.Field(None, ge=1, description="flows of a miniset (Rainbow); null = by size")
    seed: int = pydantic.Field(7, ge=0, lt=2**32)

    @pydantic.model_validator(mode="after")
    def _parts_fit(self) -> Self:
        needs = {"single": "cnn_rnn2", "transfer": "multitask_cnn"}
        if self.paradigm in needs and self.model != needs[self.paradigm]:
            raise ValueError(f"paradigm {self.paradigm} needs model={needs[self.paradigm]}, got {self.model}")
        if self.model == "cnn_rnn2" and self.paradigm != "single":
            raise ValueError(f"model cnn_rnn2 has a network per task and needs paradigm=single, got {self.paradigm}")
        if self.model == "lmmoe" and self.scaling == "code_compat":
            raise ValueError("scaling code_compat pads in front, which model lmmoe would take for packets; use linear")
        if self.model == "lmmoe" and self.architecture == "shared_bottom" and self.experts != 1:
            raise ValueError(f"architecture shared_bottom has one expert and needs experts=1, got {self.experts}")
        if self.model == "lmmoe" and self.architecture == "dselect_k" and self.experts < max(2, self.selected_experts):
            raise ValueError(
                "architecture dselect_k needs 2 or more experts and at least as many as selected_experts, got "
                f"experts={self.experts}, selected_experts={self.selected_experts}"
            )
        if self.model != "lmmoe" and self.architecture != "mmoe":
            raise ValueError(f"architecture {self.architecture} needs model=lmmoe, got {self.model}")
        if self.weighting != "fixed" and self.paradigm in ("rainbow", "incremental", "single"):
            raise ValueError(f"weighting {self.weighting} needs joint steps, which paradigm {self.paradigm} has not")
        if self.paradigm != "incremental" and (self.arrivals or self.latecomer != "sequential"):
            raise ValueError(f"arrivals and latecomer need paradigm=incremental, got {self.paradigm}")
        if self.balance and self.paradigm == "incremental":
            raise ValueError("balance is of rows that tasks share, which paradigm incremental has not; leave it out")
        if self.latecomer == "isolate" and (self.model, self.architecture) != ("lmmoe", "mmoe"):
            raise ValueError(
                f"latecomer isolate adds experts and needs model=lmmoe, architecture=mmoe, got model={self.model}, "
                f"architecture={self.architecture}"
            )
        if self.tasks and self.arrivals and set(self.tasks) != set(self.arrivals):
            raise ValueError(f"arrivals must be of the tasks {list(self.tasks)}, got {list(self.arrivals)}")
        if self.sums and self.model not in ROW_MODELS:
            raise ValueError(f"sums need a model among {', '.join(ROW_MODELS)}, got {self.model}")
        if self.view != "tables" and (self.table_scaling != "standard" or self.most_features):
            raise ValueError("table_scaling and most_features are of tables; set source=features with a model of rows")
        if self.view == "tables" and self.expanded and self.table_scaling != "quantile":
            raise ValueError(
                "expanded features are waves of numbers from 0 to 1 and need table_scaling=quantile, as recipe "
                f"mtc-lite-tables has, got {self.table_scaling}"
            )
        if self.balance and self.balance.how == "smote" and (self.view != "tables" or self.labels_per_class):
            raise ValueError("balance how=smote needs source=features, and no labels_per_class: made rows have no flow")
        if self.microbatch and (self.xla or self.weighting not in ("fixed", "dwa")):
            raise ValueError(
                "microbatch needs xla=false, as XLA wants fixed sizes, and weighting fixed or dwa, as others are no "
                f"sums over rows; got xla={self.xla}, weighting={self.weighting}"
            )
        for name in ("tasks", "pretrain_tasks", "arrivals"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} must not repeat a task, got {list(getattr(self, name))}")
        return self

    @property
    def view(self) -> View:
        """The view of a dataset whose rows the model sees."""
        if self.model not in ROW_MODELS:
            return "flows"
        return "packets" if self.source == "bytes" else "tables"

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


_REZAEI_LIU: dict[str, Any] = {
    "k": 60,
    "channels": ("gap", "size"),
    "scaling": "linear",
    "learning_rate": 1e-3,
    "clip_norm": 1.0,
    "batch_size": 64,
    "epochs": 20,
    "patience": 20,
}

MTC_LITE: dict[str, Any] = {
    "repetitions": (1, 1, 1), "expanded": True, "positions": True, "readout": "wide", "masked": 0.2
}  # fmt: skip
"""What makes MTC learn more from few packets for less work; see `docs/decisions/0020-mtc-lite.md`."""
MTC_LITE_TABLES: dict[str, Any] = {**MTC_LITE, "masked": 0.0}
"""The same on features: each of the few is worth too much to be hidden."""

_MTC: dict[str, Any] = {
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "plateau_factor": 0.1,
    "plateau_patience": 10,
    "batch_size": 128,
    "epochs": 100,
    "monitor": "loss",
    "patience": 20,
}

RECIPES: dict[str, dict[str, Any]] = {
    "multa": {},
    "lstm": {"experts": 1},
    "multa-mean": {"gate_input": "mean"},
    "multitask-cnn": {**_REZAEI_LIU, "model": "multitask_cnn", "paradigm": "aurora", "reduction": "batch"},
    "multitask-cnn-windows": {
        **_REZAEI_LIU, "model": "multitask_cnn", "paradigm": "aurora", "scaling": "standard", "furthest_start": 20
    },
    "cnn-rnn2": {
        **_REZAEI_LIU, "model": "cnn_rnn2", "paradigm": "single", "only_labelled": True, "epochs": 30, "patience": 30
    },
    "mtc": {**_MTC, "model": "mtc"},
    "mtc-lite": {**_MTC, **MTC_LITE, "model": "mtc", "stem": None},
    "mtc-lite-tables": {
        **_MTC, **MTC_LITE_TABLES, "model": "mtc", "stem": None,
        "source": "features", "table_scaling": "quantile", "most_features": 49,
    },
    "mtc-transformer": {**_MTC, "model": "byte_transformer"},
    "mtc-cnn": {**_MTC, "model": "byte_cnn"},
    "transfer-cnn": {**_REZAEI_LIU, "model": "multitask_cnn", "paradigm": "transfer", "only_labelled": True},
}  # fmt: skip
"""`multa`: LMMoE with gates on the flattened features, as MULTA draws it. `multa-mean`: gates on the mean packet, which
have k times fewer weights: with small experts the others outweigh them. `lstm`: one LSTM that all towers share.
`multitask-cnn`: the network of Rezaei and Liu, its class task weighted by `loss_weights` (their lambda);
`multitask-cnn-windows`: the same made better (docs/reproduction/multitask-cnn.md): random windows of the same flow,
standard scaling, each loss the mean over labelled rows; `cnn-rnn2` and
`transfer-cnn`: what they compare it with (table III), a network per task, and convolutions learned from other tasks.
`mtc`: the Transformer and 1D-CNN of MTC on packet bytes; the paper's three tasks have `transformer_tasks=[app]` and
`loss_weights` of 6:2:1, divided by 9 if weight decay is to weigh as there. `mtc-lite`: the same for a CPU, with a token
as a step of its CNN branch (docs/decisions/0020-mtc-lite.md), and `mtc-lite-tables` on tables, with the paper's 49
features. `mtc-transformer` and `mtc-cnn`: what it is compared with
(sections 4.3.1 and 4.3.2), weights 4:2:1 and 2:2:1. `source=features` trains them on tables.
"""


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
    if not (place := ".".join(str(part) for part in entry["loc"])):
        return entry["msg"].removeprefix("Value error, ")
    return f"{place}: {entry['msg'].removeprefix('Value error, ')}, got {entry['input']!r}"
