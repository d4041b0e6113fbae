"""Output of `flowloom score`: columns of scored rows, reasons for rejected rows, and the score card."""

import enum
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pydantic

from flowloom.schemas.arrow.rows import FLOWS, View, packet_schema
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import Identity
from flowloom.schemas.dataset.card_parts import Accounting
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import unsealed

SCORE_CARD = "scores.json"
SCORE_PAGE = "report.html"
MAX_SKEW = 0.12
"""Divergence in bits above which a feature counts as skewed (docs/decisions/0022-scoring-and-planning.md)."""

IDENTIFYING: dict[View, tuple[str, ...]] = {
    "flows": (
        "flow_id", "group", "start", "duration_ns", "protocol", "src_ip", "dst_ip", "src_port", "dst_port",
        "packets_fwd", "packets_bwd",
    ),
    "packets": ("flow_id", "group", "time", "record"),
    "tables": ("flow_id", "group"),
}  # fmt: skip
"""Columns that identify a scored row, by view; a column that the inputs lack is null."""

ALWAYS_KNOWN = ("flow_id", "group")

VOCABULARY = b"vocabulary"
"""Metadata key of a field whose value is the vocabulary of its numbers, as a JSON list."""


class ScoreReject(enum.StrEnum):
    """Reasons for rejecting a row of the input. A closed set."""

    UNKNOWN_FEATURE = "unknown-feature"
    """The row lacks a column that the model reads."""
    EMPTY = "empty"
    """The flow has no packets."""
    MALFORMED = "malformed"
    """The flow's sequences have different lengths."""
    NOT_FINITE = "not-finite"
    """A feature or a predicted probability is infinite or NaN."""
    REPEATED = "repeated"
    """An earlier row has the same id: a flow in several stripes or inputs is scored once."""
    UNREADABLE = "unreadable"
    """The row's row group cannot be read."""


def score_schema(view: View, tasks: Mapping[str, Sequence[str]]) -> pa.Schema:
    """Returns the schema of scored rows: identifying columns, then probabilities and the predicted class of each task.

    `probability_<task>` is a list of one float32 per label value, in the order of the vocabulary. `class_<task>` is the
    position of the largest, and `predicted_<task>` its label value. The metadata of the first two has the vocabulary.
    """
    columns = {field.name: field for schema in (FLOWS, packet_schema(1)) for field in schema}
    fields = [columns[name].with_nullable(name not in ALWAYS_KNOWN) for name in IDENTIFYING[view]]
    for task, vocabulary in tasks.items():
        metadata = {VOCABULARY: json.dumps(list(vocabulary)).encode()}
        item = pa.field("item", pa.float32(), nullable=False)
        fields.append(pa.field(probability_column(task), pa.list_(item, len(vocabulary)), False, metadata))
        fields.append(pa.field(class_column(task), pa.int32(), False, metadata))
        fields.append(pa.field(predicted_column(task), pa.string(), False))
    return pa.schema(fields)


def probability_column(task: str) -> str:
    """Returns the name of a task's probability column."""
    return f"probability_{task}"


def class_column(task: str) -> str:
    """Returns the name of a task's column of predicted classes: positions in its vocabulary."""
    return f"class_{task}"


def predicted_column(task: str) -> str:
    """Returns the name of a task's column of predicted label values."""
    return f"predicted_{task}"


def score_path(shard: int, shards: int) -> str:
    """Returns a shard's path inside the folder of scores."""
    return f"scores/part-{shard:05d}-of-{shards:05d}.parquet"


_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")


class FeatureSkew(pydantic.BaseModel):
    """Difference between scored rows and training rows in one feature, or in the classes of one task."""

    model_config = _STRICT

    name: str
    """Feature, or task."""
    jensen_shannon: float
    """Jensen-Shannon divergence of the two histograms in bits, from 0 (equal) to 1 (no bin in common)."""
    l_infinity: float
    """Largest difference between the two shares of a bin."""
    largest_bin: str
    """Values of the bin with the largest difference."""
    noise: float
    """Mean divergence between samples of these sizes from one distribution."""
    unseen: int
    """Values in bins that are empty in training."""
    values: int
    """Compared values."""
    skewed: bool
    """Whether the divergence minus the noise exceeds the threshold."""


