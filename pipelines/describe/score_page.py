"""The page of scores: predicted classes, probabilities, skew, rejects and captures, drawn from the card alone."""

import os
from typing import Any

import pyarrow as pa

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, REJECTS_TABLE
from flowloom.schemas.models.score_card import PROBABILITY_BINS, SCORE_PAGE, ScoreCard, read_scores
from flowloom.schemas.parquet_files import read_table
from flowloom.trainers.evaluation.pages import rendered

TEMPLATE = "score_page.html.j2"
SHOWN_CAPTURES, SHOWN_REJECTS = 200, 50
"""Most rows of the tables of captures and of rejects on the page."""

_UNITS = {"flows": "flow", "packets": "packet", "tables": "row"}
_REASONS = {
    "unknown-feature": "the row lacks a column that the model reads",
    "empty": "the flow has no packets",
    "malformed": "the flow's sequences have different lengths",
    "not-finite": "a feature or a predicted probability is infinite or NaN",
    "repeated": "an earlier row has the same id",
    "unreadable": "the row group cannot be read",
}


def write_score_page(folder: str | os.PathLike[str]) -> str:
    """Writes `report.html` into a folder of scores and returns its path.

    Raises:
      FlowloomError: if the folder has no scores, or Jinja is not installed.
    """
    card = read_scores(folder)
    captures = read_table(os.path.join(folder, CAPTURES_TABLE))
    rejects = read_table(os.path.join(folder, REJECTS_TABLE))
    path = os.path.join(folder, SCORE_PAGE)
    write_text(path, render_scores(card, captures, rejects))
    return path


def render_scores(card: ScoreCard, captures: pa.Table, rejects: pa.Table) -> str:
    """Returns the page, whose size does not depend on the number of rows.

    Args:
      card: the card of the scores.
      captures: the captures table beside it.
      rejects: the rejects table beside it.
    """
    return rendered(
        __package__,
        TEMPLATE,
        {},
        card=card,
        unit=_UNITS[card.model.view],
        tasks=[_task(card, task) for task in card.model.tasks],
        reasons=_REASONS,
        bins=PROBABILITY_BINS,
        captures=[_capture(row) for row in captures.slice(0, SHOWN_CAPTURES).to_pylist()],
        captures_omitted=max(0, captures.num_rows - SHOWN_CAPTURES),
        rejects=rejects.slice(0, SHOWN_REJECTS).to_pylist(),
        rejects_omitted=max(0, rejects.num_rows - SHOWN_REJECTS),
    )


def _task(card: ScoreCard, task: str) -> dict[str, Any]:
    """Returns the classes of a task, the most frequent first, with the shares of the bins in the largest one."""
    counts = card.classes[task]
    probabilities = card.probabilities.get(task, {})
    classes = []
    for value in sorted(counts, key=lambda each: -counts[each]):
        found = probabilities.get(value)
        largest = max(found.bins, default=0) if found else 0
        heights = [rows / largest for rows in found.bins] if found and largest else []
        classes.append({"value": value, "rows": counts[value], "found": found, "heights": heights})
    skew = next((each for each in card.skew.classes if each.name == task), None) if card.skew else None
    return {"name": task, "classes": classes, "most": max([1, *counts.values()]), "skew": skew}


def _capture(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of the table of captures: counts, and the seconds from first to last packet."""
    dropped = {reason.label: row[reason.column] for reason in DropReason if row.get(reason.column)}
    known = row["first_ns"] is not None
    return {
        "uri": row["uri"],
        "records": row["records"],
        "metered": row["metered"],
        "dropped": dropped,
        "seconds": (row["last_ns"] - row["first_ns"]) / 1e9 if known else None,
    }
