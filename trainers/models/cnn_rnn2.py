"""CNN+RNN-2 of Lopez-Martin et al. (2017), the single-task network that Rezaei and Liu compare with (table III)."""

from collections.abc import Mapping
from typing import Any

import keras

from flowloom.trainers.models.heads import task_head
from flowloom.trainers.models.multitask_cnn import layer_macs

FILTERS = (32, 64)
KERNEL, POOL = 4, 2
MOMENTUM = 0.9
"""Of the running batch statistics. By the 0.99 of Keras they are near their first values after the 30 updates of
a training on few labels, and the network is hardly better than chance (docs/reproduction/multitask-cnn.md)."""
UNITS = 100
"""Width of the LSTM and of the dense layer behind it."""


@keras.saving.register_keras_serializable(package="flowloom")
class CNNRNN2(keras.Model):
    """Per task a network of its own: two convolutions, an LSTM, a dense layer and an output layer.

    Each convolution is normalised over the batch and pooled. The original reads frames of many fields with kernels of
    4 x 2; here kernels are 4 packets of all C features, and padded to the same length, so that any k will do.

    Inputs are {"sequence": float32 [B, k, C], "length": int32 [B]}, of which the length is not looked at. Outputs are
    {task: [B, 1]}, a sigmoid, for two classes, and {task: [B, classes]}, a softmax, for more.

    Args:
      k: packets per flow.
      channels: features per packet, C.
      tasks: number of classes of each task.
    """

    def __init__(self, k: int, channels: int, tasks: Mapping[str, int], **kwargs: Any) -> None:
        for name, value in {"k": k, "channels": channels}.items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not tasks or min(tasks.values()) < 2:
            raise ValueError(f"tasks must name at least one task of 2 or more classes, got {dict(tasks)}")

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
        sequence = keras.Input((k, channels), name="sequence")
        length = keras.Input((), dtype="int32", name="length")
        outputs = {}
        for task, layers in networks.items():
            x = sequence  # [B, k, C]
            for layer in layers:
                x = layer(x)  # [B, k / 2, 32], [B, k / 4, 64], [B, 100], [B, 100]
            outputs[task] = x  # [B, 1] or [B, classes]
        super().__init__({"sequence": sequence, "length": length}, outputs, **kwargs)

        self.k, self.channels, self.tasks = k, channels, dict(tasks)
        self._networks = networks
        self._answers = outputs

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: none."""
        return []

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """None."""
        return []

    def task_variables(self, task: str) -> list[keras.Variable]:
        """The variables of one task alone: its network."""
        return [variable for layer in self._networks[task] for variable in layer.trainable_variables]

    def network(self, task: str) -> keras.Model:
        """Return a model of the same inputs and weights with the output of one task only.

        Running all networks on rows of one task would move the batch statistics of the others.
        """
        return keras.Model(self.input, {task: self._answers[task]})

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference: kernels at each step, and 4H (C + H) per step of an LSTM."""
        count = 0
        for layer in (layer for layers in self._networks.values() for layer in layers):
            if isinstance(layer, keras.layers.LSTM):
                _, steps, channels = layer.input.shape
                count += steps * 4 * UNITS * (channels + UNITS)
            elif isinstance(layer, (keras.layers.Conv1D, keras.layers.Dense)):
                count += layer_macs(layer)
        return count

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "k": self.k, "channels": self.channels, "tasks": self.tasks}
