"""LSTM that trains with one TensorFlow kernel per direction instead of Keras' loop over the steps."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

STANDARD = {
    "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "dropout": 0.0, "recurrent_dropout": 0.0,
    "go_backwards": False, "stateful": False, "return_state": False, "unroll": False, "zero_output_for_mask": False,
}  # fmt: skip
"""Arguments that the kernel supports: an LSTM with forget gates and without peepholes."""


@keras.saving.register_keras_serializable(package="flowloom")
class KernelLSTM(keras.layers.LSTM):
    """`keras.layers.LSTM` with cheaper training steps, and the same weights and values but for rounding.

    Experts are small, so that a loop spends most time between operations. Inference and types other than float32 use
    Keras' loop, which other runtimes can convert.

    Args:
      units: width of the output.
      kwargs: arguments of `keras.layers.LSTM`; those in `STANDARD` must have its values.

    Input shape:
      [B, T, C].

    Output shape:
      [B, units], or [B, T, units] with `return_sequences`.

    Raises:
      ValueError: if an argument differs from `STANDARD`.

    Reference:
      Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; forget gates: Gers et al., 2000.
    """

    one_kernel = True
    """Whether training uses the kernel, which XLA cannot compile."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        config = super().get_config()
        if changed := sorted(name for name, value in STANDARD.items() if config[name] != value):
            raise ValueError(
                f"KernelLSTM must have the standard {', '.join(changed)}, got another value; use keras.layers.LSTM"
            )

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool | None = False
    ) -> Any:  # fmt: skip
        """Returns the output after the last step, [B, units], or after each, [B, T, units].

        Args:
          sequences: [B, T, C].
          initial_state: must be None for the kernel.
          mask: bool [B, T], true up to the end of a sequence; None if all steps are present.
          training: uses the kernel.
        """
        if not training or not self.one_kernel or self.compute_dtype != "float32" or initial_state is not None:
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        weights = tf.concat([self.cell.kernel, self.cell.recurrent_kernel], 0)  # [C + units, 4 units]
        hidden = _outputs(tf.transpose(sequences, (1, 0, 2)), weights, tf.convert_to_tensor(self.cell.bias))
        hidden = tf.transpose(hidden, (1, 0, 2))  # [B, T, units]
        if mask is None:
            return hidden if self.return_sequences else hidden[:, -1]
        # behind the end of a sequence its last output is repeated; without steps the output is 0
        length = tf.reduce_sum(tf.cast(mask, tf.int32), 1, keepdims=True)  # [B, 1]
        steps = tf.range(hidden.shape[1])[None] if self.return_sequences else hidden.shape[1] - 1
        last = tf.gather(hidden, tf.maximum(tf.minimum(steps, length - 1), 0), axis=1, batch_dims=1)
        last = tf.where(length[:, :, None] > 0, last, 0.0)  # [B, T or 1, units]
        return last if self.return_sequences else last[:, 0]


@tf.custom_gradient
def _outputs(sequences: tf.Tensor, weights: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """Returns the outputs of all steps: [T, B, C], [C + units, 4 units], [4 units] -> [T, B, units].

    The gradient is written out, because the registered one of TensorFlow 2.21 has another order of the gates.
    """
    units = bias.shape[0] // 4
    zeros, unused = tf.zeros((tf.shape(sequences)[1], units)), tf.zeros((units,))
    given: dict[str, Any] = {
        "seq_len_max": tf.cast(tf.shape(sequences)[0], tf.int64), "x": sequences, "w": weights, "b": bias,
        "cs_prev": zeros, "h_prev": zeros, "wci": unused, "wcf": unused, "wco": unused, "use_peephole": False,
    }  # fmt: skip
    i, cs, f, o, ci, co, h = tf.raw_ops.BlockLSTMV2(cell_clip=0.0, **given)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        found = tf.raw_ops.BlockLSTMGradV2(
            **given, i=i, cs=cs, f=f, o=o, ci=ci, co=co, h=h, cs_grad=tf.zeros_like(cs), h_grad=upstream
        )
        return found.x_grad, found.w_grad, found.b_grad

    return h, gradient


def without_kernels(model: keras.Model) -> None:
    """Makes the LSTMs of a model use Keras' loop, for XLA."""
    for layer in model.layers:
        if isinstance(layer, KernelLSTM):
            layer.one_kernel = False
