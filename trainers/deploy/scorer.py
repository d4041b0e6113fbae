"""Scores of a batch of rows by a model, and counts of the rows that it cannot score."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import SEQUENCES
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.models.feature_profile import FeatureProfile
from flowloom.schemas.models.score_card import (
    ALWAYS_KNOWN,
    IDENTIFYING,
    ScoreReject,
    class_column,
    predicted_column,
    probability_column,
    score_schema,
)
from flowloom.trainers.arrow_views import arrow_array, list_offsets
from flowloom.trainers.deploy.deployed_model import DeployedModel
from flowloom.trainers.feed.profile_counts import LENGTHS, ProfileCounts

PIECE_ROWS = 4_096
"""Rows that are rendered at a time: 6 MB for 20 packets of 18 features, which fit the processor's cache."""


@dataclasses.dataclass(frozen=True)
class ScoredRows:
    """Result of a batch of rows: every row is in `scores` or counted in `rejected`.

    Attributes:
      scores: rows of `score_schema`, in the order of the batch.
      rejected: number of rows without a score, by reason.
      profile: feature profile of the scored flows; None for other views.
    """

    scores: pa.RecordBatch
    rejected: dict[str, int]
    profile: FeatureProfile | None


class Scorer:
    """A model that scores batches of rows; threads may share it.

    Args:
      model: the opened model; its weights are loaded here.

    Raises:
      FlowloomError: if its files are missing or damaged, or TensorFlow is needed and not installed.
    """

    def __init__(self, model: DeployedModel) -> None:
        self.model = model
        self.schema = score_schema(model.features.view, model.tasks)
        self._forward = model.load()

    def score(self, rows: pa.RecordBatch | pa.Table) -> ScoredRows:
        """Returns the scores of rows that have at least the model's columns, the flow id and the group.

        The score of a row does not depend on the rows beside it, with the engine `lanes` to the last bit.

        Raises:
          FlowloomError: if a column is missing, or addresses are text.
        """
        if isinstance(rows, pa.Table):
            (rows,) = rows.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], rows.schema)]
        self._check_columns(rows.schema)
        spec = self.model.features
        usable, rejected = _usable(rows, spec)
        render, parts = spec.renderer(spec.prepared(usable)) if usable.num_rows else None, []
        for start in range(0, usable.num_rows, PIECE_ROWS):
            assert render is not None
            parts.append(self._forward(*render(np.arange(start, min(start + PIECE_ROWS, usable.num_rows)))))
        predicted = {
            task: np.concatenate([np.empty((0, _outputs(classes)), np.float32), *(part[task] for part in parts)])
            for task, classes in self.model.tasks.items()
        }
        finite = np.all([np.isfinite(outputs).all(axis=1) for outputs in predicted.values()], axis=0)
        if not finite.all():
            rejected[ScoreReject.NOT_FINITE] = rejected.get(ScoreReject.NOT_FINITE, 0) + int((~finite).sum())
            usable = usable.filter(pa.array(finite))
            predicted = {task: outputs[finite] for task, outputs in predicted.items()}
        profile = None
        if spec.view == "flows":
            counts = ProfileCounts(spec.columns, spec.inputs["sequence"].shape[0])
            counts.add(usable)
            profile = counts.profile()
        return ScoredRows(self._columns(usable, predicted), rejected, profile)

    def _check_columns(self, schema: pa.Schema) -> None:
        needed = (*ALWAYS_KNOWN, *self.model.features.columns)
        if missing := [name for name in needed if name not in schema.names]:
            raise FlowloomError(
                f"rows must have the columns of the model, got none named {', '.join(missing)}; read them with "
                "fl.read_flows, or from a dataset with these columns"
            )
        for name in IDENTIFYING[self.model.features.view]:
            expected = self.schema.field(name).type
            if name in schema.names and schema.field(name).type != expected:
                raise FlowloomError(
                    f"column {name} must be {expected}, got {schema.field(name).type}; read flows without "
                    "text_addresses"
                )

    def _columns(self, rows: pa.RecordBatch, predicted: dict[str, np.ndarray]) -> pa.RecordBatch:
        columns = {
            name: rows[name] if name in rows.schema.names else pa.nulls(rows.num_rows, self.schema.field(name).type)
            for name in IDENTIFYING[self.model.features.view]
        }
        for task, outputs in predicted.items():
            both = np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs  # [B, classes]
            field = self.schema.field(probability_column(task)).type
            flat = arrow_array(both.reshape(-1), pa.float32())
            columns[probability_column(task)] = pa.FixedSizeListArray.from_arrays(flat, type=field)
            chosen = arrow_array(both.argmax(axis=1).astype(np.int32), pa.int32())
            columns[class_column(task)] = chosen
            columns[predicted_column(task)] = pa.array(self.model.tasks[task], pa.string()).take(chosen)
        return pa.RecordBatch.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)


def columns_of(model: DeployedModel) -> tuple[str, ...]:
    """Returns the columns that scoring reads if rows have them; those of `model.features.columns` are required."""
    lengths = LENGTHS if model.features.view == "flows" else ()
    return tuple(dict.fromkeys([*model.features.columns, *IDENTIFYING[model.features.view], *lengths]))


def _outputs(classes: tuple[str, ...]) -> int:
    return len(classes) if len(classes) > 2 else 1


def _usable(rows: pa.RecordBatch, spec: Any) -> tuple[pa.RecordBatch, dict[str, int]]:
    """Returns the rows that the model can score, and the number of other rows by their first reason."""
    reasons: dict[str, np.ndarray] = {}
    lengths: np.ndarray | None = None
    gaps = getattr(spec, "missing", None) == "mean"  # unknown features of tables may be replaced by the mean
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
