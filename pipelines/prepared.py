"""Datasets that an experiment needs: built once, and found again by what they were made of."""

from pathlib import Path
from typing import Any

import yaml

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.progress import ProgressDisplay
from flowloom.schemas.card import CARD, DatasetCard, read_card


def built_once(manifest: dict[str, Any], directory: Path, display: ProgressDisplay) -> DatasetCard:
    """Build a dataset, unless it is there from the same manifest, which stays beside it; return its card."""
    path = directory.with_suffix(".yaml")
    text = yaml.safe_dump(manifest, sort_keys=False)
    if (directory / CARD).is_file() and path.is_file() and path.read_text(encoding="utf-8") == text:
        return read_card(directory)
    display.line(f"building {directory}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return build(BuildOptions(path, directory), display.built)
