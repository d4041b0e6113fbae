"""Inference form of a mixture of experts: unused experts pruned, the others batched, static gates folded."""

import itertools
from typing import Any, TypeVar

import keras

from flowloom.trainers.conversion.layer_weights import layer_weights, set_layer_weights
from flowloom.trainers.conversion.pruning import prune_experts
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.models.ple import PLE

Mixture = TypeVar("Mixture", LMMoE, PLE)


def inference_form(model: Any) -> keras.Model:
    """Returns the cheapest model with the same outputs.

    A mixture of experts loses the experts that no gate chose, and the others are batched if they are LSTMs. Any other
    model is returned as it is.
    """
    if isinstance(model, LMMoE):
        return fused(model if model.batched else prune_experts(model))
    return fused(model) if isinstance(model, PLE) else model


def fused(model: Mixture) -> Mixture:
    """Returns a model with the same inputs and outputs whose LSTMs are batched, with copies of the weights.

    Pooled experts have no batched form; a mixture of them is returned as it is.
    Its outputs differ by rounding alone. A DSelect-k gate, which is the same for every flow, becomes a constant.
    """
    if model.batched or (isinstance(model, LMMoE) and model.pooled is not None):
        return model
    weights = layer_weights(model)
    config = {**model.get_config(), "batched": True}
    if isinstance(model, LMMoE):
        folded = [task for task, gating in model.gating.items() if gating == "dselect_k"]
        config["gating"] = {**model.gating, **dict.fromkeys(folded, "constant")}
        weights |= {f"{task}_gate": [model.fixed_shares[task][list(model.sees[task])]] for task in folded}
    batched_model = type(model).from_config(config)
    lstms = iter(model.expert_layers)
    for batched in batched_model.expert_layers:
        batched.adopt(list(itertools.islice(lstms, batched.experts)))
    set_layer_weights(batched_model, weights)
    return batched_model
