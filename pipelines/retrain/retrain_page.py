"""Report of one retraining run, as report.json and as a page."""

from pathlib import Path

from flowloom.pipelines.terminal.metrics_table import number
from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.models.retrain_state import REPORT_JSON, REPORT_PAGE, Version
from flowloom.trainers.evaluation.pages import rendered

TEMPLATE = "retrain.html.j2"
SHOWN_CAPTURES = 50


def write_report(version: Version, folder: Path) -> Path:
    """Writes `report.json` and `report.html` of a version into its folder, and returns the path of the page."""
    write_text(str(folder / REPORT_JSON), version.model_dump_json(indent=2) + "\n")
    page = rendered(__package__, TEMPLATE, {"auc": number}, version=version, shown_captures=SHOWN_CAPTURES)
    write_text(str(folder / REPORT_PAGE), page)
    return folder / REPORT_PAGE
