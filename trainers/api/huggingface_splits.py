"""Splits of a dataset for Hugging Face `datasets`, with labels as classes."""

import datasets
import pyarrow as pa

from flowloom.schemas.arrow.address_texts import text_address_schema, with_text_addresses
from flowloom.schemas.arrow.rows import View, label_column
from flowloom.schemas.parquet_files import read_row_group
from flowloom.trainers.feed.dataset import Dataset


def huggingface_splits(dataset: Dataset, view: View) -> datasets.DatasetDict:
    """Returns the splits of a dataset that have rows, in memory.

    Labels are `ClassLabel` features with the label values as names; unknown labels are null. Addresses are text.
    """
    splits = {}
    for split in dataset.card.splits:
        if dataset.row_groups(split, view=view):
            table = _table(dataset, split, view)
            splits[split] = datasets.Dataset(datasets.table.InMemoryTable(table)).cast(_features(dataset, table.schema))
    return datasets.DatasetDict(splits)


def _table(dataset: Dataset, split: str, view: View) -> pa.Table:
    """Returns the rows of a split; columns that a stripe lacks are null."""
    tables = []
    for group in dataset.row_groups(split, view=view):
        (rows,) = read_row_group(group.path, group.index).combine_chunks().to_batches()
        schema = pa.schema([_stored(field) for field in text_address_schema(rows.schema)])
        tables.append(pa.Table.from_batches([with_text_addresses(rows)]).cast(schema))
    return pa.concat_tables(tables, promote_options="default")


def _stored(field: pa.Field) -> pa.Field:
    """Returns a column as the library can store it: it has no bytes of fixed length."""
    kind = pa.binary() if pa.types.is_fixed_size_binary(field.type) else field.type
    return pa.field(field.name, kind)


def _features(dataset: Dataset, schema: pa.Schema) -> datasets.Features:
    features = datasets.Features.from_arrow_schema(schema)
    for task in dataset.tasks:
        if label_column(task.name) in features:
            features[label_column(task.name)] = datasets.ClassLabel(names=list(task.vocabulary))
    return features