class ModelSkew(pydantic.BaseModel):
    """Difference between the scored rows and the rows that the model was trained on."""

    model_config = _STRICT

    threshold: float
    """Divergence in bits above which a feature counts as skewed."""
    rows: int
    """Compared rows, including repeated ones."""
    trained_rows: int
    """Rows that the model was trained on."""
    features: tuple[FeatureSkew, ...]
    """Features by descending divergence."""
    classes: tuple[FeatureSkew, ...]
    """Predicted classes by task, compared with the labels of training; a difference alone is not an error."""

    @property
    def skewed(self) -> tuple[str, ...]:
        """Names of the skewed features."""
        return tuple(feature.name for feature in self.features if feature.skewed)


class ScoreShard(pydantic.BaseModel):
    """One Parquet file of scored rows."""

    model_config = _STRICT

    path: str
    """Path in the folder of scores."""
    rows: int
    """Number of rows."""
    sha256: str
    """SHA-256 of the file."""


class ScoredModel(pydantic.BaseModel):
    """Model that made the scores."""

    model_config = _STRICT

    path: str
    """Run folder or export, as it was named."""
    kind: Literal["run", "export"]
    """A run folder, or an export."""
    recipe: str
    """Name of its recipe."""
    dataset: str
    """Content hash of the training dataset."""
    definition: FlowDefinition
    """Flow definition of its training dataset."""
    tasks: dict[str, tuple[str, ...]]
    """Vocabulary by task."""
    view: View
    """View whose rows it reads."""
    engine: str
    """Engine of the model: `lanes` (all flows side by side, without TensorFlow), `tensorflow`, `litert` or `onnx`."""


PROBABILITY_BINS = 20
"""Number of equal bins of probabilities from 0 to 1."""


class ClassProbability(pydantic.BaseModel):
    """Predicted probabilities of one class over the scored rows."""

    model_config = _STRICT

    mean: float
    """Mean over all scored rows: the expected share of the class if the probabilities are calibrated."""
    predicted: float | None
    """Mean over the rows that are predicted as the class; None if there is none."""
    bins: tuple[int, ...]
    """Rows that are predicted as the class, in `PROBABILITY_BINS` equal bins of its probability."""


class ScoreCard(pydantic.BaseModel):
    """Card of a folder of scores, with its model and accounting: `rows == scored + sum(rejected)`."""

    model_config = _STRICT

    scores_version: Literal[1] = 1
    """Version of the format of scores."""
    tool_version: str
    """Version of Flowloom that scored."""
    model: ScoredModel
    """Model that made the scores."""
    inputs: tuple[str, ...]
    """Inputs as the user named them."""
    identity: Identity
    """Treatment of the addresses of captures; rows of datasets keep the addresses of their dataset."""
    rows: int
    """Rows that were metered or read."""
    scored: int
    """Rows with probabilities."""
    rejected: dict[str, int]
    """Rejected rows by reason (`ScoreReject`)."""
    classes: dict[str, dict[str, int]]
    """Scored rows by task and predicted class."""
    probabilities: dict[str, dict[str, ClassProbability]] = {}
    """Predicted probabilities by task and class; empty in cards of 0.1."""
    captures: Accounting | None
    """Accounting of the captures' records; None without captures."""
    skew: ModelSkew | None
    """None if it was not measured."""
    skew_missing: str | None = None
    """Reason why the skew was not measured."""
    shards: tuple[ScoreShard, ...]
    """All Parquet files, by path."""


def read_scores(folder: str | os.PathLike[str]) -> ScoreCard:
    """Returns the card of a folder of scores.

    Raises:
      FlowloomError: if it is missing or damaged.
    """
    where = Path(folder) / SCORE_CARD
    try:
        document = unsealed(json.loads(where.read_bytes()), where, "score again")
        return ScoreCard.model_validate_json(json.dumps(document))
    except OSError:
        raise FlowloomError(
            f"{folder} has no scores: {SCORE_CARD} is missing; make some with `flowloom score`"
        ) from None
    except pydantic.ValidationError as error:
        raise FlowloomError(f"{where} is damaged ({error.errors()[0]['msg']}); score again") from None
    except FlowloomError:
        raise
    except ValueError as error:
        raise FlowloomError(f"{where} is not JSON ({error}); score again") from None
