"""`flowloom describe --statistics`: quantiles, frequent values, counts and profiles of a dataset's rows."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from flowloom.pipelines.engines.embedded import EMBEDDED, running
from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.dataset.dataset_card import DatasetCard, read_card
from flowloom.schemas.dataset.dataset_statistics import STATISTICS, DatasetStatistics, read_statistics
from flowloom.schemas.dataset.stored_files import check_shards
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import sealed_text
from flowloom.transforms.inspection.dataset_sketch import DatasetSketch, merge_sketches
from flowloom.transforms.inspection.inspection_ptransforms import SketchRows
from flowloom.transforms.io.staging import temporary_folder

BATCH_ROWS = 16_384
"""Rows that are read at a time."""


def measure_statistics(dataset: str | os.PathLike[str], out: str | os.PathLike[str]) -> DatasetStatistics:
    """Measures the rows of a dataset's first view, writes `statistics.json` into a folder, and returns its content.

    One worker reads the shards in order, so the same dataset gives the same bytes.

    Raises:
      FlowloomError: if there is no finished dataset, its shards cannot be read or do not have the rows of the card, or
        TensorFlow, which tfx-bsl needs, is not installed.
    """
    card = read_card(dataset)
    shards = [shard for shard in card.shards if shard.view == card.views[0]]
    check_shards(dataset, shards)
    folders = sorted({(shard.split, os.path.dirname(shard.path)) for shard in shards})
    sources = _sources(os.fspath(dataset), folders)
    with temporary_folder(None, "flowloom-describe") as scratch:
        with _unreadable(dataset), running(EMBEDDED, 1, (), scratch) as pipeline:
            # one sketch per folder: the runner would hold rows that are flattened from several folders in memory
            sketches = [
                beam.pvalue.AsSingleton(
                    pipeline | f"Read {folder}" >> source | f"Sketch {folder}" >> _sketched(card, split)
                )
                for folder, (split, source) in sources.items()
            ]
            found = pipeline | "Hash" >> beam.Create([card.content_hash]) | "Merge" >> beam.Map(_merged, *sketches)
            found | "Write" >> beam.Map(_write, scratch)
        statistics = read_statistics(scratch)
    assert statistics is not None
    expected = {split: counts.rows for split, counts in card.splits.items()}
    if statistics.rows != expected:
        raise FlowloomError(
            f"{dataset}: shards must have the rows of the card, {_counts(expected)}, got {_counts(statistics.rows)}; "
            "find the difference with `flowloom verify`"
        )
    _write(statistics, os.fspath(out))
    return statistics


def _counts(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in rows.items())


def _sketched(card: DatasetCard, split: str) -> beam.PTransform:
    return beam.CombineGlobally(SketchRows(card, split))


def _merged(content_hash: str, *sketches: DatasetSketch) -> DatasetStatistics:
    return merge_sketches(sketches[0], sketches[1:]).statistics(content_hash)


def _write(statistics: DatasetStatistics, folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    write_text(os.path.join(folder, STATISTICS), sealed_text(statistics.model_dump_json(), indent=1))


@contextlib.contextmanager
def _unreadable(dataset: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an Arrow error, which Beam passes on as the text of a traceback, into an error with advice."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        if "pyarrow" not in reason:
            raise
        raise FlowloomError(
            f"{dataset}: the shards cannot be read ({reason}); find the damaged one with `flowloom verify`"
        ) from None


def _sources(dataset: str, folders: Sequence[tuple[str, str]]) -> dict[str, tuple[str, Any]]:
    """Returns, by folder of shards, its split and tfx-bsl's source of its rows."""
    try:
        from flowloom.trainers.native_logs import native_stderr_muted

        with native_stderr_muted():
            from tfx_bsl.tfxio.parquet_tfxio import ParquetTFXIO
    except ModuleNotFoundError as error:
        raise FlowloomError(f"statistics need {error.name}; install it with: pip install 'flowloom[train]'") from None
    return {
        folder: (split, ParquetTFXIO(f"{dataset}/{folder}/*.parquet").BeamSource(BATCH_ROWS))
        for split, folder in folders
    }
