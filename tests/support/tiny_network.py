"""A network of one layer, where a test is of what trains networks and not of what they are."""

import keras
from keras import ops

from flowloom.trainers.models.heads import SoftmaxHeads
from flowloom.trainers.models.tokens import row_input


class TinyNetwork(keras.Model):
    """One hidden layer and an output layer per task, with what paradigms need of a model."""

    def __init__(self, length, tasks, source="bytes"):
        inputs, x = row_input(source, length)
        hidden = keras.layers.Dense(16, activation="relu")
        heads = SoftmaxHeads(tasks, {})
        x = keras.layers.Dropout(0.1)(hidden(ops.multiply(x, 2.0)))
        super().__init__(inputs, heads(dict.fromkeys(tasks, x)))
        self.macs, self._hidden, self._heads = 1, hidden, heads

    @property
    def shared_variables(self):
        return self._hidden.trainable_variables

    def task_variables(self, task):
        return self._heads.variables(task)
