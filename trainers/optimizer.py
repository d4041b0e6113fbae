"""Adam with weight decay as MTC was trained with."""

from typing import Any

import keras


class CoupledAdam(keras.optimizers.Adam):
    """Adam whose weight decay is part of the gradient, as in PyTorch's Adam: g + decay w, for every trained variable.

    `keras.optimizers.Adam(weight_decay=...)` takes the decay from the weights beside the step instead (AdamW), which is
    another regularisation. This one equals a penalty of decay / 2 times the sum of squares on the loss.

    Args:
      learning_rate: of Adam.
      coupled_decay: the factor, >= 0.
    """

    def __init__(self, learning_rate: float, coupled_decay: float = 0.0, **kwargs: Any) -> None:
        if coupled_decay < 0:
            raise ValueError(f"coupled_decay must be >= 0, got {coupled_decay}")
        super().__init__(learning_rate, **kwargs)
        self.coupled_decay = coupled_decay

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """Update one variable."""
        if self.coupled_decay:
            gradient = gradient + self.coupled_decay * variable
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "coupled_decay": self.coupled_decay}
