"""CESNET's CNN of the first 30 packets, 30pktTCNET (Luxemburk et al., 2025)."""

from collections.abc import Mapping
from typing import Any

import keras

from flowloom.trainers.models.baselines.generalised_mean import GeneralisedMean
from flowloom.trainers.models.baselines.packet_embedding import PacketEmbedding
from flowloom.trainers.models.baselines.shared_trunk import SharedTrunk
from flowloom.trainers.models.baselines.unit_inputs import UNIT_CHANNELS, check_unit_channels
from flowloom.trainers.models.flow_inputs import check_sizes, flow_inputs

BLOCKS = ((192, 7, 0.0), (256, 7, 0.1), (384, 5, 0.2), (448, 3, 0.3))
"""Filters, kernel and dropout rate of each residual block."""
NARROWING = 4
"""Filters of a block per filter of the convolutions inside it."""
REFINED = 448
"""Width of the fully connected layer behind the pooling."""
EPSILON, MOMENTUM = 1e-5, 0.9
"""Of batch normalisation: the defaults of PyTorch, which the network was written with."""


@keras.saving.register_keras_serializable(package="flowloom")
class CesnetCNN(SharedTrunk):
    """Packet embeddings, four residual bottleneck blocks, generalised mean pooling, and a fully connected layer.

    The trained variables before the output layers are 888,661. The published network appends a fully connected layer
    to 256 values and its normalisation, 115,456 more, and so has 1,004,117; that embedding serves its metric learning,
    and its authors fine-tune without it. Batch statistics are not among these numbers.

    Args:
      k: packets per flow; the paper has 30.
      channels: 3, see `UNIT_CHANNELS`.
      tasks: number of classes of each task.

    Input shape:
      {"sequence": float32 [B, k, 3] with sizes in bytes, gaps in microseconds and directions, "length": int32 [B]};
      padding zeros are read like packets, the length is ignored, as in the original.

    Output shape:
      {task: [B, 1]}, a sigmoid, for two classes; {task: [B, classes]}, a softmax, for more.

    Raises:
      ValueError: if k is below 1, channels are not 3, or a task has fewer than 2 classes.

    Reference:
      Luxemburk, Hynek, Plny and Cejka, Universal Embedding Function for Traffic Classification via QUIC Domain
      Recognition Pretraining: A Transfer Learning Success, IEEE TNSM, 2025 (arXiv:2502.12930); sizes also in
      github.com/CESNET/cesnet-models.

    Example:

    >>> import math
    >>> model = CesnetCNN(k=30, channels=3, tasks={"app": 20})
    >>> sum(math.prod(variable.shape) for variable in model.shared_variables)
    888661
    """

    features = UNIT_CHANNELS

    def __init__(self, k: int, channels: int, tasks: Mapping[str, int], **kwargs: Any) -> None:
        check_sizes(k=k)
        check_unit_channels(channels)

        # layers
        embedding = PacketEmbedding(name="packets")
        blocks = [_block_layers(f"block_{n}", *block) for n, block in enumerate(BLOCKS)]
        pooling = GeneralisedMean(name="pooling")
        refine, refine_norm = keras.layers.Dense(REFINED, name="refine"), _norm("refine_norm")

        # forward
        inputs = flow_inputs(k, channels)
        x = embedding(inputs["sequence"])  # [B, k, 32]
        for layers in blocks:
            x = _block(layers, x)  # [B, k, filters]
        x = pooling(x)  # [B, 448]
        x = keras.layers.ReLU()(refine_norm(refine(x)))  # [B, 448]
        trunk = [embedding, *(layer for layers in blocks for layer in layers.values()), pooling, refine, refine_norm]
        super().__init__(inputs, x, trunk, tasks, **kwargs)


def _norm(name: str) -> keras.layers.BatchNormalization:
    return keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=name)


def _block_layers(name: str, filters: int, kernel: int, dropout: float) -> dict[str, keras.layers.Layer]:
    """Returns the layers of a bottleneck block by their role."""
    narrow = filters // NARROWING
    sizes = {"shortcut": (filters, 1), "narrow": (narrow, 1), "across": (narrow, kernel), "widen": (filters, 1)}
    layers: dict[str, keras.layers.Layer] = {}
    for role, (width, length) in sizes.items():
        layers[role] = keras.layers.Conv1D(width, length, padding="same", use_bias=False, name=f"{name}_{role}")
        layers[f"{role}_norm"] = _norm(f"{name}_{role}_norm")
    layers["dropout"] = keras.layers.Dropout(dropout, name=f"{name}_dropout")
    return layers


def _block(layers: Mapping[str, keras.layers.Layer], x: Any) -> Any:
    """Applies a bottleneck block to [B, k, C]; the input is projected to the block's filters and added."""

    def normed(role: str, values: Any) -> Any:
        return layers[f"{role}_norm"](layers[role](values))

    inner = x
    for role in ("narrow", "across"):
        inner = keras.layers.ReLU()(normed(role, inner))
    inner = layers["dropout"](normed("widen", inner))
    return keras.layers.ReLU()(keras.layers.Add()([inner, normed("shortcut", x)]))
