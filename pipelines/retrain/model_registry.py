"""Model registry: registers every version and the aliases champion and challenger in MLflow.

The state is authoritative and the registry follows it. If a run dies between the two, the next run catches up.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowloom.pipelines.tracking import mlflow_client
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.extras import require_installed
from flowloom.schemas.models.retrain_state import RUN, VERSIONS, RetrainState, Version

CHAMPION, CHALLENGER = "champion", "challenger"
NO_REGISTRY = "none"
VERSION_TAG = "flowloom.version"
MODEL_FILES = (
    "model.keras", "trees.npz", "recipe.json", "features.json", "source.json", "history.json", "profile.json",
    "run.json",
)  # fmt: skip
"""Files of a run that are logged: enough to score, export and evaluate; checkpoints stay in the run."""


def default_registry(state: str | os.PathLike[str]) -> str:
    """Returns the address of the registry inside a state: an SQLite file."""
    return f"sqlite:///{os.path.abspath(state)}/registry.db"


def require_mlflow() -> None:
    """Checks before a run that its result can be registered.

    Raises:
      FlowloomError: if a part of MLflow is not installed.
    """
    require_installed("the registry needs", ("mlflow", "sqlalchemy", "alembic"), "retrain", ", or add --registry none")


def publish(state: RetrainState, folder: str | os.PathLike[str], uri: str, name: str) -> None:
    """Registers the versions that the registry lacks, and sets the aliases; a second call changes nothing.

    Args:
      uri: `sqlite:///FILE`, or the address of a tracking server.
      name: the name of the registered model, and of the experiment of its runs.

    Raises:
      FlowloomError: if the registry cannot be reached or rejects the versions.
    """
    client, mlflow_error = mlflow_client(uri)
    root = Path(folder).resolve()
    try:
        known = _registered(client, name)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            # a server has its own place for artifacts; an SQLite file keeps them beside itself
            place = (root / "artifacts").as_uri() if uri.startswith("sqlite:") else None
            experiment_id = client.create_experiment(name, artifact_location=place)
        else:
            experiment_id = experiment.experiment_id
        for version in state.versions:
            if str(version.number) not in known:
                known[str(version.number)] = _register(client, name, experiment_id, root, version)
        if state.champion is not None:
            client.set_registered_model_alias(name, CHAMPION, known[str(state.champion)])
        if state.versions and not state.versions[-1].verdict.promoted:
            client.set_registered_model_alias(name, CHALLENGER, known[str(state.versions[-1].number)])
        else:
            client.delete_registered_model_alias(name, CHALLENGER)
    except mlflow_error as error:
        raise FlowloomError(
            f"{uri}: the registry rejected the versions ({str(error).splitlines()[0]}); they are safe in the state, "
            "and the next run registers them"
        ) from None


def _registered(client: Any, name: str) -> dict[str, str]:
    """Returns the registry's version numbers by those of the state; creates the model if it is missing."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.search_model_versions(f"name = '{name}'")
    return {each.tags[VERSION_TAG]: each.version for each in found if VERSION_TAG in each.tags}


def _register(client: Any, name: str, experiment_id: str, root: Path, version: Version) -> str:
    """Logs a version as a run with files and metrics, registers it, and returns the registry's number."""
    run = client.create_run(experiment_id, run_name=f"version {version.number}")
    run_id = run.info.run_id
    trained = root / VERSIONS / f"{version.number:04d}" / RUN
    for file in MODEL_FILES:
        if (trained / file).is_file():
            client.log_artifact(run_id, str(trained / file), RUN)
    for key, text in _params(version).items():
        client.log_param(run_id, key, text)
    for key, value in _metrics(version).items():
        client.log_metric(run_id, key, value)
    client.set_terminated(run_id)
    tags = {
        VERSION_TAG: str(version.number),
        "flowloom.content_hash": version.content_hash,
        "flowloom.verdict": "promoted" if version.verdict.promoted else "kept the champion",
    }
    source = f"{run.info.artifact_uri}/{RUN}"
    registered = client.create_model_version(
        name, source=source, run_id=run_id, tags=tags, description="; ".join(version.verdict.reasons)
    )
    return registered.version


def _params(version: Version) -> Mapping[str, str]:
    return {
        "recipe": version.recipe,
        "start": version.start,
        "captures": str(version.captures),
        "content_hash": version.content_hash,
    }


def _metrics(version: Version) -> dict[str, float]:
    return {
        f"{rows}_auc_{task}": figures.challenger
        for rows, by_task in (("frozen", version.frozen), ("newest", version.newest))
        for task, figures in by_task.items()
        if figures.challenger is not None
    }
