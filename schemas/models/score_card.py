"""What `flowloom score` leaves behind: the columns of its rows, why a row has no score, and its card."""

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
from flowloom.schemas.dataset.dataset_card import Accounting
from flowloom.schemas.errors import FlowloomError

SCORE_CARD = "scores.json"
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
"""What a scored row is known by, of each view; a column that no input tells is null."""

KNOWN = ("flow_id", "group")

VOCABULARY = b"vocabulary"
"""The key of a field's metadata under which the words lie that its numbers mean, as a JSON list."""


class ScoreReject(enum.StrEnum):
    """Why a row of the input has no score. A closed set."""

    UNKNOWN_FEATURE = "unknown-feature"
    """A column that the model sees is not known of it."""
    EMPTY = "empty"
    """A flow without packets."""
    MALFORMED = "malformed"
    """Its sequences have different lengths."""
    NOT_FINITE = "not-finite"
    """A feature, or what the model says, is infinite or no number."""
    REPEATED = "repeated"
    """Another row has its id: a flow of several stripes, or of several inputs, is scored once."""
    UNREADABLE = "unreadable"
    """Its row group of a shard cannot be read."""


def score_schema(view: View, tasks: Mapping[str, Sequence[str]]) -> pa.Schema:
    """Return the schema of scored rows: what they are known by, then per task probabilities and the likeliest class.

    `probability_<task>` is a list of one float32 for each word of the task, in the order of its vocabulary, and
    `class_<task>` the position of the largest; the metadata of both has the vocabulary.
    """
    columns = {field.name: field for schema in (FLOWS, packet_schema(1)) for field in schema}
    fields = [columns[name].with_nullable(name not in KNOWN) for name in IDENTIFYING[view]]
    for task, vocabulary in tasks.items():
        words = {VOCABULARY: json.dumps(list(vocabulary)).encode()}
        item = pa.field("item", pa.float32(), nullable=False)
        fields.append(pa.field(probability_column(task), pa.list_(item, len(vocabulary)), False, words))
        fields.append(pa.field(class_column(task), pa.int32(), False, words))
    return pa.schema(fields)


def probability_column(task: str) -> str:
    """Return the name of a task's column of probabilities."""
    return f"probability_{task}"


def class_column(task: str) -> str:
    """Return the name of a task's column of likeliest classes: position in its vocabulary."""
    return f"class_{task}"


def score_path(shard: int, shards: int) -> str:
    """Return a shard's path inside the folder of scores."""
    return f"scores/part-{shard:05d}-of-{shards:05d}.parquet"


_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")


class FeatureSkew(pydantic.BaseModel):
    """How far the values of one feature, or the classes of one task, differ from those of the training."""

    model_config = _STRICT

    name: str
    jensen_shannon: float
    """Divergence of the two histograms in bits: from 0, the same, to 1, no bin in common."""
    l_infinity: float
    """The largest difference of a bin's two shares."""
    largest_bin: str
    """The values of that bin."""
    noise: float
    """What the divergence would be on average between as many flows of the same kind."""
    unseen: int
    """Values in bins that the training had none of."""
    values: int
    skewed: bool
    """Whether the divergence is above the threshold even without the noise."""


class ModelSkew(pydantic.BaseModel):
    """How far the scored rows differ from those that the model was trained on."""

    model_config = _STRICT

    threshold: float
    rows: int
    """Rows that were compared, repeated ones among them."""
    trained_rows: int
    features: tuple[FeatureSkew, ...]
    """By descending divergence."""
    classes: tuple[FeatureSkew, ...]
    """Predicted classes by task, against the labels of the training; no fault by themselves."""

    @property
    def skewed(self) -> tuple[str, ...]:
        """The features that are skewed."""
        return tuple(feature.name for feature in self.features if feature.skewed)


class ScoreShard(pydantic.BaseModel):
    """One Parquet file of scored rows."""

    model_config = _STRICT

    path: str
    rows: int
    sha256: str


class ScoredModel(pydantic.BaseModel):
    """Which model said it."""

    model_config = _STRICT

    path: str
    kind: Literal["run", "export"]
    recipe: str
    dataset: str
    """Content hash of what it was trained on."""
    definition: FlowDefinition
    tasks: dict[str, tuple[str, ...]]
    """Vocabulary by task."""
    view: View
    engine: str
    """What computes: `lanes` (all flows side by side, no TensorFlow), `tensorflow` or `litert`."""


class ScoreCard(pydantic.BaseModel):
    """What was scored, by which model, and where every row went: `rows == scored + sum(rejected)`."""

    model_config = _STRICT

    scores_version: Literal[1] = 1
    tool_version: str
    model: ScoredModel
    inputs: tuple[str, ...]
    """As they were named."""
    identity: Identity
    """What became of the addresses of captures; rows of datasets have those of their dataset, if any."""
    rows: int
    """Rows that were metered or read."""
    scored: int
    rejected: dict[str, int]
    """By reason, see `ScoreReject`."""
    classes: dict[str, dict[str, int]]
    """By task: scored rows by their likeliest class."""
    captures: Accounting | None
    """Where the records of the captures went; None without captures."""
    skew: ModelSkew | None
    """None where it was not measured."""
    skew_missing: str | None = None
    """Why it was not."""
    shards: tuple[ScoreShard, ...]


def read_scores(folder: str | os.PathLike[str]) -> ScoreCard:
    """Read the card of a folder of scores.

    Raises:
      FlowloomError: if it is missing or damaged.
    """
    where = Path(folder) / SCORE_CARD
    try:
        return ScoreCard.model_validate_json(where.read_bytes())
    except OSError:
        raise FlowloomError(
            f"{folder} holds no scores: {SCORE_CARD} is missing; make some with `flowloom score`"
        ) from None
    except pydantic.ValidationError as error:
        raise FlowloomError(f"{where} is damaged ({error.errors()[0]['msg']}); score again") from None
