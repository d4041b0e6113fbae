"""Products of tall matrices with small kernels, such as all steps of a batch with a layer's weights."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def tall_matmul(rows: Any, kernel: Any) -> tf.Tensor:
    """Returns rows [M, a] times kernel [a, b] for a large M, with gradients in the fastest order of operands.

    On a CPU a product is up to three times slower with a tall transposed operand on the left of a narrow one, and up to
    two times slower if the small operand is read transposed (docs/performance.md). So the kernel's gradient has the
    wider matrix on the right, and small matrices are transposed beforehand.
    """
    return _tall_matmul(tf.convert_to_tensor(rows), tf.convert_to_tensor(kernel))


@tf.custom_gradient
def _tall_matmul(rows: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if kernel.shape[0] > kernel.shape[1]:
            of_kernel = tf.transpose(tf.matmul(upstream, rows, transpose_a=True))
        else:
            of_kernel = tf.matmul(rows, upstream, transpose_a=True)
        return tf.matmul(upstream, tf.transpose(kernel)), of_kernel

    return tf.matmul(rows, kernel), gradient
