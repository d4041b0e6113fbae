"""The form of a mixture of experts for inference: all experts of a level in one layer, gates that learned folded."""

import itertools
from typing import TypeVar

from flowloom.trainers.conversion.layer_weights import layer_weights, set_layer_weights
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.models.ple import PLE

Mixture = TypeVar("Mixture", LMMoE, PLE)


def fused(model: Mixture) -> Mixture:
    """Return a model of the same inputs and outputs whose experts are batched, with copies of the weights.

    Its outputs differ by rounding alone. A DSelect-k gate, which is the same for every flow, becomes a constant.
    """
    if model.batched:
        return model
    weights = layer_weights(model)
    config = {**model.get_config(), "batched": True}
    if isinstance(model, LMMoE):
        folded = [task for task, gating in model.gating.items() if gating == "dselect_k"]
        config["gating"] = {**model.gating, **dict.fromkeys(folded, "constant")}
        weights |= {f"{task}_gate": [model.fixed_shares[task][list(model.sees[task])]] for task in folded}
    twin = type(model).from_config(config)
    lstms = iter(model.expert_layers)
    for batched in twin.expert_layers:
        batched.adopt(list(itertools.islice(lstms, batched.experts)))
    set_layer_weights(twin, weights)
    return twin
