"""One inference of three tasks: mixtures of experts beside three LSTMs, experts apart and fused, in three runtimes.

All actions of a line's runtime and form were timed turn by turn in one process and thread at batch 1, so that lines of
one runtime and form compare architectures, and lines of one architecture compare forms or runtimes.
"""

import importlib.util
import itertools
from pathlib import Path

from measure import report, workplace

from flowloom.schemas.atomic_files import write_json
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.evaluation import cost
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import TrainingData

K = 20
TASKS = tuple(Task(name=name, kind="binary") for name in ("a", "b", "c"))
RUNTIMES = ("tensorflow", "litert", *(["onnx"] if importlib.util.find_spec("tf2onnx") else []))
UNITS, EXPERTS = (16, 32), (1, 2, 3)


def main() -> None:
    """Prints what each action costs."""
    with workplace() as folder:
        actions: dict[str, list[Path]] = {}
        for units in UNITS:
            for experts in EXPERTS:
                name = f"lmmoe E={experts} H={units}"
                actions[name] = [_write_run(folder / name, TASKS, experts, units)]
            singles = f"3 lstms H={units}"
            actions[singles] = [_write_run(folder / f"{singles} {task.name}", (task,), 1, units) for task in TASKS]
        for runtime, form in itertools.product(RUNTIMES, ("trained", "fused")):
            for name, found in zip(actions, cost.measure(list(actions.values()), runtime, form), strict=True):
                report(name, **found)


def _write_run(root: Path, tasks: tuple[Task, ...], experts: int, units: int) -> Path:
    """Writes an untrained model as a run; what it says does not change what it costs."""
    features = FeatureSpec(k=K, channels=Recipe(name="multa").feed.channels, scaling="fixed")
    classes = {task.name: len(task.vocabulary) for task in tasks}
    documents = {
        "recipe.json": Recipe.named("multa", ["scaling=fixed"]),
        "features.json": features,
        "source.json": TrainingData(path="", name="", content_hash="", definition=FlowDefinition(k=K), tasks=tasks),
    }
    root.mkdir()
    for name, document in documents.items():
        (root / name).write_text(document.model_dump_json())
    write_json(root / "history.json", [])
    write_json(root / "run.json", {})
    LMMoE(K, len(features.features), classes, experts, units, "mean").save(root / "model.keras")
    return root


if __name__ == "__main__":
    main()
