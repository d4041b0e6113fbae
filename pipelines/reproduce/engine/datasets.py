"""Datasets of experiments, each built or combined once and found again by its sources."""

import glob
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.weave import WeaveOptions, weave
from flowloom.schemas.dataset.dataset_card import CARD, DatasetCard, read_card
from flowloom.schemas.progress import Progress
from flowloom.transforms.weave.weave_plans import WeaveRules

BUILD_RULES = 2
"""Version of what a build makes of a manifest; raise it when bytes of datasets change. 2: strict masks of payload."""


def built_once(
    name: str, manifest: dict[str, Any], folder: Path, progress: Callable[[Progress], None]
) -> tuple[Path, DatasetCard]:
    """Builds a dataset below a folder, unless the folder has it from the same manifest and the same files.

    Returns:
      its directory, whose name has a hash of manifest and files, and its card. The manifest lies beside it.
    """
    text = yaml.safe_dump(manifest, sort_keys=False)
    digest = hashlib.sha256("\n".join([str(BUILD_RULES), text, *_files(manifest)]).encode()).hexdigest()
    directory = folder / f"{name}-{digest[:12]}"
    if (directory / CARD).is_file():
        return directory, read_card(directory)
    progress(Progress(f"building {directory}", stays=True))
    path = directory.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    # published data sets lack classes, and users may have a part of their files; the build reports what is missing
    return directory, build(BuildOptions(path, directory, allow_empty=True), progress)


def with_split_seed(manifest: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Returns a manifest whose splits are drawn by a seed; splits by time have none and stay as they are."""
    if manifest["splits"]["by"] == "time":
        return dict(manifest)
    return {**manifest, "splits": {**manifest["splits"], "seed": seed}}


def test_per_train(cards: Sequence[DatasetCard]) -> float:
    """Returns the test rows per train row of datasets that split the same rows, as a mean (`intervals.mean_of`)."""
    ratios = [card.splits["test"].rows / card.splits["train"].rows for card in cards]
    return sum(ratios) / len(ratios)


def _files(manifest: Mapping[str, Any]) -> list[str]:
    """Returns path, size and modification time of all files that a manifest names, also in folders."""
    named = [entry[key] for entry in manifest["captures"] for key in ("path", "label_path", "glob") if key in entry]
    found = {Path(path) for name in named for path in (name, *glob.glob(name))}
    files = found | {path for folder in found if folder.is_dir() for path in folder.rglob("*")}
    states = ((path, path.stat()) for path in sorted(files) if path.is_file())
    return [f"{path} {state.st_size} {state.st_mtime_ns}" for path, state in states]


def merged_once(
    sources: tuple[Path, ...], rules: WeaveRules, directory: Path, progress: Callable[[Progress], None]
) -> DatasetCard:
    """Returns the card of a combined dataset; combines it unless it exists from sources of the same content."""
    contents = [read_card(source).content_hash for source in sources]
    if (directory / CARD).is_file():
        card = read_card(directory)
        if [source.content_hash for source in card.sources] == contents and card.layout == rules.layout:
            return card
        shutil.rmtree(directory)
    progress(Progress(f"weaving {directory}", stays=True))
    return weave(WeaveOptions(sources, directory, rules), progress)
