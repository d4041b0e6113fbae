"""Run directories around models that were never trained, for tests of what comes after training."""

import keras
import numpy as np

from flowloom.schemas.atomic_files import write_json
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import TrainingData

K, CHANNELS = 4, ("size", "direction", "gap")
TASKS = (
    Task(name="app", kind="multiclass", vocabulary=("chat", "voip", "web")),
    Task(name="attack", kind="binary"),
)
CLASSES = {task.name: len(task.vocabulary) for task in TASKS}


def write_run(root, model, tasks=TASKS):
    """Writes a model as a finished run, its weights unlike the first ones."""
    generator = np.random.default_rng(4)
    for variable in model.trainable_variables:
        variable.assign_add(generator.normal(0, 0.3, variable.shape).astype(np.float32))
    root.mkdir()
    documents = {
        "recipe.json": Recipe.named("multa", [f"k={K}", "scaling=fixed"]),
        "features.json": FeatureSpec(k=K, channels=CHANNELS, scaling="fixed"),
        "source.json": TrainingData(
            path="/x", name="x", content_hash="0" * 64, definition=FlowDefinition(k=K), tasks=tasks
        ),
    }
    for name, document in documents.items():
        (root / name).write_text(document.model_dump_json())
    write_json(root / "history.json", [])
    write_json(root / "run.json", {})
    model.save(root / "model.keras")
    return root


def flows(rows=24, seed=0):
    """Returns flows of every length, as a model takes them."""
    generator = np.random.default_rng(seed)
    length = (np.arange(rows) % K + 1).astype(np.int32)
    sequence = generator.normal(size=(rows, K, len(CHANNELS))).astype(np.float32)
    sequence[np.arange(K)[None, :] >= length[:, None]] = 0
    return {"sequence": sequence, "length": length}


def furthest(said, expected):
    """Returns how far the probabilities of two answers are apart at most."""
    assert set(said) == set(expected)
    return max(float(np.max(np.abs(np.asarray(said[task]) - np.asarray(expected[task])))) for task in expected)


def seeded(make, *arguments, **settings):
    """Returns a model of always the same first weights."""
    keras.utils.set_random_seed(1)
    return make(*arguments, **settings)
