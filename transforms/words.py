"""Words: what published files say of a task becomes label numbers of a vocabulary; other words are counted."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.rows import WORD_PREFIX, label_column, word_column
from flowloom.schemas.tasks import Task
from flowloom.transforms.columns import text_column


def label_words(rows: pa.RecordBatch, tasks: Sequence[Task]) -> pa.RecordBatch:
    """Return rows with a label column per task in the place of all word columns.

    A label is the int32 position of the row's word in the task's vocabulary; null where the rows have no word of the
    task, or one that the vocabulary lacks (`foreign_words` tells them).
    """
    kept = rows.select([name for name in rows.schema.names if not name.startswith(WORD_PREFIX)])
    for task in tasks:
        if word_column(task.name) in rows.schema.names:
            codes = pc.index_in(rows[word_column(task.name)], text_column(task.vocabulary))
        else:
            codes = pa.nulls(rows.num_rows, pa.int32())
        kept = kept.append_column(pa.field(label_column(task.name), pa.int32()), codes)
    return kept


def foreign_words(rows: pa.RecordBatch, task: Task) -> dict[str, int]:
    """Return how many rows have each word of a task that its vocabulary lacks."""
    if word_column(task.name) not in rows.schema.names:
        return {}
    words = rows[word_column(task.name)]
    foreign = words.filter(pc.and_(pc.is_valid(words), pc.invert(pc.is_in(words, text_column(task.vocabulary)))))
    counts = foreign.value_counts().to_pylist()
    return {count["values"]: count["counts"] for count in sorted(counts, key=lambda count: count["values"])}
