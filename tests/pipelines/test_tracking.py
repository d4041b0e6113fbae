"""Trackers of trainings: every epoch is logged once, whatever stops a training or a server."""

import json

import pytest
import tensorflow as tf
from stored_datasets import labelled_flows, random_labels, store_dataset

from flowloom.pipelines import tracking
from flowloom.pipelines.tracking import mlflow_client, tracked
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.trainers.training.train import TrainOptions, train

EVENTS = "tensorboard/events.out.tfevents.flowloom"


def record(epoch):
    return {"epoch": epoch, "steps": 4, "loss": {"app": 1.5 / epoch}, "validation_auc": {"app": None, "mal": 0.5}}


def after(run, epochs, show):
    """Tells of the last epoch, as a training does when its record is written."""
    (run / "history.json").write_text(json.dumps([record(epoch) for epoch in range(1, epochs + 1)]))
    show(Progress("", event="epoch", stays=True))


def logged(path):
    """Returns {(name, epoch): value} of an event file."""
    found = {}
    for content in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(content.numpy())
        found |= {(each.tag, event.step): each.simple_value for each in event.summary.value}
    return found


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps({"name": "multa", "feed": {"k": 20, "augment": {"start": 0}}}))
    return folder


def test_tensorboard_has_the_numbers_of_every_epoch(run):
    after(run, 2, tracked(ignore_progress, run, ["tensorboard"]))
    assert logged(run / EVENTS) == {
        ("steps", 1): 4, ("loss/app", 1): 1.5, ("validation_auc/mal", 1): 0.5,
        ("steps", 2): 4, ("loss/app", 2): 0.75, ("validation_auc/mal", 2): 0.5,
    }  # fmt: skip


def test_a_continued_training_only_adds_to_the_event_file(run):
    after(run, 2, tracked(ignore_progress, run, ["tensorboard"]))
    before = (run / EVENTS).read_bytes()
    after(run, 3, tracked(ignore_progress, run, ["tensorboard"]))
    grown = (run / EVENTS).read_bytes()
    assert grown.startswith(before)
    assert len(grown) > len(before)


def test_mlflow_has_one_run_whatever_stops_it(run, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/tracking.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for epochs in (1, 3):
        after(run, epochs, tracked(ignore_progress, run, ["mlflow"]))
    client, _ = mlflow_client(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("flowloom").experiment_id])
    assert found.info.run_name == "run"
    assert found.data.params == {"name": "multa", "feed.k": "20", "feed.augment": '{"start": 0}'}
    losses = client.get_metric_history(found.info.run_id, "loss/app")
    assert [(each.step, each.value) for each in losses] == [(1, 1.5), (2, 0.75), (3, 0.5)]


def test_a_tracker_that_fails_is_a_warning_and_catches_up(run, monkeypatch):
    told, taken, fails = [], [], [True, False]

    def track(run, history):
        if fails.pop(0):
            raise ConnectionError("the server is away\nin detail")
        taken.append(len(history))

    monkeypatch.setitem(tracking.TRACKERS, "mlflow", lambda: track)
    show = tracked(told.append, run, ["mlflow"])
    after(run, 1, show)
    after(run, 2, show)
    warnings = [each.text for each in told if each.event == "warning"]
    assert warnings == ["mlflow did not take epoch 1 (the server is away); the next epoch sends it again"]
    assert taken == [2]


def test_a_training_tells_its_tracker_of_every_epoch(tmp_path):
    flows = labelled_flows(80, {"app": random_labels(80, 2, 0, 1)})
    task = Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))
    dataset = store_dataset(tmp_path / "dataset", flows, [task])
    run = tmp_path / "trained"
    options = TrainOptions(dataset, run, "multa", ("k=8", "units=2", "batch_size=32", "epochs=2"))
    train(options, tracked(ignore_progress, run, ["tensorboard"]))
    history = json.loads((run / "history.json").read_bytes())
    losses = {step: value for (name, step), value in logged(run / EVENTS).items() if name == "loss/app"}
    assert losses == {each["epoch"]: pytest.approx(each["loss"]["app"]) for each in history}


def test_an_unknown_tracker_is_refused(run):
    with pytest.raises(FlowloomError, match="track must be one of tensorboard, mlflow, got 'mlfow'; did you mean"):
        tracked(ignore_progress, run, ["mlfow"])
