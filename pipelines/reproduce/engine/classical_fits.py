"""Classical models on arrays of flows: trees, logistic regression and nearest flows with few labels."""

import dataclasses

import numpy as np
import numpy.typing as npt

from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.trainers.evaluation.predictions import Predictions
from flowloom.trainers.trees.estimators import Family, FitSettings, fit
from flowloom.trainers.trees.flow_histograms import flow_histograms
from flowloom.trainers.trees.nearest_flows import nearest_flows, signed_sizes, votes
from flowloom.trainers.trees.row_columns import flow_positions

NEAREST = "nearest-flows"
METHODS: dict[str, Family | None] = {
    "logistic": "logistic",
    "extra-trees": "extra_trees",
    "forest": "random_forest",
    "boosted-trees": "boosted_trees",
    NEAREST: None,
}
"""Family of each method; nearest flows has none."""


@dataclasses.dataclass(frozen=True)
class FlowArrays:
    """Packets of flows in units, as `FeatureSpec` with `scaling="none"` renders them.

    Attributes:
      sequence: float32 [N, k, C], zero after the last packet of a flow.
      length: int32 [N].
      features: names of the C features.
    """

    sequence: npt.NDArray[np.float32]
    length: npt.NDArray[np.int32]
    features: tuple[str, ...]

    def take(self, rows: np.ndarray) -> "FlowArrays":
        """Returns some of the flows, int64 [M]."""
        return FlowArrays(self.sequence[rows], self.length[rows], self.features)


def fit_and_predict(
    method: str,
    train: FlowArrays,
    labels: npt.NDArray[np.int32],
    test: FlowArrays,
    test_labels: npt.NDArray[np.int32],
    classes: int,
    seed: int,
) -> Predictions:
    """Fits a method on the labelled train flows, and predicts the labelled test flows.

    Logistic regression reads histograms and statistics, trees the values of each packet, and nearest flows (one
    neighbour) the signed sizes of the first packets.

    Args:
      method: one of `METHODS`.
      train: train flows.
      labels: int32 [N], -1 where unknown.
      test: test flows.
      test_labels: int32 [M], -1 where unknown.
      classes: number of classes.
      seed: of all random choices.

    Raises:
      FlowloomError: if there is no such method, or no train flow has a label.
    """
    if method not in METHODS:
        raise FlowloomError(
            f"method must be one of {', '.join(METHODS)}, got {method!r}{did_you_mean(method, METHODS)}"
        )
    known, judged = np.flatnonzero(labels >= 0), np.flatnonzero(test_labels >= 0)
    if not len(known):
        raise FlowloomError("labels must have a known one, got none; keep the label of a train flow")
    given, asked = _columns(method, train.take(known)), _columns(method, test.take(judged))
    family = METHODS[method]
    if family is None:
        return Predictions(test_labels[judged], votes(nearest_flows(given, asked, 1), labels[known], classes))
    found = fit(FitSettings(family, seed=seed), given, labels[known], classes).probabilities(asked)
    return Predictions(test_labels[judged], found.astype(np.float32))


def _columns(method: str, flows: FlowArrays) -> np.ndarray:
    """Returns the columns that a method reads."""
    if method == NEAREST:
        return signed_sizes(flows.sequence, flows.features)
    make = flow_histograms if method == "logistic" else flow_positions
    return make(flows.sequence, flows.length, flows.features)
