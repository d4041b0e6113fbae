"""Scoring: a batch of rows to what a model says of them, and where the rows went that it says nothing of."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import SEQUENCES
from flowloom.schemas.models.feature_profile import FeatureProfile
from flowloom.schemas.models.score_card import (
    IDENTIFYING,
    ScoreReject,
    class_column,
    probability_column,
    score_schema,
)
from flowloom.trainers.deploy.deployed_model import DeployedModel
from flowloom.trainers.feed.arrow_views import arrow_array, list_offsets
from flowloom.trainers.feed.profile_counts import LENGTHS, ProfileCounts

PIECE_ROWS = 4_096
"""Rows that are rendered at a time: 6 MB of 20 packets of 18 features, which the model finds in the cache."""


@dataclasses.dataclass(frozen=True)
class ScoredRows:
    """What became of a batch of rows; `rows` in = `scores` + the sum of `rejected`.

    Attributes:
      scores: of `schemas.scores.score_schema`, in the order of the batch.
      rejected: rows without a score, by reason.
      profile: what the scored ones are like; None unless they are flows.
    """

    scores: pa.RecordBatch
    rejected: dict[str, int]
    profile: FeatureProfile | None


class Scorer:
    """A model that scores batches of rows; threads may share it.

    Args:
      model: what its files tell; it is loaded here.

    Raises:
      FlowloomError: if its files are missing or damaged, or TensorFlow is needed and not installed.
    """

    def __init__(self, model: DeployedModel) -> None:
        self.model = model
        self.schema = score_schema(model.features.view, model.tasks)
        self._forward = model.load()

    def score(self, rows: pa.RecordBatch) -> ScoredRows:
        """Return what the model says of rows that have at least the columns that it sees, flow id and group.

        What is said of a row does not depend on those beside it; to the last bit by the engine `lanes`.
        """
        spec = self.model.features
        usable, rejected = _usable(rows, spec)
        render, parts = spec.renderer(spec.prepared(usable)) if usable.num_rows else None, []
        for start in range(0, usable.num_rows, PIECE_ROWS):
            assert render is not None
            parts.append(self._forward(*render(np.arange(start, min(start + PIECE_ROWS, usable.num_rows)))))
        said = {
            task: np.concatenate([np.empty((0, _outputs(words)), np.float32), *(part[task] for part in parts)])
            for task, words in self.model.tasks.items()
        }
        finite = np.all([np.isfinite(outputs).all(axis=1) for outputs in said.values()], axis=0)
        if not finite.all():
            rejected[ScoreReject.NOT_FINITE] = rejected.get(ScoreReject.NOT_FINITE, 0) + int((~finite).sum())
            usable = usable.filter(pa.array(finite))
            said = {task: outputs[finite] for task, outputs in said.items()}
        profile = None
        if spec.view == "flows":
            counts = ProfileCounts(spec.columns, spec.inputs["sequence"].shape[0])
            counts.add(usable)
            profile = counts.profile()
        return ScoredRows(self._columns(usable, said), rejected, profile)

    def _columns(self, rows: pa.RecordBatch, said: dict[str, np.ndarray]) -> pa.RecordBatch:
        columns = {
            name: rows[name] if name in rows.schema.names else pa.nulls(rows.num_rows, self.schema.field(name).type)
            for name in IDENTIFYING[self.model.features.view]
        }
        for task, outputs in said.items():
            both = np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs  # [B, classes]
            field = self.schema.field(probability_column(task)).type
            flat = arrow_array(both.reshape(-1), pa.float32())
            columns[probability_column(task)] = pa.FixedSizeListArray.from_arrays(flat, type=field)
            columns[class_column(task)] = arrow_array(both.argmax(axis=1).astype(np.int32), pa.int32())
        return pa.RecordBatch.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)


def columns_of(model: DeployedModel) -> tuple[str, ...]:
    """Return the columns that scoring reads, as far as rows have them; it needs those of `model.features.columns`."""
    lengths = LENGTHS if model.features.view == "flows" else ()
    return tuple(dict.fromkeys([*model.features.columns, *IDENTIFYING[model.features.view], *lengths]))


def _outputs(words: tuple[str, ...]) -> int:
    return len(words) if len(words) > 2 else 1


def _usable(rows: pa.RecordBatch, spec: Any) -> tuple[pa.RecordBatch, dict[str, int]]:
    """Return the rows that the model can be given, and how many others there are, each counted by its first reason."""
    reasons: dict[str, np.ndarray] = {}
    lengths: np.ndarray | None = None
    gaps = getattr(spec, "missing", None) == "mean"  # what is not known of tables may have a stand-in
    for name in spec.columns:
        column = rows[name]
        if pa.types.is_floating(column.type):
            values = column.to_numpy(zero_copy_only=False)  # nulls become NaN
            _add(reasons, ScoreReject.NOT_FINITE, np.isinf(values))
            _add(reasons, ScoreReject.UNKNOWN_FEATURE, np.isnan(values) & (not gaps))
            continue
        if column.null_count:
            _add(reasons, ScoreReject.UNKNOWN_FEATURE, column.is_null().to_numpy(zero_copy_only=False))
        if name in SEQUENCES:
            listed = np.diff(list_offsets(column))
            if lengths is None:
                lengths = listed
                _add(reasons, ScoreReject.EMPTY, listed == 0)
            _add(reasons, ScoreReject.MALFORMED, listed != lengths)
    rejected: dict[str, int] = {}
    usable = np.ones(rows.num_rows, bool)
    for reason in (ScoreReject.UNKNOWN_FEATURE, ScoreReject.EMPTY, ScoreReject.MALFORMED, ScoreReject.NOT_FINITE):
        found = usable & reasons.get(reason, False)
        if found.any():
            rejected[reason] = int(found.sum())
            usable &= ~found
    return (rows if usable.all() else rows.filter(pa.array(usable))), rejected


def _add(reasons: dict[str, np.ndarray], reason: str, rows: np.ndarray) -> None:
    reasons[reason] = reasons[reason] | rows if reason in reasons else rows
