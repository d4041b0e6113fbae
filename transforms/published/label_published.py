"""Labels of published rows: from their own published labels, or from the manifest."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.label_windows import UNKNOWN_LABEL
from flowloom.schemas.arrow.rows import PUBLISHED_LABEL_PREFIX, label_column, published_label_column
from flowloom.schemas.corpus.label_words import label_code
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.published_sources import PublishedSource
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.transforms.arrays.columns import labels_column, view
from flowloom.transforms.labels.join_labels import Counts, SourceKey, SourceLabels, merge_labels
from flowloom.transforms.windows.window_match import NO_WINDOW


def label_published(
    rows: pa.RecordBatch, entry: PublishedSource, manifest: CorpusManifest
) -> tuple[pa.RecordBatch, dict[SourceKey, Counts]]:
    """Returns rows with label columns of the claimed tasks, and the counted answers of each source.

    A label comes from the entry's `labels`, else from the row's published label; `on_conflict` decides where the two
    differ. The columns with published labels are removed.

    Raises:
      FlowloomError: if a published label has no label value, unless the entry says `unknown_words: unknown`.
    """
    nowhere = np.zeros(rows.num_rows, bool)
    labelled = rows.select([name for name in rows.schema.names if not name.startswith(PUBLISHED_LABEL_PREFIX)])
    counted: dict[SourceKey, Counts] = {}
    for task in manifest.claimed_tasks:
        sources: dict[SourceKey, SourceLabels] = {}
        if task.name in entry.labels:
            code = np.full(rows.num_rows, task.index(entry.labels[task.name]), np.int32)
            sources[task.name, entry.name] = SourceLabels(code, nowhere, nowhere, nowhere)
        kind = entry.label_kind(task.name)
        if kind is not None and published_label_column(kind) in rows.schema.names:
            codes = _label_codes(rows[published_label_column(kind)], entry, task)
            sources[task.name, entry.source_name(task.name)] = SourceLabels(codes, nowhere, nowhere, nowhere)
        codes = np.full(rows.num_rows, -1 if manifest.absent_code is None else manifest.absent_code, np.int32)
        if sources:
            on_conflict = manifest.on_conflict.get(task.name, "first")
            codes, counts = merge_labels(list(sources.values()), on_conflict, manifest.absent_code)
            counted |= dict(zip(sources, counts, strict=True))
        labelled = labelled.append_column(pa.field(label_column(task.name), pa.int32()), labels_column(codes))
    return labelled, counted


def _label_codes(published: pa.Array, entry: PublishedSource, task: Task) -> np.ndarray:
    """Returns the label number of each published label: `UNKNOWN_LABEL` without a label value, `NO_WINDOW` for null."""
    encoded = published.dictionary_encode()
    codes = []
    for label in encoded.dictionary.to_pylist():
        code = label_code(label, entry.words.get(task.name, {}), task)
        if code is None and entry.unknown_words == "error":
            raise FlowloomError(
                f"{entry.path!r}: {entry.label_kind(task.name)} must be a label value of task {task.name!r} "
                f"({', '.join(task.vocabulary)}), got {label!r}; write words: {{{task.name}: {{{label}: ...}}}}, or "
                f"unknown_words: unknown{did_you_mean(label, task.vocabulary)}"
            )
        codes.append(UNKNOWN_LABEL if code is None else code)
    at = pc.fill_null(encoded.indices, len(codes))
    return np.array([*codes, NO_WINDOW], np.int32)[view(at)]
