"""`flowloom describe --statistics`: the rows of a dataset as quantiles, frequent values, counts and profiles."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from flowloom.pipelines.engines.embedded import EMBEDDED, start_pipeline
from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.dataset.dataset_card import DatasetCard, read_card
from flowloom.schemas.dataset.dataset_statistics import STATISTICS, DatasetStatistics, read_statistics
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.inspection.dataset_sketch import DatasetSketch, merge_sketches
from flowloom.transforms.inspection.inspection_ptransforms import SketchRows

BATCH_ROWS = 16_384
"""Rows that are described at a time."""


def measure_statistics(dataset: str | os.PathLike[str], out: str | os.PathLike[str]) -> DatasetStatistics:
    """Describe the rows of a dataset's first view, write `statistics.json` into a folder, and return what it says.

    One worker reads the shards in their order, so the same dataset gives the same bytes.

    Raises:
      FlowloomError: if there is no finished dataset, its shards cannot be read or have other rows than the card says,
        or TensorFlow, which tfx-bsl reads with, is not installed.
    """
    card = read_card(dataset)
    shards = (shard for shard in card.shards if shard.view == card.views[0])
    folders = sorted({(shard.split, os.path.dirname(shard.path)) for shard in shards})
    sources = _sources(os.fspath(dataset), folders)
    with tempfile.TemporaryDirectory(prefix="flowloom-describe-") as scratch:
        with _unreadable(dataset), start_pipeline(EMBEDDED, 1, ()) as pipeline:
            # a sketch for each folder: where rows of several meet, the runner holds all of them in memory
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
    rows_told = {split: counts.rows for split, counts in card.splits.items()}
    if statistics.rows != rows_told:
        raise FlowloomError(
            f"the shards of {dataset} have other rows than its card says: found {statistics.rows}, expected "
            f"{rows_told}; see what differs with `flowloom verify`"
        )
    _write(statistics, os.fspath(out))
    return statistics


def _sketched(card: DatasetCard, split: str) -> beam.PTransform:
    return beam.CombineGlobally(SketchRows(card, split))


def _merged(content_hash: str, *sketches: DatasetSketch) -> DatasetStatistics:
    return merge_sketches(sketches[0], sketches[1:]).statistics(content_hash)


def _write(statistics: DatasetStatistics, folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    write_text(os.path.join(folder, STATISTICS), statistics.model_dump_json(indent=1) + "\n")


@contextlib.contextmanager
def _unreadable(dataset: str | os.PathLike[str]) -> Iterator[None]:
    """Say of an Arrow error, which Beam passes on as the text of a traceback, what to do."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        if "pyarrow" not in reason:
            raise
        raise FlowloomError(
            f"the shards of {dataset} cannot be read ({reason}); see which one is damaged with `flowloom verify`"
        ) from None


def _sources(dataset: str, folders: Sequence[tuple[str, str]]) -> dict[str, tuple[str, Any]]:
    """Return by folder of shards its split, and tfx-bsl's source of its rows."""
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
