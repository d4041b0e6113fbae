"""`flowloom describe --statistics`: quantiles, frequent values, counts and profiles of a dataset's rows."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from flowloom.pipelines.engines.embedded import EMBEDDED, running
from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.dataset.card_parts import Shard
from flowloom.schemas.dataset.dataset_card import DatasetCard, read_card
from flowloom.schemas.dataset.dataset_statistics import STATISTICS, DatasetStatistics, read_statistics
from flowloom.schemas.dataset.stored_files import check_shards
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import sealed_text
from flowloom.schemas.folder_lock import locked_output
from flowloom.transforms.inspection.dataset_sketch import DatasetSketch, merge_sketches
from flowloom.transforms.inspection.inspection_ptransforms import SketchRows
from flowloom.transforms.io.staging import temporary_folder

BATCH_ROWS = 16_384
"""Rows that are read at a time."""


def measure_statistics(dataset: str | os.PathLike[str], out: str | os.PathLike[str]) -> DatasetStatistics:
    """Measures the rows of a dataset's first view, writes `statistics.json` into a folder, and returns its content.

    One worker reads the shards of the card in order, so the same dataset gives the same bytes.

    Raises:
      FlowloomError: if there is no finished dataset, its shards cannot be read or do not have the rows of the card,
        another process writes into the folder, or TensorFlow, which tfx-bsl needs, is not installed.
    """
    card = read_card(dataset)
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    with locked_output(out):
        statistics = _measured(dataset, card)
        _write(statistics, os.fspath(out))
    return statistics


def _measured(dataset: str | os.PathLike[str], card: DatasetCard) -> DatasetStatistics:
    shards = [shard for shard in card.shards if shard.view == card.views[0]]
    check_shards(dataset, shards)
    with temporary_folder(None, "flowloom-describe") as scratch:
        sources = _sources(os.fspath(dataset), shards, scratch)
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


def _sources(dataset: str, shards: Sequence[Shard], scratch: str) -> dict[str, tuple[str, Any]]:
    """Returns, by folder of shards, its split and tfx-bsl's source of its rows.

    A source reads all files that match a pattern, so it gets a folder with links to the shards of the card alone.
    """
    try:
        from flowloom.trainers.native_logs import native_stderr_muted

        with native_stderr_muted():
            from tfx_bsl.tfxio.parquet_tfxio import ParquetTFXIO
    except ModuleNotFoundError as error:
        raise FlowloomError(f"statistics need {error.name}; install it with: pip install 'flowloom[train]'") from None
    sources: dict[str, tuple[str, Any]] = {}
    for shard in sorted(shards, key=lambda each: (each.split, each.path)):
        folder, name = os.path.split(shard.path)
        links = os.path.join(scratch, "shards", folder)
        os.makedirs(links, exist_ok=True)
        os.symlink(os.path.abspath(os.path.join(dataset, shard.path)), os.path.join(links, name))
        if folder not in sources:
            sources[folder] = shard.split, ParquetTFXIO(f"{links}/*").BeamSource(BATCH_ROWS)
    return sources
