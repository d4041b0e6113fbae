"""Weights of pooled packets as plain arrays, for scoring without TensorFlow."""

from typing import Any

import numpy as np


def pooled_weights(expert: Any) -> dict[str, np.ndarray]:
    """Returns the weights of a `PooledPackets` layer as float32 arrays by name.

    `dense_kernel` [D, W], `dense_bias` [W], `places` [k, W], `norm_gamma` and `norm_beta` [W]. For each residual layer,
    behind `residual_0_` and so on: `kernel`, `bias`, and `gamma_0` and `beta_0` of its normalisation; self-attention
    also has `queries`, `mix`, `gamma_1` and `beta_1`. Where used, `attention_kernel` [W, 1], and `first_kernel` and
    `first_bias` of the first packets. `last_kernel` and `last_bias` of the readout.
    """
    found = {
        "dense_kernel": expert.dense.kernel,
        "dense_bias": expert.dense.bias,
        "places": expert.positions.places,
        "norm_gamma": expert.norm.gamma,
        "norm_beta": expert.norm.beta,
        "last_kernel": expert.last.kernel,
        "last_bias": expert.last.bias,
    }
    for number, layer in enumerate(expert.residual):
        attends = expert.mixing == "attention"
        inner = {"kernel": layer.kernel, "bias": layer.bias}
        inner |= {"queries": layer.queries, "mix": layer.mix} if attends else {}
        for at, norm in enumerate(layer.norms if attends else [layer.norm]):
            inner |= {f"gamma_{at}": norm.gamma, f"beta_{at}": norm.beta}
        found |= {f"residual_{number}_{name}": weight for name, weight in inner.items()}
    if expert.attention is not None:
        found["attention_kernel"] = expert.attention.kernel
    if expert.places is not None:
        found |= {"first_kernel": expert.places.kernel, "first_bias": expert.places.bias}
    return {name: np.asarray(weight, np.float32) for name, weight in found.items()}
