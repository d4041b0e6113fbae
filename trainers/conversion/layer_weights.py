"""Weights by layer name, to copy them between models of different forms."""

from collections.abc import Mapping

import keras
import numpy as np


def layer_weights(model: keras.Model) -> dict[str, list[np.ndarray]]:
    """Returns the weights of every layer that has weights."""
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def set_layer_weights(model: keras.Model, weights: Mapping[str, list[np.ndarray]]) -> None:
    """Sets the weights of the named layers; other layers keep theirs."""
    for layer in model.layers:
        if layer.weights and layer.name in weights:
            layer.set_weights(weights[layer.name])
