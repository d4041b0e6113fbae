"""Ablation of MTC lite: its wide readout alone, on all values and their bits or waves."""

from collections.abc import Mapping
from typing import Any

import keras

from flowloom.trainers.layers.byte_mask import ByteMask
from flowloom.trainers.layers.wide_readout import WideReadout
from flowloom.trainers.models.heads import ClassSum, SoftmaxHeads
from flowloom.trainers.models.row_model import RowModel
from flowloom.trainers.models.tokens import Source, as_tokens, row_input, with_expansion


@keras.saving.register_keras_serializable(package="flowloom")
class ByteDense(RowModel):
    """One wide layer on all values and their bits or waves, and an output layer per task.

    The difference to MTC lite shows what the two branches add to the wide readout. Input and output shapes are those of
    `MTC`.

    Args:
      length: bytes or features of a row.
      tasks: number of classes of each task.
      source: name and kind of the input.
      masked: share of the values that training hides.
      sums: tasks that are sums of another task's classes, see `SoftmaxHeads`.
    """

    def __init__(
        self,
        length: int,
        tasks: Mapping[str, int],
        source: Source = "bytes",
        masked: float = 0.2,
        sums: Mapping[str, ClassSum] | None = None,
        **kwargs: Any,
    ) -> None:
        # layers
        mask = ByteMask(masked, dtype="float32", name="mask")
        readout, heads = WideReadout(), SoftmaxHeads(tasks, sums or {})

        # forward
        inputs, x = row_input(source, length)  # [B, length]
        x = readout(keras.layers.Flatten()(with_expansion(as_tokens(mask(x)), source)))  # [B, 256]
        super().__init__(
            inputs, dict.fromkeys(tasks, x), heads, [readout],
            length=length, tasks=tasks, source=source, sums=sums, **kwargs,
        )  # fmt: skip

        self.masked = masked
        self._readout = readout

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The last weights before the outputs of all tasks."""
        return [self._readout.dense.kernel]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return self._readout.macs + self._heads.macs

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "masked": self.masked}
