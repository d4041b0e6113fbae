"""Named recipes: the settings of each that differ from the defaults."""

from collections.abc import Mapping
from typing import Any

_REZAEI_LIU_SCHEDULE: dict[str, Any] = {"learning_rate": 1e-3, "clip_norm": 1.0, "epochs": 20, "patience": 20}
_REZAEI_LIU_FEED: dict[str, Any] = {"k": 60, "channels": ("gap", "size"), "scaling": "linear", "batch_size": 64}

_UNITS_MODEL: dict[str, Any] = {"dropout": 0.3}
_UNITS_SCHEDULE: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "weight_decay": 1e-3,
    "decay": "cosine",
    "epochs": 25,
    "keep": "last",
}
_UNITS_FEED: dict[str, Any] = {
    "k": 30,
    "channels": ("size", "gap", "direction", "tcp_flags", "protocol", "ttl", "window"),
    "scaling": "none",
}
"""Settings of networks that represent packets in units (docs/decisions/0033-packets-in-bins.md)."""

MTC_LITE: dict[str, Any] = {
    "repetitions": (1, 1, 1), "expanded": True, "positions": True, "readout": "wide", "masked": 0.2
}  # fmt: skip
"""Model settings by which MTC learns more from few packets with less computation (docs/decisions/0020-mtc-lite.md)."""
MTC_LITE_TABLES: dict[str, Any] = {**MTC_LITE, "masked": 0.0}
"""The same on table features without masking, as there are few of them."""

_MTC_SCHEDULE: dict[str, Any] = {
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "plateau_factor": 0.1,
    "plateau_patience": 10,
    "epochs": 100,
    "monitor": "loss",
    "patience": 20,
}

_UNITS: dict[str, Any] = {"channels": ("size", "gap", "direction"), "scaling": "none"}
_TREES_FEED: dict[str, Any] = {"source": "flows", "scaling": "none", "k": 30}

RECIPES: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "multa": {},
    "lstm": {"model": {"experts": 1}},
    "multa-mean": {"model": {"gate_input": "mean"}},
    "flow-net": {
        "model": {**_UNITS_MODEL, "kind": "flow_net"},
        "schedule": _UNITS_SCHEDULE,
        "feed": _UNITS_FEED,
    },
    "multa-bins": {
        "model": {**_UNITS_MODEL, "input": "bins", "gate_input": "mean"},
        "schedule": _UNITS_SCHEDULE,
        "feed": _UNITS_FEED,
    },
    "multa-pooled": {
        "model": {**_UNITS_MODEL, "input": "bins", "gate_input": "mean", "expert_kind": "pooled", "units": 64},
        "schedule": _UNITS_SCHEDULE,
        "feed": _UNITS_FEED,
    },
    "multitask-cnn": {
        "model": {"kind": "multitask_cnn"},
        "loss": {"reduction": "batch"},
        "schedule": {**_REZAEI_LIU_SCHEDULE, "paradigm": "aurora"},
        "feed": _REZAEI_LIU_FEED,
    },
    "multitask-cnn-windows": {
        "model": {"kind": "multitask_cnn"},
        "schedule": {**_REZAEI_LIU_SCHEDULE, "paradigm": "aurora"},
        "feed": {**_REZAEI_LIU_FEED, "scaling": "standard", "furthest_start": 20},
    },
    "cnn-rnn2": {
        "model": {"kind": "cnn_rnn2"},
        "schedule": {**_REZAEI_LIU_SCHEDULE, "paradigm": "single", "epochs": 30, "patience": 30},
        "feed": {**_REZAEI_LIU_FEED, "only_labelled": True},
    },
    "mtc": {"model": {"kind": "mtc"}, "schedule": _MTC_SCHEDULE},
    "mtc-lite": {"model": {**MTC_LITE, "kind": "mtc", "stem": None}, "schedule": _MTC_SCHEDULE},
    "mtc-lite-tables": {
        "model": {**MTC_LITE_TABLES, "kind": "mtc", "stem": None},
        "schedule": _MTC_SCHEDULE,
        "feed": {"source": "features", "table_scaling": "quantile", "most_features": 49},
    },
    "mtc-transformer": {"model": {"kind": "byte_transformer"}, "schedule": _MTC_SCHEDULE},
    "mtc-cnn": {"model": {"kind": "byte_cnn"}, "schedule": _MTC_SCHEDULE},
    "transfer-cnn": {
        "model": {"kind": "multitask_cnn"},
        "schedule": {**_REZAEI_LIU_SCHEDULE, "paradigm": "transfer"},
        "feed": {**_REZAEI_LIU_FEED, "only_labelled": True},
    },
    "cesnet-cnn": {
        "model": {"kind": "cesnet_cnn"},
        "schedule": {"learning_rate": 1e-3, "epochs": 30, "patience": 30},
        "feed": {**_UNITS, "k": 30},
    },
    "flowpic": {
        "model": {"kind": "flowpic"},
        "schedule": {"learning_rate": 1e-3, "epochs": 60, "patience": 60},
        "feed": {**_UNITS, "k": 60, "batch_size": 32},
    },
    "byte-patches": {
        "model": {"kind": "byte_patches", "encoders": 2, "attention_heads": 4, "dropout": 0.1},
        "schedule": {"learning_rate": 1e-3, "epochs": 10, "patience": 10},
        "feed": {"length": 320},
    },
    "extra-trees": {"model": {"kind": "extra_trees"}, "feed": _TREES_FEED},
    "forest": {"model": {"kind": "random_forest"}, "feed": _TREES_FEED},
    "boosted-trees": {
        "model": {"kind": "boosted_trees", "flow_columns": "both", "trees": 100},
        "feed": _TREES_FEED,
    },
    "lightgbm": {"model": {"kind": "lightgbm", "flow_columns": "both", "trees": 100}, "feed": _TREES_FEED},
    "logistic": {"model": {"kind": "logistic", "flow_columns": "histograms"}, "feed": _TREES_FEED},
}
"""Settings by section for every name that `flowloom train --recipe` accepts.

`multa`: LMMoE with gates on the flattened features, as in MULTA. `multa-mean`: gates on the mean packet, which have k
times fewer weights; flattened gates have more weights than small experts. `lstm`: one LSTM that all towers read.

`multitask-cnn`: the network of Rezaei and Liu; `loss.weights` of the class task is their lambda.
`multitask-cnn-windows`: the same with random windows of each flow, standard scaling, and losses averaged over labelled
rows, which scores higher (docs/reproduction/multitask-cnn.md). `cnn-rnn2`, `transfer-cnn`: their baselines (table III),
a network per task and convolutions learned from other tasks.

`mtc`: the Transformer and 1D-CNN of MTC on packet bytes. The paper's three tasks have `transformer_tasks=[app]` and
`loss.weights` of 6:2:1, divided by 9 so that weight decay counts as much as in the paper. `mtc-lite`: MTC for a CPU,
whose CNN branch reads a token at each step (docs/decisions/0020-mtc-lite.md). `mtc-lite-tables`: the same on tables,
with the paper's 49 features. `mtc-transformer`, `mtc-cnn`: the paper's baselines (sections 4.3.1 and 4.3.2), weights
4:2:1 and 2:2:1. `feed.source=features` trains these on tables.

The field's networks, as baselines (docs/baselines.md): `cesnet-cnn`, 30pktTCNET of Luxemburk et al.; `flowpic`,
mini-FlowPic of Horowicz et al.; `byte-patches`, a small Transformer of the kind of ET-BERT and YaTC without their
pre-training.

`extra-trees`, `forest`, `boosted-trees`, `lightgbm`, `logistic`: an estimator for each task on the first 30 packets of
flows, on bytes of packets (`feed.source=bytes`) or on tables (`feed.source=features`); the best round of boosting is
chosen on validation rows (docs/decisions/0036-trees-as-models.md).
"""

