"""The cheapest form of a trained model that says the same."""

from typing import Any

import keras

from flowloom.trainers.conversion.fused import fused
from flowloom.trainers.conversion.pruning import prune_experts
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.models.ple import PLE


def inference_form(model: Any) -> keras.Model:
    """Return a mixture of experts without those that no gate chose, the others batched; any other model as it is."""
    if isinstance(model, LMMoE):
        return fused(model if model.batched else prune_experts(model))
    return fused(model) if isinstance(model, PLE) else model
