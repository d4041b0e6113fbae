"""Stored columns of each view, for builds and for checks of datasets."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import pyarrow as pa

from flowloom.schemas.arrow.feature_tables import feature_schema
from flowloom.schemas.arrow.rows import (
    FLOW_COLUMNS,
    FLOWS,
    IDENTITY,
    LATER_COLUMNS,
    PUBLISHED_FLOWS,
    View,
    labelled,
    packet_schema,
)
from flowloom.schemas.corpus.manifest import Identity
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, CARD, REJECTS_TABLE, TF_SCHEMA, DatasetCard

PUBLISHED_PACKETS = ("time", "record")
"""Columns of the packets view that are null for published images."""


@dataclasses.dataclass(frozen=True)
class StoredViews:
    """The columns of a dataset's views.

    Attributes:
      identity: treatment of addresses; `drop` removes their columns.
      published: views with rows of published files, whose columns may be null.
      packet_bytes: length of a row of the packets view.
      features: columns of the tables view.
      flow_columns: version of the columns of flows.
    """

    identity: Identity = "keep"
    published: frozenset[str] = frozenset()
    packet_bytes: int = 0
    features: tuple[str, ...] = ()
    flow_columns: int = FLOW_COLUMNS

    @classmethod
    def of(cls, card: DatasetCard) -> Self:
        """Returns the stored views of a dataset's card."""
        published = frozenset(entry.view for entry in card.published)
        return cls(card.identity, published, card.packet_bytes or 0, card.features, card.flow_columns)

    def schema(self, view: View, tasks: Sequence[Task]) -> pa.Schema:
        """Returns the schema of a view's shards with the labels of some tasks."""
        return labelled(self._columns(view), [task.name for task in tasks])

    def _columns(self, view: View) -> pa.Schema:
        if view == "tables":
            return feature_schema(self.features)
        if view == "packets":
            columns = packet_schema(self.packet_bytes)
            if view not in self.published:
                return columns
            return pa.schema([field.with_nullable(field.name in PUBLISHED_PACKETS) for field in columns])
        columns = PUBLISHED_FLOWS if view in self.published else FLOWS
        missing = {*(IDENTITY if self.identity == "drop" else ()), *(LATER_COLUMNS if self.flow_columns < 2 else ())}
        return pa.schema([field for field in columns if field.name not in missing])


def dataset_files(card: DatasetCard) -> list[str]:
    """Returns the files of a dataset, relative to its directory, the card last; those of `describe` are not listed."""
    schemas = map(schema_file, card.views)
    return [*(shard.path for shard in card.shards), CAPTURES_TABLE, REJECTS_TABLE, *schemas, CARD]


def schema_file(view: View) -> str:
    """Returns the name of the TensorFlow Metadata schema of a view's shards."""
    return TF_SCHEMA if view == "flows" else f"schema.{view}.pbtxt"
