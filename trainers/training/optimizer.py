"""Adam with weight decay as MTC was trained with, a kernel for each variable."""

from typing import Any

import keras
import tensorflow as tf


class CoupledAdam(keras.optimizers.Adam):
    """Adam whose weight decay is part of the gradient, as in PyTorch's Adam: g + decay w, for every trained variable.

    `keras.optimizers.Adam(weight_decay=...)` takes the decay from the weights beside the step instead (AdamW), which is
    another regularisation. This one equals a penalty of decay / 2 times the sum of squares on the loss.

    The step is that of Keras but for rounding, as one operation of TensorFlow where Keras has a dozen, each a pass over
    all weights.

    Args:
      learning_rate: of Adam.
      coupled_decay: the factor, >= 0.
      kwargs: of `keras.optimizers.Adam`; AMSGrad is refused.
    """

    def __init__(self, learning_rate: float, coupled_decay: float = 0.0, **kwargs: Any) -> None:
        if coupled_decay < 0:
            raise ValueError(f"coupled_decay must be >= 0, got {coupled_decay}")
        if kwargs.get("amsgrad"):
            raise ValueError("amsgrad is not computed here, got amsgrad=True; take keras.optimizers.Adam")
        super().__init__(learning_rate, **kwargs)
        self.coupled_decay = coupled_decay

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: Any) -> None:
        """Update one variable."""
        if self.coupled_decay:
            gradient = gradient + self.coupled_decay * variable
        place, kind = self._get_variable_index(variable), variable.dtype
        step = tf.cast(self.iterations + 1, kind)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].value.handle,
            v=self._velocities[place].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, kind), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, kind), step),
            lr=tf.cast(learning_rate, kind),
            beta1=tf.cast(self.beta_1, kind),
            beta2=tf.cast(self.beta_2, kind),
            epsilon=tf.cast(self.epsilon, kind),
            grad=tf.cast(gradient, kind),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "coupled_decay": self.coupled_decay}
