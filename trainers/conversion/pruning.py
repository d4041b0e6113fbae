"""Pruning of experts that no task uses, as DSelect-k gates leave them."""

import numpy as np

from flowloom.trainers.conversion.layer_weights import layer_weights, set_layer_weights
from flowloom.trainers.models.lmmoe import LMMoE


def prune_experts(model: LMMoE) -> LMMoE:
    """Returns a model with the same outputs, without the experts whose share is exactly 0 for every task.

    A gate that is the same for every flow keeps the experts with a share, and is removed if that is one expert with
    share 1. A gate that reads the flow keeps all of its experts.

    Raises:
      ValueError: if the model is in its batched form, whose experts are one layer.
    """
    if model.batched:
        raise ValueError("model must not be batched, got a batched one; use fused(prune_experts(...))")
    fixed = model.fixed_shares
    used = {
        task: np.flatnonzero(fixed[task]).tolist() if task in fixed else list(seen) for task, seen in model.sees.items()
    }
    kept = sorted({n for numbers in used.values() for n in numbers})
    ends = np.cumsum(model.generations)
    counts = np.diff(np.searchsorted(kept, ends), prepend=0).tolist()
    mixing = [task for task, share in fixed.items() if share[used[task]].tolist() != [1.0]]
    pruned = LMMoE.from_config(
        {
            **model.get_config(),
            "experts": len(kept),
            "generations": [count for count in counts if count],
            "sees": {task: [kept.index(n) for n in numbers] for task, numbers in used.items()},
            "gating": {task: "constant" if task in mixing else "softmax" for task in model.tasks},
        }
    )
    weights = layer_weights(model)
    survivors = [model.expert_layers[number].get_weights() for number in kept]
    weights |= {lstm.name: learned for lstm, learned in zip(pruned.expert_layers, survivors, strict=True)}
    weights |= {f"{task}_gate": [fixed[task][used[task]]] for task in mixing}
    set_layer_weights(pruned, weights)
    return pruned
