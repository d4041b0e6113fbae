"""Gradient surgery: removes from the gradients of two tasks the parts that conflict (PCGrad)."""

import math
from typing import Any

import tensorflow as tf

from flowloom.trainers.training.weighting import Variables, Weighting


class PCGrad(Weighting):
    """Sums the tasks' gradients of the shared variables after `project_conflicts` (Yu et al., 2020, algorithm 1).

    The gradients of a task's own variables stay as they are. Each task is projected against the others in an order that
    is drawn in every step, by seed and step.
    """

    by_task = True
    additive = False

    def gradients(
        self, tape: tf.GradientTape, losses: list[tf.Tensor], known: tf.Tensor, variables: Variables, step: Any
    ) -> list[tf.Tensor]:
        """Returns the gradients of the model's variables, without conflicts on the shared ones."""
        is_shared = {id(variable) for variable in self._model.shared_variables}
        shared = [variable for variable in variables if id(variable) in is_shared]
        own = [variable for variable in variables if id(variable) not in is_shared]
        found = dict(zip(map(id, own), tape.gradient(losses, own), strict=True))
        values = [variable.value for variable in shared]
        zero = tf.UnconnectedGradients.ZERO
        by_task = [tape.gradient(loss, values, unconnected_gradients=zero) for loss in losses]
        flat = tf.stack([tf.concat([tf.reshape(each, [-1]) for each in one], axis=0) for one in by_task])  # [T, P]
        seed = tf.stack([tf.constant(self._seed, tf.int64), tf.cast(step, tf.int64)])
        order = tf.argsort(tf.random.stateless_uniform((len(losses), len(losses)), seed))
        summed = tf.reduce_sum(project_conflicts(flat, order), axis=0)  # [P]
        parts = tf.split(summed, [math.prod(variable.shape) for variable in shared])
        for variable, part in zip(shared, parts, strict=True):
            found[id(variable)] = tf.reshape(part, variable.shape)
        return [found[id(variable)] for variable in variables]


def project_conflicts(gradients: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Removes from every task's gradient its components against the original gradients of the other tasks.

    Args:
      gradients: float32 [T, P], a row per task.
      order: int32 [T, T], in row t the order of the tasks that the gradient of task t is projected against.

    Returns:
      float32 [T, P]: row g_t after g_t -= (g_t . g_j) / |g_j|^2 g_j for each j but t with g_t . g_j < 0.
    """
    tasks = gradients.shape[0]
    projected = gradients
    for place in range(tasks):
        other = order[:, place]
        met = tf.gather(gradients, other)
        along = tf.reduce_sum(projected * met, axis=1)
        conflicts = (along < 0) & (other != tf.range(tasks, dtype=other.dtype))
        share = tf.where(conflicts, tf.math.divide_no_nan(along, tf.reduce_sum(met * met, axis=1)), 0.0)
        projected -= share[:, None] * met
    return projected
