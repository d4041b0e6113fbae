"""Adam with coupled or decoupled weight decay, and with a count of updates for each variable."""

from typing import Any

import keras
import tensorflow as tf


class CoupledAdam(keras.optimizers.Adam):
    """Adam whose weight decay is part of the gradient, as in PyTorch's Adam: g + decay w.

    Every trained variable decays, which equals a loss penalty of decay / 2 times the sum of squares. Decoupled decay is
    another regularisation, AdamW (Loshchilov and Hutter, ICLR 2019): each step first multiplies the weights by
    1 - rate decay, as `keras.optimizers.AdamW` does.

    The bias of a variable's moments is corrected by the number of its own updates (Kingma and Ba, 2015, algorithm 1).
    Keras counts the steps of the optimizer instead. Where steps update some variables alone, as under Rainbow, a
    variable that waited would then begin with sqrt(10) learning rates, as its first moments are hardly corrected.

    The update equals that of Keras up to rounding if each step updates all variables. It is one TensorFlow operation;
    Keras has a dozen, each with a pass over all weights.

    Args:
      learning_rate: learning rate of Adam.
      coupled_decay: factor of the weights in the gradient, >= 0.
      decoupled_decay: factor of the weights in the step, >= 0.
      kwargs: arguments of `keras.optimizers.Adam`, without AMSGrad. `global_clipnorm` limits the norm over all
        gradients of a step together, `clipnorm` that of each variable alone.
    """

    def __init__(
        self, learning_rate: float, coupled_decay: float = 0.0, decoupled_decay: float = 0.0, **kwargs: Any
    ) -> None:  # fmt: skip
        for name, decay in (("coupled_decay", coupled_decay), ("decoupled_decay", decoupled_decay)):
            if decay < 0:
                raise ValueError(f"{name} must be >= 0, got {decay}")
        if kwargs.get("amsgrad"):
            raise ValueError("amsgrad must be false, got True; use keras.optimizers.Adam")
        super().__init__(learning_rate, **kwargs)
        self.coupled_decay, self.decoupled_decay = coupled_decay, decoupled_decay

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes the moments of the variables, and after them the counts of updates."""
        if self.built:
            return
        super().build(variables)
        self._updates = [
            self.add_variable(shape=(), initializer="zeros", dtype="int64", name=f"updates_{place}")
            for place in range(len(variables))
        ]

    @property
    def stand_ins(self) -> dict[int, int]:
        """Positions in `variables` of the counts, each with that of the step count, which 0.2 used for all of them."""
        return dict.fromkeys(range(len(self.variables) - len(self._updates), len(self.variables)), 0)

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: Any) -> None:
        """Updates one variable."""
        if self.coupled_decay:
            gradient = gradient + self.coupled_decay * variable
        if self.decoupled_decay:
            variable.assign_sub(tf.cast(learning_rate * self.decoupled_decay, variable.dtype) * variable)
        place, kind = self._get_variable_index(variable), variable.dtype
        step = tf.cast(self._updates[place].value.assign_add(1), kind)
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
        return {
            **super().get_config(), "coupled_decay": self.coupled_decay, "decoupled_decay": self.decoupled_decay
        }  # fmt: skip
