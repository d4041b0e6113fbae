"""Structure and weights of mixtures and of FlowNet as plain arrays, for scoring without TensorFlow."""

from typing import Any

import keras
import numpy as np

from flowloom.trainers.conversion.pooled_weights import pooled_weights
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.models.packets.flow_net import FlowNet
from flowloom.trainers.models.ple import PLE


def unstreamable(model: keras.Model) -> str | None:
    """Returns the reason why a model cannot be scored packet by packet; None if it can."""
    if isinstance(model, PLE):
        return "the first-level gates of PLE read the whole flow before its second level reads a packet"
    if not isinstance(model, LMMoE | FlowNet):
        return f"{type(model).__name__} does not read packets one by one"
    return None


def streaming_structure(model: LMMoE | FlowNet) -> dict[str, Any]:
    """Returns the settings beside the arrays.

    They are `k`, `gate_input`, the classes of `tasks` and the number of `tower_layers`. `features` names the features
    of packets in units, and is None for scaled ones. `pooled` lists the arguments of each pooled expert, and is None
    for LSTMs.
    """
    structure = {
        "k": model.k,
        "tasks": dict(model.tasks),  # a plain dict: Keras' tracked one cannot be pickled
        "features": None if model.features is None else list(model.features),
    }
    if isinstance(model, FlowNet):
        return structure | {"gate_input": "mean", "tower_layers": 0, "pooled": [_settings(model.pool)]}
    pooled = None if model.pooled is None else [_settings(expert) for expert in model.expert_layers]
    return structure | {"gate_input": model.gate_input, "tower_layers": len(model.tower), "pooled": pooled}


def _settings(expert: Any) -> dict[str, Any]:
    """Returns the arguments of a pooled expert that its forward pass needs."""
    names = ("width", "layers", "mixing", "kernel", "attention_heads", "pooling", "first", "readout")
    return {name: expert.get_config()[name] for name in names}


def streaming_weights(model: LMMoE | FlowNet) -> dict[str, np.ndarray]:
    """Returns the weights of a mixture as float32 arrays by name.

    LSTMs: `kernel` [N, D, 4H], `recurrent_kernel` [N, H, 4H] and `bias` [N, 4H], with the LSTM gates in Keras' order,
    i, f, c, o. Pooled experts: those of `pooled_weights`, each behind `expert_0_` and so on. Tables of represented
    packets: `table_size` and so on, [rows, width]. Gates that read the flow: `gated` [T], `gate_kernel` [T, G, N] and
    `gate_bias` [T, N]. Other tasks: `shares` [T, N]. All tasks: `sees` [T, N], true for the experts that a task reads.
    Towers: `tower_kernel_0` [T, H, width], `tower_bias_0` [T, 1, width] and so on, by layer. Output layers:
    `head_kernel_0` [width, outputs], `head_bias_0` [outputs] and so on, by task. FlowNet is a mixture of one expert.

    Args:
      model: a mixture that is not in its batched form, or FlowNet.
    """
    tables = {} if model.features is None else model.get_layer("packets").tables
    weights = {f"table_{name}": np.asarray(table) for name, table in tables.items()}
    experts = [model.pool] if isinstance(model, FlowNet) else model.expert_layers
    if isinstance(model, FlowNet) or model.pooled is not None:
        for number, expert in enumerate(experts):
            weights |= {f"expert_{number}_{name}": array for name, array in pooled_weights(expert).items()}
    else:
        lstms = zip(*(lstm.get_weights() for lstm in experts), strict=True)
        weights |= dict(zip(("kernel", "recurrent_kernel", "bias"), map(np.stack, lstms), strict=True))
    for number, task in enumerate(model.tasks):
        weights[f"head_kernel_{number}"], weights[f"head_bias_{number}"] = model.get_layer(f"{task}_head").get_weights()
    if isinstance(model, FlowNet):
        alone = np.ones((len(model.tasks), 1), np.float32)
        return weights | {"gated": np.zeros(len(alone), bool), "sees": alone.astype(bool), "shares": alone}
    return weights | _gates_and_towers(model)


def _gates_and_towers(model: LMMoE) -> dict[str, np.ndarray]:
    fixed, tasks, experts = model.fixed_shares, list(model.tasks), model.experts
    read = model.channels if model.features is None else model.get_layer("packets").width
    width = model.k * read if model.gate_input == "flatten" else read
    weights = {
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
    for layer in range(len(model.tower)):
        towers = zip(*(model.get_layer(f"{task}_tower_{layer}").get_weights() for task in tasks), strict=True)
        kernels, biases = map(np.stack, towers)
        weights[f"tower_kernel_{layer}"], weights[f"tower_bias_{layer}"] = kernels, biases[:, None]  # [T, 1, width]
    return weights