SUMMARIES: dict[str, str] = {
    "multa": "mixture of LSTM experts with gates on all features (MULTA); reads flows",
    "lstm": "one LSTM that all tasks share; reads flows",
    "multa-mean": "MULTA with gates on the mean packet, which have far fewer weights; reads flows",
    "flow-net": "binned packets, convolutions and pooling, which beat the LSTMs; reads flows",
    "multa-bins": "MULTA on binned packets; reads flows",
    "multa-pooled": "MULTA on binned packets with convolutions and pooling as experts; reads flows",
    "multitask-cnn": "1D-CNN of Rezaei and Liu; reads flows",
    "multitask-cnn-windows": "the same with random windows of each flow, which scores higher; reads flows",
    "cnn-rnn2": "baseline of Rezaei and Liu: a CNN and an RNN for each task; reads flows",
    "mtc": "Transformer and 1D-CNN (MTC); reads packets, or tables with feed.source=features",
    "mtc-lite": "MTC for a CPU; reads packets",
    "mtc-lite-tables": "MTC for a CPU on 49 features scaled by ranks; reads tables",
    "mtc-transformer": "baseline of MTC: the Transformer alone; reads packets or tables",
    "mtc-cnn": "baseline of MTC: the 1D-CNN alone; reads packets or tables",
    "transfer-cnn": "baseline of Rezaei and Liu: convolutions learned from measured tasks; reads flows",
    "cesnet-cnn": "CESNET's CNN of 30 packets with embedded sizes and gaps (30pktTCNET); reads flows",
    "flowpic": "LeNet on a picture of sizes and times (mini-FlowPic); reads flows",
    "byte-patches": "small byte Transformer of the kind of ET-BERT and YaTC; reads packets",
    "extra-trees": "extremely randomised trees for each task; reads flows, packets or tables",
    "forest": "random forest for each task; reads flows, packets or tables",
    "boosted-trees": "gradient boosting for each task (scikit-learn); reads flows, packets or tables",
    "lightgbm": "gradient boosting for each task (LightGBM); reads flows, packets or tables",
    "logistic": "logistic regression on histograms for each task; reads flows, packets or tables",
}
"""A line about each recipe, and the view that it reads."""
