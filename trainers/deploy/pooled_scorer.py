"""Scores of whole flows by FlowNet and by mixtures of pooled experts, by NumPy alone."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flowloom.trainers.deploy.represented_packets import checked_width, represented_flows, tables_of

EPSILON = np.float32(1e-5)
"""Added to variances, as by the layer that is trained."""
LEAST = np.float32(-1e9)

Weights = Mapping[str, np.ndarray]


class PooledScorer:
    """FlowNet, or a mixture of pooled experts, that scores whole flows; it has no state between calls.

    Args:
      structure: as from `streaming_structure`, with pooled experts.
      weights: float32 arrays by name, as from `streaming_weights`.

    Raises:
      KeyError, TypeError, ValueError: if structure and weights do not fit each other.
    """

    def __init__(self, structure: dict[str, Any], weights: Weights) -> None:
        self.k: int = structure["k"]
        self.tasks: dict[str, int] = structure["tasks"]
        """Number of classes of each task."""
        self.features: list[str] = structure["features"]
        self.channels = len(self.features)
        self._tables = tables_of(self.features, weights)
        checked_width(self.features, weights)
        self._gate_input, self._towers, self._weights = structure["gate_input"], structure["tower_layers"], weights
        self._experts = [(each, _Part(weights, f"expert_{n}_")) for n, each in enumerate(structure["pooled"])]
        trial = self(np.zeros((1, self.k, self.channels), np.float32), np.ones(1, np.int32))
        for task, classes in self.tasks.items():
            if trial[task].shape != (1, _outputs(classes)):
                raise ValueError(f"head of {task} must have {_outputs(classes)} outputs, got {trial[task].shape[1]}")

    def __call__(self, sequence: npt.NDArray[np.float32], length: npt.NDArray[np.int32]) -> dict[str, np.ndarray]:
        """Returns the probabilities of flows.

        Args:
          sequence: float32 [B, k, C], packets in units; padding is ignored.
          length: int32 [B], packets of each flow, at most k.

        Returns:
          {task: probabilities}, float32 [B, 1] for two classes, [B, classes] for more.

        Raises:
          ValueError: if the shapes do not fit.
        """
        if sequence.shape != (len(length), self.k, self.channels):
            raise ValueError(f"flows must be [B, {self.k}, {self.channels}] beside B lengths, got {sequence.shape}")
        packets = represented_flows(sequence, length, self.features, self._tables)  # [B, k, D]
        there = (np.arange(self.k)[None] < length[:, None]).astype(np.float32)[..., None]  # [B, k, 1]
        states = np.stack([pooled(packets, there, *expert) for expert in self._experts], axis=1)  # [B, N, H]
        view = self._view(packets, there)
        scores = {}
        for number, (task, classes) in enumerate(self.tasks.items()):
            x = np.einsum("bn,bnh->bh", self._shares(number, view), states)
            for layer in range(self._towers):
                kernel, bias = (
                    self._weights[f"tower_kernel_{layer}"][number],
                    self._weights[f"tower_bias_{layer}"][number],
                )
                x = np.maximum(x @ kernel + bias, 0)
            x = x @ self._weights[f"head_kernel_{number}"] + self._weights[f"head_bias_{number}"]
            scores[task] = _softmax(x) if classes > 2 else _sigmoid(x)
        return scores

    def _view(self, packets: np.ndarray, there: np.ndarray) -> np.ndarray:
        """Returns the input of the gates, [B, G]."""
        if self._gate_input == "flatten":
            return _flat(packets)
        return packets[:, 0] if self._gate_input == "first_packet" else _mean(packets, there)

    def _shares(self, task: int, view: np.ndarray) -> np.ndarray:
        """Returns the weights of the experts for a task, [B, N]."""
        if not self._weights["gated"][task]:
            return np.broadcast_to(self._weights["shares"][task], (len(view), len(self._experts)))
        logits = view @ self._weights["gate_kernel"][task] + self._weights["gate_bias"][task]
        return _softmax(np.where(self._weights["sees"][task], logits, LEAST))


class _Part:
    """The weights behind a prefix."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self._weights, self._prefix = weights, prefix

    def __getitem__(self, name: str) -> np.ndarray:
        return self._weights[self._prefix + name]

    def below(self, prefix: str) -> "_Part":
        return _Part(self._weights, self._prefix + prefix)


