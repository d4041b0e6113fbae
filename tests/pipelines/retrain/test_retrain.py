"""Retraining: the grown dataset equals one built at once, however a run ends, and champions follow the rule."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from daily_traffic import MANIFEST, WITH_FLOODS, packets, write_day
from hypothesis import given
from hypothesis import strategies as st

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.retrain import retrain as retraining
from flowloom.pipelines.retrain.continuity import check_continues, check_gone, check_manifest
from flowloom.pipelines.retrain.retrain import RetrainOptions, retrain, rollback
from flowloom.schemas.arrow.rows import FLOW_IDS
from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.folder_lock import locked_folder
from flowloom.schemas.models.feature_profile import FeatureProfile
from flowloom.schemas.models.retrain_state import Figures, Promotion, PromotionRule, RetrainState, read_state
from flowloom.transforms.captures.groups import match_sources
from flowloom.transforms.captures.inventory import find_captures

pytestmark = pytest.mark.timeout(900)

RULE = PromotionRule(margin=0.02, max_drop=0.05)


class FakeTrainers:
    """Replacement of the trainers: a run is a file, and the test sets its AUC."""

    def __init__(self, monkeypatch):
        trainers = pytest.importorskip("flowloom.trainers.training.challenger", exc_type=ImportError)
        self.auc = 0.9
        self.killed_in = ""
        self.known: dict[str, float] = {}
        for name in ("train_challenger", "compare", "profiles"):
            monkeypatch.setattr(trainers, name, getattr(self, name))

    def train_challenger(self, recipe, dataset, run, champion, progress):
        assert read_card(dataset).splits["train"].rows
        run.mkdir()
        (run / "model").write_text("half")
        if self.killed_in == "training":
            raise KeyboardInterrupt
        self.known[str(run)] = self.auc
        return SimpleNamespace(run=run), "warm" if champion else "fresh", "fake"

    def compare(self, champion, challenger, datasets):
        figures = {}
        for place in datasets:
            card = read_card(place)
            assert set(card.splits) in ({"test"}, {"train", "validation", "test"})
            for task in card.tasks:
                figures[task.name] = Figures(
                    rows=card.splits["test"].rows,
                    champion=champion and self.known[str(champion)],
                    challenger=self.known[str(challenger)],
                )
        return figures

    def profiles(self, champion, newest):
        assert read_card(newest).splits["train"].rows
        return


@pytest.fixture
def trainers(monkeypatch) -> FakeTrainers:
    return FakeTrainers(monkeypatch)


@pytest.fixture
def corpus(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "corpus.yaml").write_text(MANIFEST)
    return tmp_path


TRAFFIC = {kind: packets(kind, 4) for kind in ("web", "ssh")}


def arrive(corpus: Path, day: int) -> None:
    for kind, frames in TRAFFIC.items():
        write_day(corpus / "in", kind, frames, day)


def run(corpus: Path, **changed):
    options = {"manifest": corpus / "corpus.yaml", "registry": "none", "workers": 1, **changed}
    return retrain(RetrainOptions(corpus / "state", **options))


def scratch_hash(corpus: Path) -> str:
    out = corpus / f"scratch-{time.monotonic_ns()}"
    return build(BuildOptions(corpus / "corpus.yaml", out, workers=1)).content_hash


def state_of(corpus: Path) -> RetrainState:
    return read_state(corpus / "state")


def test_days_add_up_and_a_second_run_adds_nothing(corpus, trainers):
    arrive(corpus, 0)
    first = run(corpus)
    assert (first.champion, first.version.number, first.version.verdict.promoted) == (1, 1, True)
    assert run(corpus).version is None

    arrive(corpus, 1)
    second = run(corpus).version
    assert second.content_hash == scratch_hash(corpus)
    assert len(second.new_captures) == 2
    news = sum(second.rows.values()) - sum(first.version.rows.values())
    assert sum(second.new_rows.values()) == news > 0
    frozen = read_card(corpus / "state/versions/0001/frozen")
    assert frozen.splits["test"].rows == first.version.rows["test"]
    before = (corpus / "state/state.json").read_bytes()
    assert run(corpus).version is None
    assert (corpus / "state/state.json").read_bytes() == before
    report = json.loads((corpus / "state/versions/0002/report.json").read_text())
    assert report["verdict"]["promoted"] is True
    assert "Version 2: promoted to champion" in (corpus / "state/versions/0002/report.html").read_text()


def test_renamed_captures_are_not_new_and_gone_ones_stay(corpus, trainers):
    arrive(corpus, 0)
    arrive(corpus, 1)
    run(corpus)
    expected = scratch_hash(corpus)
    for path in sorted((corpus / "in").glob("ssh-*")):
        path.rename(path.with_name(path.name.replace("ssh-", "ssh-again-")))
    assert run(corpus).version is None
    assert {Path(seen.uri).name[:9] for seen in state_of(corpus).seen} == {"web-000.p", "web-001.p", "ssh-again"}

    arrive(corpus, 2)
    everything = scratch_hash(corpus)
    (corpus / "in/web-000.pcap").unlink()
    assert scratch_hash(corpus) != everything
    version = run(corpus).version
    assert (version.content_hash, version.gone_captures, len(version.new_captures)) == (everything, 1, 2)
    assert expected != everything


def test_labels_in_names_hold_for_gone_captures_too(corpus, trainers):
    for day in range(2):
        arrive(corpus, day)
    run(corpus)
    listed = state_of(corpus).versions[0].content_hash
    shutil.rmtree(corpus / "state")
    elsewhere = corpus / "elsewhere" / "corpus.yaml"
    elsewhere.parent.mkdir()
    head, tail = MANIFEST.split("captures:")[0], MANIFEST[MANIFEST.index("tasks:") :]
    entry = "{glob: in/*.pcap, label_from: {pattern: '/(?P<app>web|ssh)-'}, group: rotated}"
    elsewhere.write_text(f"{head}captures: [{entry}]\n{tail}")
    first = run(corpus, manifest=elsewhere, data=corpus).version
    assert first.content_hash == listed
    assert run(corpus, manifest=elsewhere, data=corpus).version is None

    arrive(corpus, 2)
    everything = scratch_hash(corpus)
    (corpus / "in/web-000.pcap").unlink()
    version = run(corpus, manifest=elsewhere, data=corpus).version
    assert (version.content_hash, version.gone_captures, version.new_captures) == (
        everything, 1, ("in/ssh-002.pcap", "in/web-002.pcap"),
    )  # fmt: skip
    card = read_card(corpus / "state/versions/0002/dataset")
    assert card.accounting.rejects == 0
    assert not any(split.unknown["app"] for split in card.splits.values())


def test_a_grown_file_counts_with_its_present_bytes(corpus, trainers):
    arrive(corpus, 0)
    arrive(corpus, 1)
    whole = (corpus / "in/web-001.pcap").read_bytes()
    (corpus / "in/web-001.pcap").write_bytes(whole[: len(whole) // 2])
    run(corpus)
    (corpus / "in/web-001.pcap").write_bytes(whole)
    version = run(corpus).version
    assert version.content_hash == scratch_hash(corpus)
    assert (version.captures, version.gone_captures) == (4, 0)


def test_known_flows_keep_their_ids(corpus, trainers):
    arrive(corpus, 1)
    run(corpus)
    arrive(corpus, 0)
    with pytest.raises(FlowloomError, match=r"(web|ssh)-001.pcap: the first capture of its timeline must stay"):
        run(corpus)
    (corpus / "in/web-000.pcap").unlink()
    (corpus / "in/ssh-000.pcap").rename(corpus / "in/ssh-001.pcap")
    with pytest.raises(FlowloomError, match=r"ssh-001.pcap: the bytes of the capture must stay the same"):
        run(corpus)
    arrive(corpus, 1)
    assert run(corpus).version is None


SLOWLY = [
    pytest.param(place, marks=pytest.mark.slow) for place in ("meter_new", "build", "write_report", "remove_leftovers")
]


@pytest.mark.parametrize("place", ["training", "write_state", *SLOWLY])
def test_the_next_run_continues_however_one_ends(corpus, trainers, monkeypatch, place):
    arrive(corpus, 0)
    run(corpus)
    arrive(corpus, 1)

    def dies(*_, **__):
        raise KeyboardInterrupt

    before = (corpus / "state/state.json").read_bytes()
    with monkeypatch.context() as patched:
        if place == "training":
            patched.setattr(trainers, "killed_in", place)
        else:
            # the first call of remove_leftovers is at the beginning
            calls = iter([retraining.remove_leftovers] if place == "remove_leftovers" else [])
            patched.setattr(retraining, place, lambda *args, **how: next(calls, dies)(*args, **how))
        with pytest.raises(KeyboardInterrupt):
            run(corpus)
    committed = place == "remove_leftovers"
    assert ((corpus / "state/state.json").read_bytes() == before) is not committed
    after = run(corpus)
    assert (after.version is None) is committed
    state = state_of(corpus)
    assert [version.number for version in state.versions] == [1, 2]
    assert state.versions[-1].content_hash == scratch_hash(corpus)
    assert sorted(path.name for path in (corpus / "state/versions").iterdir()) == ["0001", "0002"]
    assert not list((corpus / "state/versions/0001/dataset").rglob("*.parquet.*"))
    assert not (corpus / "state/versions/0001/dataset/flows").exists(), "rows of the version before are in the new one"


@pytest.mark.slow
def test_champions_change_only_by_the_rule_and_rollback(corpus, trainers):
    for day, auc in enumerate((0.9, 0.895, 0.889)):
        arrive(corpus, day)
        trainers.auc = auc
        found = run(corpus, rule=PromotionRule(margin=0.01, max_drop=0.05))
    assert state_of(corpus).line == (1, 2), "0.889 is within a margin of the champion, not of the best of its line"
    assert found.champion == 2
    assert "mean AUC is 0.0110 below the best" in found.version.verdict.reasons[0]
    assert rollback(corpus / "state", "none").champion == 1
    assert state_of(corpus).line == (1,)
    with pytest.raises(FlowloomError, match="no previous champion"):
        rollback(corpus / "state", "none")
    trainers.auc = 0.99
    arrive(corpus, 3)
    assert run(corpus).champion == 4
    assert rollback(corpus / "state", "none").champion == 1


def figures(**aucs: tuple[float | None, float | None]) -> dict[str, Figures]:
    return {task: Figures(rows=9, champion=best, challenger=auc, best=best) for task, (best, auc) in aucs.items()}


@pytest.mark.parametrize(
    ("frozen", "promoted", "reason"),
    [
        (
            figures(app=(0.9, 0.9), attack=(0.8, 0.99)),
            True,
            "0.0950 above the best; app, the task with the largest drop, is equal to the best",
        ),
        (
            figures(app=(0.9, 0.86), attack=(0.8, 0.83)),
            True,
            "0.0050 below the best; app, the task with the largest drop, is 0.0400 below",
        ),
        (figures(app=(0.9, 0.84), attack=(0.8, 0.99)), False, "app is 0.0600 below the best, more than 0.05"),
        (figures(app=(0.9, 0.86), attack=(0.8, 0.79)), False, "mean AUC is 0.0250 below the best, more than 0.02"),
        (figures(app=(0.9, 0.9), attack=(None, 0.1)), True, "app"),  # a new task has nothing to fall below
        (figures(attack=(None, 0.9)), False, "no task has frozen test rows"),
    ],
)
def test_the_rule_is_about_the_mean_and_the_worst_task(frozen, promoted, reason):
    judge = pytest.importorskip("flowloom.trainers.training.challenger", exc_type=ImportError).judge
    verdict = judge(RULE, frozen, first=False)
    assert verdict.promoted is promoted
    assert reason in verdict.reasons[0]
    assert judge(RULE, frozen, first=True).promoted


@given(st.lists(st.booleans(), max_size=20))
def test_a_rollback_undoes_one_promotion(steps):
    line: list[int] = []
    promotions = []
    for number, back in enumerate(steps, start=1):
        if back and len(line) > 1:
            line.pop()
        elif not back:
            line.append(number)
        else:
            continue
        promotions.append(Promotion(at="", champion=line[-1], rollback=back))
        assert RetrainState(promotions=tuple(promotions)).line == tuple(line)


def test_captures_without_new_rows_train_no_challenger(corpus, trainers):
    arrive(corpus, 0)
    run(corpus)
    (corpus / "in/web-900.pcap").write_bytes(b"no capture at all" * 9)
    assert run(corpus).version is None
    assert len(state_of(corpus).seen) == 3
    assert run(corpus).version is None


def test_a_new_task_labels_earlier_flows_and_is_frozen_once_it_has_two_classes(corpus, trainers):
    arrive(corpus, 0)
    run(corpus)
    (corpus / "corpus.yaml").write_text(WITH_FLOODS)
    version = run(corpus).version  # no flood yet: one class
    assert (version.new_tasks, version.frozen_tasks) == (("attack",), ())
    write_day(corpus / "in", "flood", packets("flood", 1), 0)
    version = run(corpus).version
    assert (version.new_tasks, version.frozen_tasks) == ((), ("attack",))
    assert set(version.frozen) == {"app", "attack"}
    assert version.content_hash == scratch_hash(corpus)


def test_a_second_run_is_refused(tmp_path):
    held = pytest.raises(FlowloomError, match=f"in use by process {os.getpid()} on ")
    with locked_folder(tmp_path / "state"), held, locked_folder(tmp_path / "state"):
        pytest.fail("both hold the lock")


def changed(**keys):
    return parse_manifest({**yaml.safe_load(MANIFEST), **keys}, "corpus.yaml")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"splits": {"by": "time"}}, "write splits: {by: flow}"),
        ({"splits": {}}, "by: auto"),
        ({"identity": "drop"}, "identity: pseudonym"),
        ({"views": ["flows", "packets"]}, r"views: \[flows\]"),
        (
            {"tasks": {"app": {"kind": "multiclass", "vocabulary": ["web", "ssh"]},
                       "rate": {"kind": "auto", "quantity": "bandwidth",
                                "dividers": {"method": "quantiles", "classes": 3}}}},
            "dividers of rate must be given",
        ),
    ],
)  # fmt: skip
def test_manifests_that_change_with_more_captures_are_rejected(keys, message):
    with pytest.raises(FlowloomError, match=message):
        check_manifest(changed(**keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "other"}, 'name must stay the same within a state, got "other"'),
        ({"definition": {"k": 9}}, "definition must stay the same"),
        ({"tasks": {"app": {"kind": "multiclass", "vocabulary": ["web", "ssh", "ftp"]}}}, "task app must stay"),
        (
            {"tasks": {"bot": {"kind": "binary"}, "app": {"kind": "multiclass", "vocabulary": ["web", "ssh"]}}},
            "new tasks must come after",
        ),
    ],
)
def test_manifests_that_do_not_continue_the_state_are_rejected(keys, message):
    state = RetrainState(manifest=changed(), flow_ids=FLOW_IDS)
    check_continues(state, changed(output={"shards": 3}))
    with pytest.raises(FlowloomError, match=message):
        check_continues(state, changed(**keys))


def test_captures_that_are_read_for_labels_must_stay(corpus):
    def found(known=()):
        files = match_sources(manifest.captures, str(corpus))
        return find_captures(manifest.captures, str(corpus), files, known)

    arrive(corpus, 0)
    document = yaml.safe_load(MANIFEST)
    document["captures"][0]["dpi"] = {"task": "app", "words": {"TLS": "web"}}
    manifest = parse_manifest(document, "corpus.yaml")
    before = found()
    check_gone(manifest, before)
    (corpus / "in/ssh-000.pcap").unlink()
    check_gone(manifest, found(before.seen))
    (corpus / "in/web-000.pcap").unlink()
    with pytest.raises(FlowloomError, match=r"web-000.pcap: the capture is missing, but the entry 'in/web-\*.pcap'"):
        check_gone(manifest, found(before.seen))


def test_the_command_needs_a_manifest_or_rollback(tmp_path, capsys):
    from flowloom.pipelines.cli.main import main

    for words in (["retrain", str(tmp_path)], ["retrain", str(tmp_path), "corpus.yaml", "--rollback"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
    assert "--rollback" in capsys.readouterr().err


def test_json_lines_report_drift_and_verdicts(corpus, trainers, capsys, monkeypatch):
    from flowloom.pipelines.cli.main import main
    from flowloom.transforms.arrays.kernels import mix

    mix(0)  # a process that compiles it says so in an event of its own

    def events() -> list[dict]:
        words = ["retrain", corpus / "state", corpus / "corpus.yaml", "--registry", "none", "--workers", "1"]
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--log-format", "json"])
        assert ended.value.code == 0
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        assert {line["job"] for line in lines} == {"retrain"}
        assert lines[-1]["event"] == "end"
        return lines

    arrive(corpus, 0)
    (first,) = [event for event in events() if event["event"] in ("drift", "verdict")]
    assert (first["event"], first["version"], first["promoted"]) == ("verdict", 1, True)
    assert first["message"] == "; ".join(first["reasons"])

    arrive(corpus, 1)
    trainers.auc = 0.1
    trained, new = (
        FeatureProfile(k=1, rows=1000, counts={"protocol": tuple(1000 * (number == kind) for number in range(256))})
        for kind in (6, 17)
    )
    trainer = pytest.importorskip("flowloom.trainers.training.challenger", exc_type=ImportError)
    monkeypatch.setattr(trainer, "profiles", lambda champion, newest: (trained, new))
    drift, verdict = [event for event in events() if event["event"] in ("drift", "verdict")]
    assert (drift["event"], drift["version"], drift["drifted"]) == ("drift", 2, ["protocol"])
    assert drift["message"] == "drifted: protocol"
    assert (verdict["event"], verdict["version"], verdict["promoted"]) == ("verdict", 2, False)
    assert "below the best" in verdict["message"]
    assert not [event for event in events() if event["event"] in ("drift", "verdict")], "without new captures"


def test_a_folder_of_other_files_is_not_a_state(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FlowloomError, match="must be empty or have state"):
        read_state(tmp_path)
    (tmp_path / "state.json").write_text('{"state_version": 7}')
    with pytest.raises(FlowloomError, match="cannot be read at state_version"):
        read_state(tmp_path)


SETTINGS = (
    "epochs=2",
    "experts=1",
    "k=8",
    "units=6",
    "batch_size=16",
    "tower=[8]",
    "gate_input=mean",
    "learning_rate=0.01",
)
DAYS = 10
NEW_TASK, DRIFT, CRASH, CORRUPT = 3, 6, 7, 8
"""Days from 0: the fourth, seventh, eighth and ninth."""


@pytest.mark.slow
def test_ten_days(tmp_path):
    """Day 4 adds a task, day 7 drifts, on day 8 a run is killed, day 9 has corrupt captures."""
    from flowloom.trainers.recipes.run_directory import Run

    traffic = {kind: packets(kind, DAYS, DRIFT) for kind in ("web", "ssh", "flood")}
    state, manifest = tmp_path / "state", tmp_path / "corpus.yaml"
    options = RetrainOptions(state, manifest, "multa", SETTINGS, RULE, workers=2, registry="none")
    versions = []
    for day in range(DAYS):
        for kind, frames in traffic.items():
            if kind != "flood" or day >= NEW_TASK:
                path = write_day(tmp_path / "in", kind, frames, day)
                if day == CORRUPT and kind == "web":
                    path.write_bytes(path.read_bytes()[:-1000])
        if day == CORRUPT:
            (tmp_path / "in/ssh-bad.pcap").write_bytes(bytes(range(256)) * 8)
        manifest.write_text(WITH_FLOODS if day >= NEW_TASK else MANIFEST)
        if day == CRASH:
            kill_in_training(state, manifest, day + 1)
            assert len(read_state(state).versions) == day
        if day == DAYS - 1:
            options = RetrainOptions(state, manifest, "multa", SETTINGS, RULE, workers=1)
        versions.append(retrain(options).version)

    last = versions[-1]
    assert [version.number for version in versions] == list(range(1, DAYS + 1))
    assert last.content_hash == scratch_hash(tmp_path)
    assert not [seen.uri for seen in last.drift.features if not seen.values]
    drifted = {each.name: each.skewed for each in versions[DRIFT].drift.features}
    before = {each.name: each.skewed for each in versions[DRIFT - 1].drift.features}
    assert (drifted["pkt_size"], before["pkt_size"]) == (True, False)

    grew = versions[NEW_TASK]
    assert (grew.start, grew.new_tasks) == ("grown", ("attack",))
    old, new = (Run.open(state / f"versions/{number:04d}/run") for number in (grew.champion, grew.number))
    assert old.features == new.features, "what a flow looks like to the model is the champion's"
    assert grew.frozen["app"].challenger == grew.frozen["app"].champion, "the old task is told to the bit as before"
    draws = np.random.default_rng(0)
    inputs = {
        "sequence": draws.normal(size=(16, 8, len(old.features.features))).astype("float32"),
        "length": draws.integers(1, 9, 16).astype("int32"),
    }
    one, other = (run.load_model()(inputs)["app"].numpy().tobytes() for run in (old, new))
    assert one == other

    best: dict[str, float] = {}
    for version in versions:
        if version.verdict.promoted:
            for task, each in version.frozen.items():
                assert each.challenger >= best.get(task, 0.0) - RULE.max_drop
                best[task] = max(best.get(task, 0.0), each.challenger)
    assert read_state(state).champion is not None
    assert [seen for seen in read_state(state).seen if seen.uri.endswith("ssh-bad.pcap")]
    check_registry(state, versions)


def test_a_missing_library_is_an_error_before_the_run_starts(corpus, monkeypatch):
    arrive(corpus, 0)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sklearn" else find_spec(name))
    with pytest.raises(FlowloomError, match="training needs sklearn; install it with: pip install"):
        run(corpus)
    assert not (corpus / "state").exists()


def kill_in_training(state: Path, manifest: Path, number: int) -> None:
    """Starts a run as a user does, and kills it in the middle of its training."""
    words = ["retrain", str(state), str(manifest), "--registry", "none"]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-c", "from flowloom.pipelines.cli.main import main; main()", *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        history = state / f"versions/{number:04d}/run/recipe.json"
        while not history.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def check_registry(state: Path, versions: list) -> None:
    """The registry has every version, although it is first used on the last day."""
    mlflow = pytest.importorskip("mlflow", exc_type=ImportError)
    client = mlflow.MlflowClient(*2 * [f"sqlite:///{state}/registry.db"])
    champion = client.get_model_version_by_alias("nightly", "champion")
    assert champion.tags["flowloom.version"] == str(read_state(state).champion)
    registered = client.search_model_versions("name = 'nightly'")
    assert {each.tags["flowloom.version"] for each in registered} == {str(each.number) for each in versions}
    from flowloom.trainers.recipes.run_directory import Run

    copied = mlflow.artifacts.download_artifacts(champion.source.replace("file://", ""))
    assert Run.open(copied).load_model().count_params() > 0
