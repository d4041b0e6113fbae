"""CNN+RNN-2 of Lopez-Martin et al. (2017), the single-task baseline of Rezaei and Liu (table III)."""

from collections.abc import Mapping
from typing import Any

import keras

from flowloom.trainers.models.flow_inputs import check_sizes, flow_inputs
from flowloom.trainers.models.heads import check_tasks, task_head
from flowloom.trainers.models.multitask_cnn import layer_macs

FILTERS = (32, 64)
KERNEL, POOL = 4, 2
MOMENTUM = 0.9
"""Momentum of the running batch statistics.

With the 0.99 of Keras they stay near their first values during the 30 updates of a training on few labels, and the
network is hardly better than chance (docs/reproduction/multitask-cnn.md).
"""
UNITS = 100
"""Width of the LSTM and of the dense layer behind it."""


@keras.saving.register_keras_serializable(package="flowloom")
class CNNRNN2(keras.Model):
    """One network per task: two convolutions, an LSTM, a dense layer and an output layer.

    Each convolution is normalised over the batch and pooled. The original reads frames of many fields with kernels of
    4 x 2; here a kernel spans 4 packets of all C features, padded to the same length, so that every k works.

    Args:
      k: packets per flow.
      channels: features per packet, C.
      tasks: number of classes of each task.

    Input shape:
      {"sequence": float32 [B, k, C], "length": int32 [B]}; padding zeros are read like packets, the length is ignored.

    Output shape:
      {task: [B, 1]}, a sigmoid, for two classes; {task: [B, classes]}, a softmax, for more.

    Raises:
      ValueError: if a size is below 1, or a task has fewer than 2 classes.

    Reference:
      Lopez-Martin et al., Network Traffic Classifier With Convolutional and Recurrent Neural Networks for Internet of
      Things, IEEE Access 5, 2017.
    """

    def __init__(self, k: int, channels: int, tasks: Mapping[str, int], **kwargs: Any) -> None:
        check_sizes(k=k, channels=channels)
        check_tasks(tasks)

        # layers
        networks: dict[str, list[keras.layers.Layer]] = {task: [] for task in tasks}
        for task, layers in networks.items():
            for n, filters in enumerate(FILTERS):
                layers += [
                    keras.layers.Conv1D(filters, KERNEL, padding="same", activation="relu", name=f"{task}_conv_{n}"),
                    keras.layers.BatchNormalization(momentum=MOMENTUM, name=f"{task}_norm_{n}"),
                    keras.layers.MaxPooling1D(POOL, padding="same", name=f"{task}_pool_{n}"),
                ]
            layers += [
                keras.layers.LSTM(UNITS, name=f"{task}_lstm"),
                keras.layers.Dense(UNITS, activation="relu", name=f"{task}_dense"),
                task_head(task, tasks[task]),
            ]

        # forward
        inputs = flow_inputs(k, channels)
        outputs = {}
        for task, layers in networks.items():
            x = inputs["sequence"]  # [B, k, C]
            for layer in layers:
                x = layer(x)  # [B, k / 2, 32], [B, k / 4, 64], [B, 100], [B, 100]
            outputs[task] = x  # [B, 1] or [B, classes]
        super().__init__(inputs, outputs, **kwargs)

        self.k, self.channels, self.tasks = k, channels, dict(tasks)
        self._networks = networks
        self._outputs_by_task = outputs

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """No variables, as every task has its own network."""
        return []

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """No variables, as tasks share none."""
        return []

    def task_variables(self, task: str) -> list[keras.Variable]:
        """Returns the variables of one task's network."""
        return [variable for layer in self._networks[task] for variable in layer.trainable_variables]

    def network(self, task: str) -> keras.Model:
        """Returns a model with the same inputs and weights and the output of one task alone.

        Running all networks on rows of one task would move the batch statistics of the others.
        """
        return keras.Model(self.input, {task: self._outputs_by_task[task]})

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference; an LSTM of width H needs 4H (C + H) per step."""
        count = 0
        for layer in (layer for layers in self._networks.values() for layer in layers):
            if isinstance(layer, keras.layers.LSTM):
                _, steps, channels = layer.input.shape
                count += steps * 4 * UNITS * (channels + UNITS)
            elif isinstance(layer, (keras.layers.Conv1D, keras.layers.Dense)):
                count += layer_macs(layer)
        return count

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "k": self.k, "channels": self.channels, "tasks": self.tasks}
