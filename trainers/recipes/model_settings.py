"""Model settings of a recipe: the network and its sizes."""

from typing import Annotated, Literal, Self

import pydantic

ROW_MODELS = ("mtc", "byte_transformer", "byte_cnn", "byte_patches")
"""Networks of packets or tables; all other networks are of flows."""
PATCH_HEADS = 4
"""Attention heads of byte_patches where a recipe gives none."""
TREES = ("extra_trees", "random_forest", "boosted_trees", "lightgbm", "logistic")
"""Trees and linear models, which are fitted as a whole and read the view of `feed.source`."""
_CHANNELS_IN_PLACES = ("cesnet_cnn", "flowpic")
_UNITS = ("flow_net", *_CHANNELS_IN_PLACES, *TREES)


class SummedTask(pydantic.BaseModel):
    """A task whose probabilities are sums over the classes of another task, such as traffic type over VPN or not."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    of: str
    """The task whose probabilities are summed."""
    words: dict[str, str] = {}
    """By label value of the summed task, the label value of this one; a label value that is absent keeps its name."""


class ModelSettings(pydantic.BaseModel):
    """The network and its sizes."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    kind: Literal[
        "lmmoe", "flow_net", "multitask_cnn", "cnn_rnn2", "mtc", "byte_transformer", "byte_cnn", "cesnet_cnn",
        "flowpic", "byte_patches", "extra_trees", "random_forest", "boosted_trees", "lightgbm", "logistic",
    ] = "lmmoe"  # fmt: skip
    """Architecture of the network, or kind of trees or linear model."""

    # mixtures of experts
    architecture: Literal["shared_bottom", "mmoe", "cgc", "ple", "dselect_k"] = "mmoe"
    """Sharing of the experts. `shared_bottom`: all tasks read one expert. `mmoe`: each task weighs all
    experts by a gate. `cgc`, `ple`: shared experts and experts of one task, at one level or at two. `dselect_k`: each
    task ends with a few experts, the same for every flow."""
    experts: int = pydantic.Field(2, ge=1, description="experts; under cgc and ple those that all tasks share")
    task_experts: int = pydantic.Field(1, ge=1, description="experts of each task alone (cgc, ple)")
    selected_experts: int = pydantic.Field(1, ge=1, description="experts that a task ends with (dselect_k)")
    gate_entropy: float = pydantic.Field(0.1, ge=0, description="loss weight of the gates' entropy (dselect_k)")
    units: int = pydantic.Field(32, ge=1, description="width of an expert")
    expert_kind: Literal["lstm", "pooled"] = "lstm"
    """Network of an expert. `lstm`: reads scaled or represented packets one by one. `pooled`: the residual layers and
    poolings of flow_net at the width of an expert, which needs `input=bins`."""
    input: Literal["scaled", "bins"] = "scaled"
    """Packets that experts and gates read. `scaled`: features as `feed.scaling` gives them. `bins`: soft bins and
    learned embeddings of packets in units, which needs `feed.scaling=none`."""
    gate_input: Literal["flatten", "mean", "first_packet"] = "flatten"
    """Input of the gates of mmoe: all features of all packets, their mean over packets, or the first packet."""
    tower: tuple[Annotated[int, pydantic.Field(ge=1)], ...] = (16,)
    """Widths of the hidden layers of each task."""

    # networks of packets in units: flow_net, and lmmoe with input=bins
    embedding: int = pydantic.Field(32, ge=0, description="width of the embedding of a size; 0 = soft bins alone")
    width: int = pydantic.Field(128, ge=1, description="width of a packet in flow_net")
    layers: int = pydantic.Field(2, ge=0, description="residual layers of flow_net and of a pooled expert")
    mixing: Literal["convolution", "attention"] = "convolution"
    """Residual layers of flow_net and of a pooled expert: convolutions of three packets, or self-attention."""
    pooling: tuple[Literal["mean", "max", "attention"], ...] = ("mean", "max")
    """Poolings over the packets of the last residual layer."""
    first_packets: int = pydantic.Field(8, ge=0, description="first packets that are also read in their places")
    readout_width: int = pydantic.Field(256, ge=1, description="width of flow_net before its output layers")

    # the multi-task CNN of Rezaei and Liu
    convolutions: Literal["paper", "fit"] = "paper"
    """Number of convolutions for a short k: as the paper chooses (`paper`), or as many as fit (`fit`)."""

    # the picture of FlowPic
    pixels: int = pydantic.Field(32, ge=16, description="rows and columns of flowpic's picture")
    window_s: float = pydantic.Field(15.0, ge=1e-3, le=60, description="seconds of a flow in flowpic's picture")

    # models of packets and tables: MTC and its baselines
    transformer_tasks: tuple[str, ...] = ()
    """Tasks that read the Transformer branch of mtc; all others read its CNN branch."""
    stem: int | None = pydantic.Field(
        1, ge=1, description="bytes of one step of mtc's CNN branch; null = a token of the Transformer branch"
    )
    expanded: bool = pydantic.Field(
        False, description="whether both branches of mtc also read the bits of a byte, or the waves of a feature"
    )
    positions: bool = pydantic.Field(False, description="whether both branches of mtc read the position of a byte")
    readout: Literal["mean", "all", "wide"] = "mean"
    """Input of the tasks of mtc's CNN branch: the mean over its steps, all steps, or all steps and all input values."""
    masked: float = pydantic.Field(0.0, ge=0, lt=1, description="share of the bytes that mtc zeroes in training")
    repetitions: tuple[int, int, int] = (1, 5, 6)
    """Encoder layers of each block of mtc."""
    encoders: int = pydantic.Field(7, ge=1, description="layers of byte_transformer and byte_patches")
    attention_heads: int | None = pydantic.Field(
        None,
        ge=1,
        description="null = 6 on bytes, and on features the number of values in a token, as in MTC; 4 in byte_patches",
    )
    dropout: float = pydantic.Field(
        0.07,
        ge=0,
        lt=1,
        description="rate in the CNN branch of mtc, in byte_patches, in flow_net, and in lmmoe with input=bins",
    )
    patch: int = pydantic.Field(4, ge=1, description="bytes of a token of byte_patches")
    token_width: int = pydantic.Field(64, ge=1, description="values of a token of byte_patches")
    sums: dict[str, SummedTask] = {}
    """Tasks without an output layer, whose probabilities are sums over the classes of another task."""

    # trees and linear models, one for each task
    flow_columns: Literal["positions", "histograms", "both"] = "positions"
    """Columns of flows: the values of each packet, histograms and statistics over the packets, or both."""
    trees: int = pydantic.Field(300, ge=1, description="trees of a forest, or most rounds of boosting")
    leaf_rows: int | None = pydantic.Field(
        None, ge=1, description="fewest train rows of a leaf; null = 1 in forests, 20 in boosted trees"
    )
    shrinkage: float = pydantic.Field(0.1, gt=0, le=1, description="times the values of a round of boosting")
    penalty: float = pydantic.Field(1.0, gt=0, description="strength of the L2 penalty of logistic")
    most_rows: int = pydantic.Field(
        200_000, ge=1, description="largest number of train rows of a task, drawn at random; all are held in memory"
    )

    @property
    def reads_units(self) -> bool:
        """True for models that read the packets of flows in units, and so need `feed.scaling=none`."""
        return self.kind in _UNITS or self.input == "bins"

    @property
    def reads_unit_channels(self) -> bool:
        """True for networks that read sizes, gaps and directions alone, each in its place."""
        return self.kind in _CHANNELS_IN_PLACES

    @property
    def reads_rows(self) -> bool:
        """True for networks of packets or tables."""
        return self.kind in ROW_MODELS

    @property
    def is_trees(self) -> bool:
        """True for trees and linear models, which have no epochs."""
        return self.kind in TREES

    @pydantic.model_validator(mode="after")
    def _experts_fit_the_architecture(self) -> Self:
        if self.kind != "lmmoe" and self.architecture != "mmoe":
            raise ValueError(
                f"model.architecture={self.architecture} needs model.kind=lmmoe, got {self.kind}; "
                "remove model.architecture"
            )
        if self.kind == "lmmoe" and self.architecture == "shared_bottom" and self.experts != 1:
            raise ValueError(
                f"model.experts must be 1 under model.architecture=shared_bottom, got {self.experts}; "
                "set model.experts=1"
            )
        if self.kind == "lmmoe" and self.architecture == "dselect_k" and self.experts < max(2, self.selected_experts):
            raise ValueError(
                "model.experts must be 2 or more, and at least model.selected_experts, under "
                f"model.architecture=dselect_k, got model.experts={self.experts} and "
                f"model.selected_experts={self.selected_experts}; raise model.experts"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _bins_are_of_mixtures(self) -> Self:
        if self.input == "bins" and (self.kind, self.architecture == "ple") != ("lmmoe", False):
            raise ValueError(
                "model.input=bins needs model.kind=lmmoe and an architecture other than ple, got "
                f"model.kind={self.kind} and model.architecture={self.architecture}; remove model.input"
            )
        if self.expert_kind == "pooled" and self.input != "bins":
            raise ValueError(f"model.expert_kind=pooled needs model.input=bins, got {self.input}; set model.input=bins")
        return self

    @pydantic.model_validator(mode="after")
    def _sums_need_a_model_of_rows(self) -> Self:
        if self.sums and not self.reads_rows:
            raise ValueError(
                f"model.sums needs a model.kind among {', '.join(ROW_MODELS)}, got {self.kind}; remove model.sums"
            )
        return self
