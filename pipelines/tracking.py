"""Trackers of trainings: the records of all epochs as event files of TensorBoard, or in MLflow."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowloom.schemas.atomic_files import write_json
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.extras import require_installed
from flowloom.schemas.progress import Progress

Track = Callable[[Path, Sequence[Mapping[str, Any]]], None]
"""Function of a run directory and the records of its epochs so far; a second call with the same adds nothing."""

EXPERIMENT = "flowloom"
"""MLflow's experiment of all trainings."""
_EVENTS = "tensorboard/events.out.tfevents.flowloom"
_MLFLOW = "mlflow.json"


def tracked(progress: Callable[[Progress], None], run: Path, names: Sequence[str]) -> Callable[[Progress], None]:
    """Returns a progress function of a training that also passes its history to trackers, after every epoch.

    A continued training is tracked as if it had never stopped. A tracker that fails is reported as a warning and gets
    all records again after the next epoch, because a training must not end with its tracking server.

    Args:
      progress: called with every progress.
      run: the run directory.
      names: `tensorboard` or `mlflow`, or both.

    Raises:
      FlowloomError: if a name is unknown, or the library or the server of a tracker is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise FlowloomError(
                f"track must be one of {', '.join(TRACKERS)}, got {name!r}{did_you_mean(name, TRACKERS)}"
            )
    trackers = {name: TRACKERS[name]() for name in dict.fromkeys(names)}

    def show(each: Progress) -> None:
        progress(each)
        if each.event != "epoch" or not (run / "history.json").is_file():  # a transfer trains another run first
            return
        history = json.loads((run / "history.json").read_bytes())
        for name, track in trackers.items():
            try:
                track(run, history)
            except Exception as error:  # of files, networks and servers
                reason = (str(error) or type(error).__name__).splitlines()[0]
                text = f"{name} did not take epoch {len(history)} ({reason}); the next epoch sends it again"
                progress(Progress(text, stays=True, event="warning"))

    return show


def tensorboard_tracker() -> Track:
    """Returns a tracker that writes RUN/tensorboard, with epochs as steps; it needs TensorFlow alone."""

    def track(run: Path, history: Sequence[Mapping[str, Any]]) -> None:
        import tensorflow as tf
        from tensorflow.core.framework.summary_pb2 import Summary
        from tensorflow.core.util.event_pb2 import Event

        path = run / _EVENTS
        path.parent.mkdir(exist_ok=True)
        # the same records give the same bytes, so that a reader that follows the file sees only new ones
        with tf.io.TFRecordWriter(str(path)) as events:
            events.write(Event(file_version="brain.Event:2").SerializeToString())
            for record in history:
                values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars(record)]
                event = Event(step=record["epoch"], summary=Summary(value=values))
                events.write(event.SerializeToString())

    return track


def mlflow_tracker() -> Track:
    """Returns a tracker that logs to the server of MLFLOW_TRACKING_URI, or else to MLflow's default store.

    Raises:
      FlowloomError: if MLflow is not installed, or does not answer.
    """
    require_installed("tracking with MLflow needs", ("mlflow", "sqlalchemy", "alembic"), "retrain")
    client, mlflow_error = mlflow_client()
    try:
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
    except (mlflow_error, OSError) as error:
        raise FlowloomError(
            f"MLflow does not answer ({str(error).splitlines()[0]}); check MLFLOW_TRACKING_URI"
        ) from None

    def track(run: Path, history: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric, Param

        state = run / _MLFLOW
        if state.is_file():
            logged = json.loads(state.read_bytes())
        else:
            run_id = client.create_run(experiment, run_name=run.name).info.run_id
            settings = _flat("", json.loads((run / "recipe.json").read_bytes()))
            client.log_batch(run_id, params=[Param(name, value[:6000]) for name, value in settings])
            logged = {"run_id": run_id, "epochs": 0}
            write_json(state, logged)
        for record in history[logged["epochs"] :]:
            metrics = [Metric(name, value, record["epoch"], record["epoch"]) for name, value in scalars(record)]
            client.log_batch(logged["run_id"], metrics=metrics)
        write_json(state, {**logged, "epochs": len(history)})

    return track


TRACKERS: dict[str, Callable[[], Track]] = {"tensorboard": tensorboard_tracker, "mlflow": mlflow_tracker}
"""Makers of trackers by name."""


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields the numbers of an epoch's record by name, such as `validation_auc/app`, without unknown ones."""
    for name, value in record.items():
        values = (
            {f"{name}/{task}": each for task, each in value.items()} if isinstance(value, Mapping) else {name: value}
        )
        for key, each in values.items():
            if isinstance(each, int | float) and name != "epoch":
                yield key, float(each)


def mlflow_client(uri: str | None = None) -> tuple[Any, type[Exception]]:
    """Returns a client of MLflow that prints and reports nothing, and the class of its errors.

    Args:
      uri: of the server; None for the one of MLFLOW_TRACKING_URI.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report every run to MLflow
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
    import mlflow
    import mlflow.exceptions

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri), mlflow.exceptions.MlflowException


def _flat(prefix: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the settings of a recipe by `section.key`, as JSON."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and not prefix:
            yield from _flat(f"{key}.", value)
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)
