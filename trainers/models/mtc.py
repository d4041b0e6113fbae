"""MTC, the Transformer and 1D-CNN side by side of Wang, Gao and Lei (MTC, section 3.3, figure 3)."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

import keras

from flowloom.trainers.layers.bottleneck import Bottleneck
from flowloom.trainers.layers.byte_mask import ByteMask
from flowloom.trainers.layers.fusion import FuseDown, FuseUp
from flowloom.trainers.layers.position_embedding import StepPositions
from flowloom.trainers.layers.transformer_encoder import EncoderLayer
from flowloom.trainers.layers.wide_readout import WideReadout
from flowloom.trainers.models.byte_transformer import positions as sines
from flowloom.trainers.models.heads import ClassSum, SoftmaxHeads
from flowloom.trainers.models.row_model import RowModel
from flowloom.trainers.models.tokens import Source, as_tokens, row_input, token_shape, with_expansion
from flowloom.trainers.models.tokens import attention_heads as default_heads

BLOCKS = ((50, 100), (50, 100), (100, 200))
"""Filters inside and behind the bottlenecks of each block (table 3)."""
Readout = Literal["mean", "all", "wide"]
"""What tasks of the CNN branch read of its steps."""


@keras.saving.register_keras_serializable(package="flowloom")
class MTC(RowModel):
    """Three blocks of a Transformer branch and of a CNN branch, which tell each other what they see from the second on.

    Inputs are {"bytes": uint8 [B, length]} or {"features": float32 [B, length]}. The Transformer branch reads n tokens
    of d values (`token_shape`), the CNN branch `stem` values at a time, one by one in the paper. Outputs are {task:
    [B, 1]}, the second class, for two classes, {task: [B, classes]} for more. They are softmaxes of tokens in a row for
    the tasks of the Transformer branch, and of the mean over steps for all others. With 1,500 bytes and tasks of 17, 12
    and 6 classes there are 1,608,923 parameters, of which 3,700 are batch statistics.

    The paper leaves some things open. Here d_k = 8 for its 6 heads of d = 50; branches are fused by addition, which
    table 3 allows only; each bottleneck convolution is normalised over the batch, as in the Conformer that it follows.

    Args:
      length: bytes or features of a row.
      tasks: number of classes of each task.
      transformer_tasks: the tasks that read the Transformer branch.
      source: name and kind of the input.
      stem: values that the CNN branch sees as one step; a divisor of d. Ten make a tenth of its work.
      repetitions: encoder layers of each block.
      attention_heads: H; None: as in the paper, see `tokens.attention_heads`.
      dropout: rate of the CNN branch.
      sums: tasks that follow from another one, see `SoftmaxHeads`.
      expanded: whether both branches see more of a value than the number: the bits of a byte, the waves of a feature
        (`with_expansion`), which tell apart what is near as a number, such as TCP and UDP. Tokens are brought
        to d values by a layer.
      positions: whether they know where a value stands, by what is added for each step, learned, and each token, fixed.
      readout: what tasks of the CNN branch read: the `mean` over its steps; `all` of them in a row; `wide`: all of them
        and all values, expanded ones if so, through a layer of 256 with much dropout.
      masked: share of the values that are hidden in training.
    """

    def __init__(
        self,
        length: int,
        tasks: Mapping[str, int],
        transformer_tasks: Collection[str] = (),
        source: Source = "bytes",
        stem: int = 1,
        repetitions: Sequence[int] = (1, 5, 6),
        attention_heads: int | None = None,
        dropout: float = 0.07,
        sums: Mapping[str, ClassSum] | None = None,
        expanded: bool = False,
        positions: bool = False,
        readout: Readout = "mean",
        masked: float = 0.0,
        **kwargs: Any,
    ) -> None:
        n, d = token_shape(length)
        heads_of_encoders = default_heads(source, length) if attention_heads is None else attention_heads
        if readout not in get_args(Readout):
            raise ValueError(f"readout must be one of {', '.join(get_args(Readout))}, got {readout!r}")
        if stem < 1 or d % stem:
            divisors = [divisor for divisor in range(1, d + 1) if d % divisor == 0]
            raise ValueError(f"stem must divide the {d} values of a token, so be one of {divisors}, got {stem}")
        if len(repetitions) != len(BLOCKS) or min(repetitions) < 0:
            raise ValueError(f"repetitions must be {len(BLOCKS)} numbers >= 0, got {list(repetitions)}")
        if unknown := [task for task in transformer_tasks if task not in tasks]:
            raise ValueError(f"transformer_tasks must be among {', '.join(tasks)}, got {unknown}")

        # layers
        encoders = [
            [EncoderLayer(heads_of_encoders, name=f"encoder_{block}_{m}") for m in range(repeated)]
            for block, repeated in enumerate(repetitions)
        ]
        bottlenecks = [
            [Bottleneck(*filters, dropout, name=f"bottleneck_{block}_{m}") for m in range(2 if block else 1)]
            for block, filters in enumerate(BLOCKS)
        ]
        downs = [FuseDown(name=f"down_{block}") for block in range(1, len(BLOCKS))]
        ups = [FuseUp(middle, name=f"up_{block}") for block, (middle, _) in enumerate(BLOCKS) if block]
        projections = [keras.layers.Dense(d, name="token_projection")] if expanded else []
        places = [StepPositions(name="step_positions")] if positions else []
        # no bfloat16: bits and waves are read of what is behind it
        masks = [ByteMask(masked, dtype="float32", name="mask")] if masked else []
        widened = [WideReadout()] if readout == "wide" else []
        heads = SoftmaxHeads(tasks, sums or {})

        # forward
        inputs, x = row_input(source, length)  # [B, length]
        for layer in masks:
            x = layer(x)
        t = as_tokens(x)  # [B, n, d]
        if expanded:
            t = with_expansion(t, source)  # [B, n, 9 d] or [B, n, 17 d]
        seen = keras.layers.Flatten()(t)  # [B, n d, or 9 or 17 times as many]
        c = keras.layers.Reshape((n * d // stem, t.shape[-1] // d * stem))(t)  # [B, steps, stem, or 9 or 17 times that]
        for layer in projections:
            t = layer(t)  # [B, n, d]
        for layer in places:
            c, t = layer(c), t + sines(n, d)
        for block in range(len(BLOCKS)):
            c, between = bottlenecks[block][0](c)  # [B, steps, filters], [B, steps, middle]
            if block:
                t = downs[block - 1](t, between)
            for encoder in encoders[block]:
                t = encoder(t)  # [B, n, d]
            if block:
                c, _ = bottlenecks[block][1](c, ups[block - 1](t))
        flat = keras.layers.Flatten()(t)  # [B, n d]
        read = (keras.layers.GlobalAveragePooling1D() if readout == "mean" else keras.layers.Flatten())(c)  # [B, width]
        for wide in widened:
            read = wide(keras.layers.Concatenate()([read, seen]))  # [B, 256]
        features = {task: flat if task in transformer_tasks else read for task in tasks}
        super().__init__(inputs, features, heads, length=length, tasks=tasks, source=source, sums=sums, **kwargs)

        self.transformer_tasks, self.stem, self.repetitions = tuple(transformer_tasks), stem, tuple(repetitions)
        self.attention_heads, self.dropout = heads_of_encoders, dropout
        self.expanded, self.positions, self.readout, self.masked = expanded, positions, readout, masked
        self._blocks = [
            [layer for part in parts for layer in part] for parts in (encoders, bottlenecks, [downs], [ups])
        ]
        self._projections, self._places, self._widened = projections, places, widened

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: all but the heads."""
        parts = (self._projections, self._places, *self._blocks, self._widened)
        return [variable for part in parts for layer in part for variable in layer.trainable_variables]

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The last weights that the tasks of both branches go through."""
        encoders, _, downs, _ = self._blocks
        return [encoders[-1].narrow if self.repetitions[-1] else downs[-1].kernel]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        n, d = token_shape(self.length)
        encoders, bottlenecks, downs, ups = self._blocks
        per_token = sum(layer.macs(n) for layer in (*encoders, *downs, *ups))
        per_token += n * sum(math.prod(layer.kernel.shape) for layer in self._projections)
        wide = sum(layer.macs for layer in self._widened)
        return per_token + sum(layer.macs(n * d // self.stem) for layer in bottlenecks) + wide + self._heads.macs

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "transformer_tasks": list(self.transformer_tasks),
            "stem": self.stem,
            "repetitions": list(self.repetitions),
            "attention_heads": self.attention_heads,
            "dropout": self.dropout,
            "expanded": self.expanded,
            "positions": self.positions,
            "readout": self.readout,
            "masked": self.masked,
        }
