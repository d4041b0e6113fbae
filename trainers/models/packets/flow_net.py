"""FlowNet: represented packets, residual layers over them, masked pooling, and an output layer per task."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from flowloom.trainers.layers.packets.packet_representation import PacketRepresentation
from flowloom.trainers.layers.packets.pooled_packets import POOLINGS, Mixing, PooledPackets, Pooling
from flowloom.trainers.models.flow_inputs import check_sizes, flow_inputs, packet_mask
from flowloom.trainers.models.heads import check_tasks, task_heads


@keras.saving.register_keras_serializable(package="flowloom")
class FlowNet(keras.Model):
    """Network of flows in units: `PacketRepresentation`, `PooledPackets`, and an output layer for each task.

    Args:
      k: packets per flow.
      features: names of the C features of a packet, in units (`FeatureSpec` with scaling none).
      tasks: number of classes of each task.
      width: width of a packet behind the dense layer, W.
      layers: residual layers.
      mixing: kind of the residual layers: `convolution` over neighbouring packets, or self-`attention`.
      kernel: packets that a convolution reads, odd.
      attention_heads: heads of the self-attention, a divisor of W.
      embedding: width of the learned embedding of a size, as in `PacketRepresentation`; 0 for soft bins alone.
      pooling: poolings over the packets of the last residual layer.
      first: number of first packets that the readout reads in their places; at most k count.
      readout: width of the readout.
      dropout: rate in the residual layers and around the readout; half of it on represented packets.

    Input shape:
      {"sequence": float32 [B, k, C] in units, "length": int32 [B]}; packets from `length` on are ignored.

    Output shape:
      {task: [B, 1]}, a sigmoid, for two classes; {task: [B, classes]}, a softmax, for more.

    Raises:
      ValueError: if a size is below 1, or the arguments do not fit each other.

    Example:

    >>> import numpy as np
    >>> model = FlowNet(k=20, features=["size", "gap", "direction"], tasks={"app": 5, "attack": 2})
    >>> outputs = model({"sequence": np.zeros((3, 20, 3), "float32"), "length": np.array([1, 2, 20])})
    >>> {task: tuple(probabilities.shape) for task, probabilities in outputs.items()}
    {'app': (3, 5), 'attack': (3, 1)}
    """

    def __init__(
        self,
        k: int,
        features: Sequence[str],
        tasks: Mapping[str, int],
        width: int = 128,
        layers: int = 2,
        mixing: Mixing = "convolution",
        kernel: int = 3,
        attention_heads: int = 4,
        embedding: int = 32,
        pooling: Sequence[Pooling] = POOLINGS,
        first: int = 8,
        readout: int = 256,
        dropout: float = 0.3,
        **kwargs: Any,
    ) -> None:
        check_sizes(k=k)
        check_tasks(tasks)

        # layers
        represent = PacketRepresentation(features, embedding, name="packets")
        pool = PooledPackets(
            width, readout, layers, mixing, kernel, attention_heads, pooling, min(first, k), dropout, name="pooled"
        )
        drop = keras.layers.Dropout(dropout, name="drop")
        heads = task_heads(tasks)

        # forward
        inputs = flow_inputs(k, len(features))
        present = packet_mask(inputs)  # [B, k]
        bins = represent(inputs["sequence"], present)  # [B, k, D]
        x = drop(pool(bins, present))  # [B, readout]
        super().__init__(inputs, {task: head(x) for task, head in heads.items()}, **kwargs)

        self.k, self.features, self.tasks, self.embedding = k, tuple(features), dict(tasks), embedding
        self._represent, self.pool, self._heads = represent, pool, heads

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: all but the output layers."""
        return [*self._represent.trainable_variables, *self.pool.trainable_variables]

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The weights of the readout."""
        return [self.pool.last.kernel]

    def task_variables(self, task: str) -> list[keras.Variable]:
        """Returns the variables of one task alone: its output layer."""
        return self._heads[task].trainable_variables

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference; the representation has none, as it compares and looks up."""
        return self.pool.macs(self.k) + sum(math.prod(head.kernel.shape) for head in self._heads.values())

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        inner = self.pool.get_config()
        return {
            **super().get_config(),
            "k": self.k,
            "features": list(self.features),
            "tasks": self.tasks,
            "embedding": self.embedding,
            **{name: inner[name] for name in _OF_POOL},
        }


_OF_POOL = ("width", "layers", "mixing", "kernel", "attention_heads", "pooling", "first", "readout", "dropout")
"""Arguments that `PooledPackets` keeps."""
