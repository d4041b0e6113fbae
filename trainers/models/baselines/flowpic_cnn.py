"""FlowPic with its CNN, as mini-FlowPic (Horowicz et al., 2022): LeNet-5 on the picture of a flow's first packets."""

from collections.abc import Mapping
from typing import Any

import keras

from flowloom.trainers.models.baselines.flow_picture import FlowPicture
from flowloom.trainers.models.baselines.shared_trunk import SharedTrunk
from flowloom.trainers.models.baselines.unit_inputs import UNIT_CHANNELS, check_unit_channels
from flowloom.trainers.models.flow_inputs import check_sizes, flow_inputs

FILTERS, KERNEL, POOL = (6, 16), 5, 2
DENSE = (120, 84)
FILTER_DROPOUT, DENSE_DROPOUT = 0.25, 0.5
"""Rates of whole filters behind the second convolution, and behind the last fully connected layer."""
LEAST_PIXELS = 16


@keras.saving.register_keras_serializable(package="flowloom")
class FlowPicCNN(SharedTrunk):
    """A picture of the flow, two convolutions with pooling, and two fully connected layers.

    With 32 pixels and one task of 5 classes it has 61,281 parameters. The paper draws all packets of a window of 15 s;
    this picture has those of the first k packets that arrive within `window_s`.

    Args:
      k: packets per flow.
      channels: 3, see `UNIT_CHANNELS`.
      tasks: number of classes of each task.
      pixels: rows and columns of the picture: 32 in the paper, which also tries 64; at least 16.
      window_s: seconds of a flow that the picture covers.

    Input shape:
      {"sequence": float32 [B, k, 3] with sizes in bytes, gaps in microseconds and directions, "length": int32 [B]};
      directions are not read, as in the original.

    Output shape:
      {task: [B, 1]}, a sigmoid, for two classes; {task: [B, classes]}, a softmax, for more.

    Raises:
      ValueError: if k is below 1, channels are not 3, a task has fewer than 2 classes, or the picture is too small or
        its window too long (`FlowPicture`).

    Reference:
      Horowicz, Shapira and Shavitt, A Few Shots Traffic Classification with mini-FlowPic Augmentations, IMC 2022,
      section 2.1 and figure 7; the layers and their parameters also in the documentation of tcbench (Finamore et al.,
      Replication: Contrastive Learning and Data Augmentation in Traffic Classification, IMC 2023).

    Example:

    >>> FlowPicCNN(k=60, channels=3, tasks={"app": 5}).count_params()
    61281
    """

    features = UNIT_CHANNELS

    def __init__(
        self,
        k: int,
        channels: int,
        tasks: Mapping[str, int],
        pixels: int = 32,
        window_s: float = 15.0,
        **kwargs: Any,
    ) -> None:
        check_sizes(k=k)
        check_unit_channels(channels)
        if pixels < LEAST_PIXELS:
            raise ValueError(f"pixels must be >= {LEAST_PIXELS} for the convolutions, got {pixels}")

        # layers
        picture = FlowPicture(pixels, window_s, name="picture")
        convolutions = [
            keras.layers.Conv2D(filters, KERNEL, activation="relu", name=f"convolution_{n}")
            for n, filters in enumerate(FILTERS)
        ]
        dense = [keras.layers.Dense(width, activation="relu", name=f"dense_{n}") for n, width in enumerate(DENSE)]

        # forward
        inputs = flow_inputs(k, channels)
        x = picture(inputs["sequence"], inputs["length"])  # [B, P, P, 1]
        x = keras.layers.MaxPooling2D(POOL)(convolutions[0](x))
        x = keras.layers.SpatialDropout2D(FILTER_DROPOUT)(convolutions[1](x))
        x = keras.layers.Flatten()(keras.layers.MaxPooling2D(POOL)(x))  # [B, steps * steps * 16]
        for layer in dense:
            x = layer(x)
        x = keras.layers.Dropout(DENSE_DROPOUT)(x)  # [B, 84]
        super().__init__(inputs, x, [*convolutions, *dense], tasks, **kwargs)

        self.pixels, self.window_s = pixels, window_s

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "pixels": self.pixels, "window_s": self.window_s}
