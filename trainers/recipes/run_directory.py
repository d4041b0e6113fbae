"""Run directories: recipe, data, history and model of a training, complete if and only if run.json exists."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Self

import keras
import pydantic

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import check_digest, file_sha256, unsealed
from flowloom.schemas.models.feature_profile import PROFILE
from flowloom.trainers.models.protocol import MultiTaskModel
from flowloom.trainers.recipes import builders  # noqa: F401 - registers the model classes with Keras, which loads them
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.row_specs import ROW_SPECS, AnyRowSpec
from flowloom.trainers.trees.tree_model import TREES, TreeModel

RECIPE = "recipe.json"
FEATURES = "features.json"
SOURCE = "source.json"
HISTORY = "history.json"
CHECKPOINTS = "checkpoints"
MODEL = "model.keras"
PRETRAINED = "pretrained"
LATECOMERS = "latecomers.json"
SYNTHETIC = "made.parquet"
TUNING = "tuning"
FINISHED = "run.json"
METRICS = "metrics.json"
REPORT = "report.html"
_DIGESTED = (RECIPE, FEATURES, SOURCE, HISTORY, MODEL, TREES, PROFILE, LATECOMERS, SYNTHETIC)
_REMEDY = "restore the run from a copy, or train it again in another directory"


class TrainingData(pydantic.BaseModel):
    """The dataset of a run, and the parts of its card that scoring needs."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    path: str
    """Absolute path at the time of the training."""
    name: str
    content_hash: str
    definition: FlowDefinition
    tasks: tuple[Task, ...]

    @classmethod
    def of(cls, path: Path, card: DatasetCard) -> Self:
        """Returns the training data of a dataset at a path."""
        return cls(
            path=str(path.resolve()),
            name=card.name,
            content_hash=card.content_hash,
            definition=card.definition,
            tasks=card.tasks,
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, opened with `Run.open`."""

    root: Path
    recipe: Recipe
    features: AnyRowSpec
    source: TrainingData
    history: list[dict[str, Any]]
    summary: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Reads a finished run.

        Raises:
          FlowloomError: if the directory holds no run, an unfinished run, or a damaged run.
        """
        root = Path(path)
        if not (root / FINISHED).is_file():
            if (root / RECIPE).is_file():
                raise FlowloomError(
                    f"run {root} is not finished; repeat the `flowloom train` command that started it to continue"
                )
            raise FlowloomError(f"{root} is not a run, as {FINISHED} is missing; make one with `flowloom train`")
        try:
            summary = unsealed(json.loads((root / FINISHED).read_bytes()), root / FINISHED, _REMEDY)
            for name in (RECIPE, FEATURES, SOURCE, HISTORY):
                check_digest(root / name, summary.get("files", {}).get(name), _REMEDY)
            recipe = Recipe.model_validate_json((root / RECIPE).read_bytes())
            return cls(
                root,
                recipe,
                ROW_SPECS[recipe.view].model_validate_json((root / FEATURES).read_bytes()),
                TrainingData.model_validate_json((root / SOURCE).read_bytes()),
                json.loads((root / HISTORY).read_bytes()),
                summary,
            )
        except FlowloomError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FlowloomError(f"run {root} is damaged ({error}); train it again in another directory") from None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the model, in the order of its dataset."""
        return self.source.tasks

    def sha256(self, name: str) -> str | None:
        """Returns the recorded SHA-256 of a file; None if the run, of version 0.1, or the file has none."""
        return self.summary.get("files", {}).get(name)

    def checked(self, name: str) -> Path:
        """Returns a file of the run, after a check of its digest.

        Raises:
          FlowloomError: if it has another digest than when the training ended.
        """
        check_digest(self.root / name, self.sha256(name), _REMEDY)
        return self.root / name

    def load_model(self) -> MultiTaskModel | TreeModel:
        """Returns the trained model: a network, or trees.

        Raises:
          FlowloomError: if the file is missing or damaged.
        """
        if self.recipe.model.is_trees:
            classes = {task.name: len(task.vocabulary) for task in self.tasks}
            return TreeModel.load(self.checked(TREES), self.features, classes)
        path = self.checked(MODEL)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # of zip, JSON, HDF5 and Keras: damage has many kinds
            raise FlowloomError(f"model {self.root / MODEL} cannot be read ({error}); train it again") from None


def digests(root: Path) -> dict[str, str]:
    """Returns the SHA-256 of the files of a run that are read again, by name."""
    return {name: file_sha256(root / name) for name in _DIGESTED if (root / name).is_file()}
