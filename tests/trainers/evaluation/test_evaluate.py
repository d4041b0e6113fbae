"""From a run to metrics.json and report.html, as a user would."""

import html.parser
import json
import shutil

import numpy as np
import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.evaluation import cost
from flowloom.trainers.evaluation.evaluate import EvaluateOptions, evaluate
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.training.train import TrainOptions, train

SMALL = ("k=8", "units=8", "tower=[4]", "learning_rate=0.01", "batch_size=64", "epochs=2")
COST = {"parameters": 1, "macs": 2, "inference_us": 3.0, "inference_p10_us": 2.0, "inference_cpu_us": 3.0, "repeats": 4}


@pytest.fixture(scope="module")
def run(synthetic, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "run"
    return train(TrainOptions(synthetic(), root, "multa", SMALL)).run


@pytest.fixture(scope="module")
def metrics(run):
    stages = []
    found = evaluate(EvaluateOptions(run), stages.append)
    assert len(stages) == 4
    return found


class Page(html.parser.HTMLParser):
    """The links, open tags and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_data(self, text):
        self.text += text


def test_metrics_have_the_documented_keys(run, metrics, synthetic):
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert set(metrics) == {"tasks", "mean_auc", "cost", "dataset", "split", "seed"}
    card = Dataset.open(synthetic()).card
    assert metrics["dataset"] == card.content_hash
    assert metrics["split"] == "test"
    for task, found in metrics["tasks"].items():
        assert {"auc", "accuracy", "macro_f1", "macro_recall", "support", "interval", "baselines"} <= set(found)
        assert found["support"] == sum(card.splits["test"].classes[task].values())
        assert found["interval"][0] <= found["auc"] <= found["interval"][1]
        assert set(found["baselines"]) == {"majority", "best_classical", "nearest_flows"}
        assert set(found["ceiling"]) == {"inputs", "without_gaps", "sizes_and_directions"}
        assert found["ceiling"]["inputs"]["accuracy"] >= found["accuracy"]
    assert metrics["mean_auc"] == pytest.approx(np.mean([found["auc"] for found in metrics["tasks"].values()]))


def test_cost_is_measured_in_a_separate_process(run, metrics):
    model = Run.open(run).load_model()
    assert metrics["cost"]["parameters"] == model.count_params()
    assert metrics["cost"]["macs"] == model.macs
    assert metrics["cost"]["repeats"] >= 200
    assert metrics["cost"]["inference_us"] > 0


def test_timing_takes_turns():
    calls = []
    taken = cost.time_interleaved([lambda: calls.append("a"), lambda: calls.append("b")], 3)
    assert calls == ["a", "b"] * 3
    assert taken.shape == (2, 3, 3)


def test_a_failed_measurement_gives_its_error(tmp_path):
    with pytest.raises(FlowloomError, match=r"measuring inference failed: .*is not a run"):
        cost.measure([tmp_path])


def test_the_report_is_self_contained_and_shows_the_metrics(run, metrics):
    text = (run / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert all(link.startswith("#") for link in page.links)
    for task, found in metrics["tasks"].items():
        assert task in page.text
        assert f"{found['auc']:.3f}" in page.text
        for word in found["classes"]:
            assert word in page.text
    assert text.count("<figure>") == 3 * 2 + 2, "ROC and precision-recall of three tasks, loss and validation AUC"
    assert metrics["dataset"][:12] in page.text
    assert "Validation ROC AUC after epoch" in page.text
    assert f"{np.mean(list(Run.open(run).history[1]['validation_auc'].values())):.4f}" in page.text
    assert "{{" not in text


def test_the_report_is_the_same_when_made_again(run, metrics, monkeypatch):
    monkeypatch.setattr(cost, "measure", lambda runs: [metrics["cost"]])
    before = (run / "report.html").read_bytes()
    assert evaluate(EvaluateOptions(run)) == metrics
    assert (run / "report.html").read_bytes() == before


def test_few_and_absent_classes_give_warnings(synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "measure", lambda runs: [COST])
    path = synthetic(layout="rainbow", rows=(200, 40, 1))
    summary = train(TrainOptions(path, tmp_path / "run", "lstm", (*SMALL, "epochs=1")))
    found = evaluate(EvaluateOptions(summary.run))
    assert found["mean_auc"] is None
    said = Page((summary.run / "report.html").read_text()).text
    assert "attack: the ROC AUC is undefined, because no row of the split has a label of this task" in said
    assert "app: the test split has fewer than 30 flows of" in said
    head = said[: said.index("Before you rely on these metrics")]
    assert "Faults of the dataset" in head
    assert "task 'app': the test split has no row of" in head
    assert "All tasks share a single expert" in said


def test_label_values_are_escaped(run, metrics, monkeypatch, tmp_path, synthetic):
    """Labels values come from users and may contain markup, in tables and in figures."""
    monkeypatch.setattr(cost, "measure", lambda runs: [COST])
    data, copy = tmp_path / "data", tmp_path / "run"
    shutil.copytree(synthetic(), data)
    shutil.copytree(run, copy)
    for file in (data / "dataset.json", copy / "source.json", copy / "run.json"):
        document = json.loads(file.read_text().replace('"chat"', '"<i>$x$&"'))
        document.pop("document_sha256", None)  # as of 0.1, which recorded no digests
        document.pop("files", None)
        file.write_text(json.dumps(document))
    evaluate(EvaluateOptions(copy, dataset=data))
    text = (copy / "report.html").read_text()
    assert "<i>$x" not in text
    assert "&lt;i&gt;$x$&amp;" in text
    assert not Page(text).open


def test_a_dataset_that_does_not_fit_is_refused(run, tmp_path, synthetic):
    def changed(name, old, new):
        shutil.copytree(synthetic(), tmp_path / name)
        card = tmp_path / name / "dataset.json"
        assert old in card.read_text()
        card.write_text(card.read_text().replace(old, new))
        return EvaluateOptions(run, dataset=tmp_path / name)

    with pytest.raises(FlowloomError, match="evaluate on a dataset with the same tasks"):
        evaluate(changed("words", '"voip"', '"phone"'))
    with pytest.raises(FlowloomError, match=r"must keep 8 packets per flow for the model of run .* got 7"):
        evaluate(changed("short", '"k":12', '"k":7'))
    with pytest.raises(FlowloomError, match=r"must have the flow definition of run .* differs in size;"):
        evaluate(changed("sizes", '"size":"ip"', '"size":"wire"'))
    with pytest.raises(FlowloomError, match="has no split 'tset'"):
        evaluate(EvaluateOptions(run, split="tset"))


def test_no_run_and_a_damaged_run_are_refused(run, tmp_path):
    with pytest.raises(FlowloomError, match=r"is not a run, as run\.json is missing"):
        evaluate(EvaluateOptions(tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for digests, bad_features, bad_model in (
        (True, r"features\.json must have the SHA-256", r"model\.keras must have the SHA-256"),
        (False, "is damaged", "cannot be read"),  # as in runs of 0.1
    ):
        if not digests:
            (copy / "run.json").write_text("{}")
        (copy / "features.json").write_text("{")
        with pytest.raises(FlowloomError, match=bad_features):
            Run.open(copy)
        shutil.copy(run / "features.json", copy)
        (copy / "model.keras").write_bytes(b"not a model")
        with pytest.raises(FlowloomError, match=bad_model):
            Run.open(copy).load_model()


def test_gate_weights_are_means_over_the_split(run, synthetic):
    from flowloom.trainers.evaluation.evaluate import mean_gate_weights
    from flowloom.trainers.feed.feed import Feed

    opened = Run.open(run)
    dataset = Dataset.open(synthetic())
    feed = Feed(dataset, "test", opened.features, 16)
    sequence, length, _ = feed.tensors(0, 0)
    model = opened.load_model()
    assert isinstance(model, LMMoE)
    for task, weights in mean_gate_weights(model, feed).items():
        expected = np.mean(model.gates({"sequence": sequence, "length": length})[task], axis=0)
        np.testing.assert_allclose(weights, expected, rtol=1e-5)
