"""MTC, a Transformer branch beside a 1D-CNN branch (Wang, Gao and Lei, section 3.3, figure 3)."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

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
"""Input of the output layers of the CNN branch."""


class Branches(NamedTuple):
    """The layers of both branches, by kind and block."""

    encoders: list[list[EncoderLayer]]
    bottlenecks: list[list[Bottleneck]]
    downs: list[FuseDown]
    """From the CNN branch to the Transformer branch, from the second block on."""
    ups: list[FuseUp]
    """From the Transformer branch to the CNN branch, from the second block on."""

    @property
    def flat(self) -> list[list[keras.layers.Layer]]:
        """All layers of each kind: encoders, bottlenecks, downs, ups."""
        of_blocks = [[layer for block in blocks for layer in block] for blocks in (self.encoders, self.bottlenecks)]
        return [*of_blocks, list(self.downs), list(self.ups)]


@keras.saving.register_keras_serializable(package="flowloom")
class MTC(RowModel):
    """Three blocks of a Transformer branch beside a CNN branch, which exchange features from the second block on.

    The Transformer branch reads n tokens of d values (`token_shape`), the CNN branch steps of `stem` values. The tasks
    of the Transformer branch have a softmax over all tokens, the other tasks a softmax over the mean of the steps. With
    1,500 bytes and tasks of 17, 12 and 6 classes there are 1,608,923 parameters, 3,700 of them batch statistics.

    The paper leaves three choices open. Here d_k = 8 for its 6 heads of d = 50; the branches are fused by addition, the
    only fusion that table 3 allows; each bottleneck convolution is normalised over the batch, as in the Conformer.

    Args:
      length: bytes or features of a row.
      tasks: number of classes of each task.
      transformer_tasks: the tasks that read the Transformer branch.
      source: name and kind of the input.
      stem: values of a step of the CNN branch, a divisor of d: 1 in the paper. Ten need a tenth of the work.
      repetitions: encoder layers of each block.
      attention_heads: H; None takes the paper's, see `tokens.attention_heads`.
      dropout: rate of the CNN branch.
      sums: tasks that are sums of another task's classes, see `SoftmaxHeads`.
      expanded: adds to each value the bits of a byte or the waves of a feature (`with_expansion`), in both branches.
        They separate values that are close as numbers, such as TCP and UDP. A layer brings the tokens back to d values.
      positions: adds to each step a learned vector, and to each token a fixed one.
      readout: input of the output layers of the CNN branch: `mean` over the steps; `all` steps in a row; `wide`: all
        steps and all (expanded) values, through a layer of 256 units with much dropout.
      masked: share of the values that training hides.

    Input shape:
      {"bytes": uint8 [B, length]} or {"features": float32 [B, length]}.

    Output shape:
      {task: [B, 1]}, the second class, for two classes; {task: [B, classes]} for more.

    Raises:
      ValueError: if an argument does not fit the others.

    Reference:
      MTC, section 3.3 and figure 3.

    Example:

    >>> import numpy as np
    >>> model = MTC(length=1_500, tasks={"app": 17, "service": 12, "vpn": 2}, transformer_tasks=["app"])
    >>> outputs = model({"bytes": np.zeros((2, 1_500), "uint8")})
    >>> {task: tuple(probabilities.shape) for task, probabilities in outputs.items()}
    {'app': (2, 17), 'service': (2, 12), 'vpn': (2, 1)}
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
        repetitions = tuple(repetitions)
        _check(d, tasks, transformer_tasks, stem, repetitions, readout)
        heads_of_encoders = default_heads(source, length) if attention_heads is None else attention_heads

        # layers
        branches = _branches(heads_of_encoders, repetitions, dropout)
        projections = [keras.layers.Dense(d, name="token_projection")] if expanded else []
        step_positions = [StepPositions(name="step_positions")] if positions else []
        # float32, because bfloat16 would lose the bits and waves that are computed from its output
        masks = [ByteMask(masked, dtype="float32", name="mask")] if masked else []
        wide_readouts = [WideReadout()] if readout == "wide" else []
        heads = SoftmaxHeads(tasks, sums or {})

        # forward
        inputs, x = row_input(source, length)  # [B, length]
        for layer in masks:
            x = layer(x)
        t = as_tokens(x)  # [B, n, d]
        if expanded:
            t = with_expansion(t, source)  # [B, n, 9 d] or [B, n, 17 d]
        values = keras.layers.Flatten()(t)  # [B, n d, or 9 or 17 times as many]
        c = keras.layers.Reshape((n * d // stem, t.shape[-1] // d * stem))(t)  # [B, steps, stem, or 9 or 17 times that]
        for layer in projections:
            t = layer(t)  # [B, n, d]
        for layer in step_positions:
            c, t = layer(c), t + sines(n, d)
        t, c = _through(branches, t, c)  # [B, n, d], [B, steps, filters]
        flat = keras.layers.Flatten()(t)  # [B, n d]
        read = (keras.layers.GlobalAveragePooling1D() if readout == "mean" else keras.layers.Flatten())(c)  # [B, width]
        for wide in wide_readouts:
            read = wide(keras.layers.Concatenate()([read, values]))  # [B, 256]
        features = {task: flat if task in transformer_tasks else read for task in tasks}
        shared = [*projections, *step_positions, *itertools.chain(*branches.flat), *wide_readouts]
        super().__init__(
            inputs, features, heads, shared, length=length, tasks=tasks, source=source, sums=sums, **kwargs
        )

        self.transformer_tasks, self.stem, self.repetitions = tuple(transformer_tasks), stem, repetitions
        self.attention_heads, self.dropout = heads_of_encoders, dropout
        self.expanded, self.positions, self.readout, self.masked = expanded, positions, readout, masked
        self._blocks, self._projections, self._wide_readouts = branches.flat, projections, wide_readouts

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The last weights before the outputs of both branches."""
        encoders, _, downs, _ = self._blocks
        return [encoders[-1].narrow if self.repetitions[-1] else downs[-1].kernel]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        n, d = token_shape(self.length)
        encoders, bottlenecks, downs, ups = self._blocks
        per_token = sum(layer.macs(n) for layer in (*encoders, *downs, *ups))
        per_token += n * sum(math.prod(layer.kernel.shape) for layer in self._projections)
        wide = sum(layer.macs for layer in self._wide_readouts)
        return per_token + sum(layer.macs(n * d // self.stem) for layer in bottlenecks) + wide + self._heads.macs

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
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


def _check(
    d: int,
    tasks: Mapping[str, int],
    transformer_tasks: Collection[str],
    stem: int,
    repetitions: tuple[int, ...],
    readout: str,
) -> None:
    """Raises unless the arguments of a network with tokens of d values fit each other."""
    if readout not in get_args(Readout):
        raise ValueError(f"readout must be one of {', '.join(get_args(Readout))}, got {readout!r}")
    if stem < 1 or d % stem:
        divisors = [divisor for divisor in range(1, d + 1) if d % divisor == 0]
        raise ValueError(f"stem must divide the {d} values of a token, so be one of {divisors}, got {stem}")
    if len(repetitions) != len(BLOCKS) or min(repetitions) < 0:
        raise ValueError(f"repetitions must be {len(BLOCKS)} numbers >= 0, got {list(repetitions)}")
    if unknown := [task for task in transformer_tasks if task not in tasks]:
        raise ValueError(f"transformer_tasks must be among {', '.join(tasks)}, got {unknown}")


def _branches(attention_heads: int, repetitions: tuple[int, ...], dropout: float) -> Branches:
    """Returns the layers of all blocks; first weights depend on the order in which they are made."""
    encoders = [
        [EncoderLayer(attention_heads, name=f"encoder_{block}_{m}") for m in range(repeated)]
        for block, repeated in enumerate(repetitions)
    ]
    bottlenecks = [
        [Bottleneck(*filters, dropout, name=f"bottleneck_{block}_{m}") for m in range(2 if block else 1)]
        for block, filters in enumerate(BLOCKS)
    ]
    downs = [FuseDown(name=f"down_{block}") for block in range(1, len(BLOCKS))]
    ups = [FuseUp(middle, name=f"up_{block}") for block, (middle, _) in enumerate(BLOCKS) if block]
    return Branches(encoders, bottlenecks, downs, ups)


def _through(branches: Branches, t: Any, c: Any) -> tuple[Any, Any]:
    """Returns tokens [B, n, d] and steps [B, steps, filters] behind all blocks."""
    for block in range(len(BLOCKS)):
        c, between = branches.bottlenecks[block][0](c)  # [B, steps, filters], [B, steps, middle]
        if block:
            t = branches.downs[block - 1](t, between)
        for encoder in branches.encoders[block]:
            t = encoder(t)  # [B, n, d]
        if block:
            c, _ = branches.bottlenecks[block][1](c, branches.ups[block - 1](t))
    return t, c
