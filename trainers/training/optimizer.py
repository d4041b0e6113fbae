"""Adam with coupled weight decay, as MTC uses it, with one TensorFlow operation per variable."""

from typing import Any

import keras
import tensorflow as tf


class CoupledAdam(keras.optimizers.Adam):
    """Adam whose weight decay is part of the gradient, as in PyTorch's Adam: g + decay w.

    Every trained variable decays, which equals a loss penalty of decay / 2 times the sum of squares.
    `keras.optimizers.Adam(weight_decay=...)` is another regularisation, which subtracts the decay from the weights
    beside the step (AdamW).

    The step equals that of Keras up to rounding. It is one TensorFlow operation; Keras has a dozen, each with a pass
    over all weights.

    Args:
      learning_rate: learning rate of Adam.
      coupled_decay: factor of the weights, >= 0.
      kwargs: arguments of `keras.optimizers.Adam`, without AMSGrad.
    """

    def __init__(self, learning_rate: float, coupled_decay: float = 0.0, **kwargs: Any) -> None:
        if coupled_decay < 0:
            raise ValueError(f"coupled_decay must be >= 0, got {coupled_decay}")
        if kwargs.get("amsgrad"):
            raise ValueError("amsgrad must be false, got True; use keras.optimizers.Adam")
        super().__init__(learning_rate, **kwargs)
        self.coupled_decay = coupled_decay

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: Any) -> None:
        """Updates one variable."""
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
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "coupled_decay": self.coupled_decay}
