"""Results of jobs as events for logs: captures, shards, cards, drift and verdicts (`--log-format json`)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, REJECTS_TABLE, DatasetCard
from flowloom.schemas.models.retrain_state import Version
from flowloom.schemas.progress import Event, Progress


def report_files(
    folder: str | os.PathLike[str], card: DatasetCard, progress: Callable[[Progress], None], place: str
) -> None:
    """Reports the metered captures, the rejects and the shards of a dataset, one event each.

    Args:
      folder: where the dataset lies now.
      place: where it will be, for messages.
    """
    for row in _rows(Path(folder) / CAPTURES_TABLE, ("uri", "records", "metered", "rejects")):
        progress(_event("capture", f"metered {row['uri']}", row))
    for row in _rows(Path(folder) / REJECTS_TABLE, ("uri", "offset", "reason", "detail")):
        progress(_event("reject", f"{row['uri']}: {row['reason']}: {row['detail']}", row))
    for shard in card.shards:
        facts = {"path": shard.path, "rows": shard.rows, "sha256": shard.sha256}
        progress(_event("shard", f"wrote {place}/{shard.path}", facts))


def card_event(place: str | os.PathLike[str], card: DatasetCard) -> Progress:
    """Returns the event of a finished dataset."""
    account = card.accounting
    facts = {
        "place": os.fspath(place),
        "content_hash": card.content_hash,
        "rows": {split: counts.rows for split, counts in card.splits.items()},
        "captures": account.captures,
        "flows": account.flows,
        "rejects": account.rejects,
    }
    return _event("card", f"wrote the card of {os.fspath(place)}", facts)


def report_version(version: Version, progress: Callable[[Progress], None]) -> None:
    """Reports the drift of the new data and the verdict on a challenger."""
    if version.drift is not None:
        skewed = list(version.drift.skewed)
        text = f"drifted: {', '.join(skewed)}" if skewed else "no feature has drifted"
        progress(_event("drift", text, {"version": version.number, "drifted": skewed}))
    facts = {"version": version.number, "promoted": version.verdict.promoted, "reasons": list(version.verdict.reasons)}
    progress(_event("verdict", "; ".join(version.verdict.reasons), facts))


def _event(kind: Event, text: str, facts: dict[str, Any]) -> Progress:
    return Progress(text, event=kind, facts=facts)


def _rows(table: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    return pq.ParquetFile(table).read(columns=list(columns)).to_pylist() if table.is_file() else []
