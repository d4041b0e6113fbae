"""The weights of a model by the names of its layers, which is how they move to a model of another form."""

from collections.abc import Mapping

import keras
import numpy as np


def layer_weights(model: keras.Model) -> dict[str, list[np.ndarray]]:
    """Return the weights of every layer that has some."""
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def set_layer_weights(model: keras.Model, weights: Mapping[str, list[np.ndarray]]) -> None:
    """Set the weights of the layers that are named; layers that are not stay as they are."""
    for layer in model.layers:
        if layer.weights and layer.name in weights:
            layer.set_weights(weights[layer.name])
