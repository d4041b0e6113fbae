"""DSelect-k: gates that learn to select k experts (Hazimeh et al., NeurIPS 2021, section 3)."""

from typing import Any

import keras
import numpy as np
from keras import ops

GAMMA = 1.0
"""Width of the smooth step: a bit whose logit lies GAMMA / 2 or more from zero is exactly 0 or 1."""
LEAST = 1e-6
"""Lower bound of probabilities whose logarithm is taken."""


@keras.saving.register_keras_serializable(package="flowloom")
class DSelectK(keras.layers.Layer):
    """Static gate that learns to give all weight to `selected` of N experts, the same for every flow.

    Each selector encodes the number of its expert in ceil(log2 N) bits. The bits are smooth steps that reach 0 and 1
    exactly, and a softmax weights the selectors. Where N is not a power of two, codes from N on are taken modulo N, so
    that every code means an expert. The paper gives these codes no expert and a penalty instead.

    Args:
      experts: number of experts, N.
      selected: number of selectors, k.
      entropy: weight of the penalty on undecided selectors (`EntropyPenalty`).

    Input shape:
      float32 [B, G], which is ignored.

    Output shape:
      float32 [B, N], the share of each expert.

    Raises:
      ValueError: if `experts` is below 2, or `selected` is not from 1 to `experts`.

    Reference:
      Hazimeh et al., DSelect-k: Differentiable Selection in the Mixture of Experts, NeurIPS 2021, section 3.
    """

    def __init__(self, experts: int, selected: int = 1, entropy: float = 0.1, **kwargs: Any) -> None:
        if experts < 2:
            raise ValueError(f"experts must be >= 2 for a DSelect-k gate, got {experts}")
        if not 1 <= selected <= experts:
            raise ValueError(f"selected must be from 1 to {experts}, the number of experts, got {selected}")
        super().__init__(**kwargs)
        self.experts, self.selected, self.entropy = experts, selected, entropy

    def build(self, input_shape: Any) -> None:
        """Makes the logits of selectors, and of bits near zero, where the smooth step is steepest."""
        near = keras.initializers.RandomUniform(-GAMMA / 100, GAMMA / 100)
        self.bits = self.add_weight(
            name="bits",
            shape=(self.selected, _code_bits(self.experts)),
            initializer=near,
            regularizer=EntropyPenalty(self.entropy),
        )
        if self.selected > 1:
            self.mixture = self.add_weight(name="mixture", shape=(1, self.selected), initializer="zeros")

    @property
    def shares(self) -> Any:
        """The share of each expert, float32 [N]."""
        chosen = selectors(self.bits)  # [selected, 2 ** bits]
        if self.selected > 1:
            chosen = ops.matmul(ops.softmax(self.mixture), chosen)  # [1, 2 ** bits]
        codes = np.arange(chosen.shape[1]) % self.experts
        return ops.matmul(chosen, np.eye(self.experts, dtype=np.float32)[codes])[0]

    def call(self, view: Any) -> Any:
        """Returns the shares of each flow."""
        return ops.broadcast_to(self.shares, (ops.shape(view)[0], self.experts))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(), "experts": self.experts, "selected": self.selected, "entropy": self.entropy
        }  # fmt: skip


@keras.saving.register_keras_serializable(package="flowloom")
class EntropyPenalty(keras.Regularizer):
    """Penalty on the entropy of each selector (equation 7), which is zero for a decided selector.

    Args:
      weight: factor of the sum over selectors.

    Raises:
      ValueError: if the weight is negative.
    """

    def __init__(self, weight: float) -> None:
        if weight < 0:
            raise ValueError(f"weight must be >= 0, got {weight}")
        self.weight = weight

    def __call__(self, bits: Any) -> Any:
        """Returns the penalty for the logits of all bits, float32 [selected, bits] -> []."""
        chosen = selectors(bits)  # [selected, 2 ** bits]
        return -self.weight * ops.sum(chosen * ops.log(ops.maximum(chosen, LEAST)))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"weight": self.weight}


def smooth_step(logits: Any) -> Any:
    """Returns S(t): a cubic from 0 at -GAMMA / 2 to 1 at GAMMA / 2, constant outside (definition 1)."""
    t = ops.clip(logits, -GAMMA / 2, GAMMA / 2)
    return -2 / GAMMA**3 * t**3 + 3 / (2 * GAMMA) * t + 0.5


def selectors(bits: Any) -> Any:
    """Returns the probability of each code by selector: float32 [selected, bits] -> [selected, 2 ** bits]."""
    width = bits.shape[1]
    codes = np.arange(2**width)[:, None] >> np.arange(width) & 1  # [2 ** bits, bits]
    ones = ops.expand_dims(smooth_step(bits), 1)  # [selected, 1, bits]
    return ops.prod(ops.where(codes == 1, ones, 1 - ones), axis=2)


def _code_bits(experts: int) -> int:
    return (experts - 1).bit_length()
