"""Structure and weights of a mixture of LSTM experts as plain arrays, for scoring without TensorFlow."""

from typing import Any

import keras
import numpy as np

from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.models.ple import PLE


def unstreamable(model: keras.Model) -> str | None:
    """Returns the reason why a model cannot be scored packet by packet; None if it can."""
    if isinstance(model, PLE):
        return "the first-level gates of PLE read the whole flow before its second level reads a packet"
    if not isinstance(model, LMMoE):
        return f"{type(model).__name__} does not read packets one by one"
    return None


def streaming_structure(model: LMMoE) -> dict[str, Any]:
    """Returns the settings beside the arrays: packets per flow, gate input, classes of tasks, depth of towers."""
    return {
        "k": model.k,
        "gate_input": model.gate_input,
        "tasks": dict(model.tasks),  # a plain dict: Keras' tracked one cannot be pickled
        "tower_layers": len(model.tower),
    }


def streaming_weights(model: LMMoE) -> dict[str, np.ndarray]:
    """Returns the weights of a mixture as float32 arrays by name.

    Experts: `kernel` [N, C, 4H], `recurrent_kernel` [N, H, 4H] and `bias` [N, 4H], with the LSTM gates in Keras' order,
    i, f, c, o. Gates that read the flow: `gated` [T], `gate_kernel` [T, G, N] and `gate_bias` [T, N]. Other tasks:
    `shares` [T, N]. All tasks: `sees` [T, N], true for the experts that a task reads. Towers: `tower_kernel_0`
    [T, H, width], `tower_bias_0` [T, 1, width] and so on, by layer. Output layers: `head_kernel_0` [width, outputs],
    `head_bias_0` [outputs] and so on, by task.

    Args:
      model: a mixture that is not in its batched form.
    """
    lstms = zip(*(lstm.get_weights() for lstm in model.expert_layers), strict=True)
    weights = dict(zip(("kernel", "recurrent_kernel", "bias"), map(np.stack, lstms), strict=True))
    fixed, tasks, experts = model.fixed_shares, list(model.tasks), model.experts
    width = model.k * model.channels if model.gate_input == "flatten" else model.channels
    weights |= {
        "gate_kernel": np.zeros((len(tasks), width, experts), np.float32),
        "gate_bias": np.zeros((len(tasks), experts), np.float32),
        "gated": np.array([task not in fixed for task in tasks]),
        "sees": np.zeros((len(tasks), experts), bool),
        "shares": np.zeros((len(tasks), experts), np.float32),
    }
    for number, task in enumerate(tasks):
        seen = list(model.sees[task])
        weights["sees"][number, seen] = True
        if task in fixed:
            weights["shares"][number] = fixed[task]
        else:
            kernel, bias = model.get_layer(f"{task}_gate").get_weights()
            weights["gate_kernel"][number][:, seen] = kernel
            weights["gate_bias"][number, seen] = bias
        weights[f"head_kernel_{number}"], weights[f"head_bias_{number}"] = model.get_layer(f"{task}_head").get_weights()
    for layer in range(len(model.tower)):
        towers = zip(*(model.get_layer(f"{task}_tower_{layer}").get_weights() for task in tasks), strict=True)
        kernels, biases = map(np.stack, towers)
        weights[f"tower_kernel_{layer}"], weights[f"tower_bias_{layer}"] = kernels, biases[:, None]  # [T, 1, width]
    return weights
