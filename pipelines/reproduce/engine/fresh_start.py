"""Fresh starts: one network and its optimizer set back to new weights again and again, with one traced graph."""

from collections.abc import Callable
from typing import Any

import keras


class FreshStart:
    """Sets a network to new weights and its optimizer to where it was when this was made.

    Args:
      model: the network whose graphs are traced.
      build: makes another network of its kind.
      optimizer: built for the model, and not stepped yet.
    """

    def __init__(self, model: Any, build: Callable[[], Any], optimizer: keras.optimizers.Optimizer) -> None:
        self._model, self._build, self._optimizer = model, build, optimizer
        self._fresh_optimizer = [variable.numpy() for variable in optimizer.variables]

    def __call__(self, seed: int) -> None:
        """Start anew; weights, and all that is drawn later, depend on the seed alone."""
        keras.utils.set_random_seed(seed)
        for variable, fresh in zip(self._model.variables, self._build().variables, strict=True):
            variable.assign(fresh)
        for variable, value in zip(self._optimizer.variables, self._fresh_optimizer, strict=True):
            variable.assign(value)