def pooled(packets: np.ndarray, there: np.ndarray, settings: Mapping[str, Any], weights: _Part) -> np.ndarray:
    """Returns the outputs of `PooledPackets`, [B, readout].

    Args:
      packets: represented packets, float32 [B, k, D].
      there: float32 [B, k, 1], 1 for packets and 0 for padding.
      settings: arguments of the layer.
      weights: as from `pooled_weights`.
    """
    x = np.maximum(packets @ weights["dense_kernel"] + weights["dense_bias"], 0) + weights["places"]
    x = _normalised(x, weights["norm_gamma"], weights["norm_beta"])  # [B, k, W]
    mix = _convolved if settings["mixing"] == "convolution" else _attended
    for layer in range(settings["layers"]):
        x = mix(x, there, settings, weights.below(f"residual_{layer}_"))
    poolings: dict[str, Callable[[], np.ndarray]] = {
        "mean": lambda: _mean(x, there),
        "max": lambda: np.where(there > 0, x, LEAST).max(1),
        "attention": lambda: (x * _softmax(np.where(there > 0, x @ weights["attention_kernel"], LEAST), 1)).sum(1),
    }
    parts = [_mean(packets, there), *(poolings[kind]() for kind in settings["pooling"])]
    if first := settings["first"]:
        places = (x[:, :first] @ weights["first_kernel"] + weights["first_bias"]) * there[:, :first]
        parts.append(_flat(places))
    return np.maximum(np.concatenate(parts, axis=1) @ weights["last_kernel"] + weights["last_bias"], 0)


def _convolved(x: np.ndarray, there: np.ndarray, settings: Mapping[str, Any], weights: _Part) -> np.ndarray:
    """Returns the outputs of `ResidualConvolution`, [B, k, W]."""
    count = settings["kernel"]
    padded = np.pad(x * there, ((0, 0), (count // 2, count // 2), (0, 0)))
    around = np.concatenate([padded[:, place : place + x.shape[1]] for place in range(count)], axis=2)
    fed = np.maximum(around @ weights["kernel"] + weights["bias"], 0)
    return _normalised(x + fed, weights["gamma_0"], weights["beta_0"])


def _attended(x: np.ndarray, there: np.ndarray, settings: Mapping[str, Any], weights: _Part) -> np.ndarray:
    """Returns the outputs of `ResidualAttention`, [B, k, W]."""
    rows, k, width = x.shape
    heads = settings["attention_heads"]
    each = (x @ weights["queries"]).reshape(rows, k, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    scores = each[0] @ each[1].transpose(0, 1, 3, 2) * np.float32((width // heads) ** -0.5)  # [B, heads, k, k]
    shares = _softmax(scores + ((1 - there) * LEAST).transpose(0, 2, 1)[:, None])
    seen = (shares @ each[2]).transpose(0, 2, 1, 3).reshape(rows, k, width)
    x = _normalised(x + seen @ weights["mix"], weights["gamma_0"], weights["beta_0"])
    fed = np.maximum(x @ weights["kernel"] + weights["bias"], 0)
    return _normalised(x + fed, weights["gamma_1"], weights["beta_1"])


def _normalised(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + EPSILON) * gamma + beta


def _flat(x: np.ndarray) -> np.ndarray:
    """Returns [B, k W] from [B, k, W], also for no rows."""
    return x.reshape(len(x), x.shape[1] * x.shape[2])


def _mean(x: np.ndarray, there: np.ndarray) -> np.ndarray:
    return (x * there).sum(1) / np.maximum(there.sum(1), 1)


def _softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -80, 80)))


def _outputs(classes: int) -> int:
    return classes if classes > 2 else 1
