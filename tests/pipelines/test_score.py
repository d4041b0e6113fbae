"""Scoring: what evaluation says, the same from captures and datasets, and every row accounted for."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from capture_files import ethernet, ipv4, pcap, tcp
from written_runs import CHANNELS, K, seeded, write_run

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.cli import main as cli
from flowloom.pipelines.score import ScoreOptions, score
from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, CARD, REJECTS_TABLE, read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import SEAL
from flowloom.schemas.models.feature_profile import PROFILE
from flowloom.schemas.models.score_card import PROBABILITY_BINS, SCORE_CARD, SCORE_PAGE, VOCABULARY, read_scores
from flowloom.trainers.deploy.export import ExportOptions, export
from flowloom.trainers.deploy.scorer import Scorer
from flowloom.trainers.evaluation.predictions import compiled, predict
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.profile_counts import profile_dataset
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.models.multitask_cnn import MultitaskCNN
from flowloom.trainers.recipes.run_directory import Run

pytestmark = pytest.mark.timeout(180)

CLASSES = {"app": 2, "attack": 2}


@pytest.fixture(scope="module")
def dataset(corpus, manifest, tmp_path_factory):
    (corpus / "score.yaml").write_text(manifest)
    out = tmp_path_factory.mktemp("score") / "dataset"
    build(BuildOptions(corpus / "score.yaml", out, workers=1))
    return out


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A run whose model was never trained, but knows the profile of its dataset."""
    model = seeded(LMMoE, K, len(CHANNELS), CLASSES, experts=2, units=5, gate_input="mean")
    root = write_run(tmp_path_factory.mktemp("score-run") / "run", model, read_card(dataset).tasks)
    opened = Run.open(root)
    profile = profile_dataset(Dataset.open(dataset), opened.features.columns, K)
    (root / PROFILE).write_text(profile.model_dump_json())
    return root


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("score-export") / "export"
    export(ExportOptions(run, out))
    return out


@pytest.fixture(scope="module")
def of_captures(exported, corpus, tmp_path_factory):
    """The scores of all captures, by one worker."""
    out = tmp_path_factory.mktemp("scores") / "out"
    score(ScoreOptions(exported, (f"{corpus}/*/*.pcap",), out, workers=1, shards=3))
    return out


def scores(folder):
    """Returns all scored rows, in the order of the shards."""
    return pa.concat_tables([pq.read_table(folder / shard.path) for shard in read_scores(folder).shards])


def by_id(table, *columns):
    """Returns some columns of scored rows by flow id."""
    rows = zip(table["flow_id"].to_pylist(), *(table[name].to_pylist() for name in columns), strict=True)
    return {flow: values for flow, *values in rows}


def digests(folder):
    """Returns the digests of everything but the card, which names its inputs."""
    files = sorted(path for path in folder.rglob("*.parquet"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("architecture", ["lanes", "tensorflow"])
def test_scores_are_what_evaluation_says(architecture, run, dataset, tmp_path):
    root = run
    if architecture == "tensorflow":
        cnn = seeded(MultitaskCNN, K, len(CHANNELS), CLASSES)
        root = write_run(tmp_path / "run", cnn, read_card(dataset).tasks)
        recipe = json.loads((root / "recipe.json").read_text())
        (root / "recipe.json").write_text(json.dumps({**recipe, "model": {"kind": "multitask_cnn"}}))
    card = score(ScoreOptions(root, (str(dataset),), tmp_path / "out", split="test", workers=1))
    assert card.model.engine == architecture
    opened, data = Run.open(root), Dataset.open(dataset)
    feed = Feed(data, "test", opened.features, 64)
    expected = predict(compiled(opened.load_model(), feed), feed)
    groups = data.row_groups("test")
    table = pa.concat_tables([pq.ParquetFile(each.path).read_row_group(each.index) for each in groups])
    assert card.rows == card.scored == table.num_rows == data.card.splits["test"].rows
    for task, said in expected.items():
        labelled = table.filter(table[f"label_{task}"].is_valid())
        found = by_id(scores(tmp_path / "out"), f"probability_{task}")
        ours = np.array([found[flow][0] for flow in labelled["flow_id"].to_pylist()])
        np.testing.assert_allclose(ours, said.probabilities, atol=1e-5)


def test_captures_and_their_dataset_score_the_same(of_captures, exported, dataset, tmp_path):
    score(ScoreOptions(exported, (str(dataset),), tmp_path / "out", workers=1))
    columns = ("probability_app", "class_attack", "start", "src_ip", "packets_fwd")
    assert by_id(scores(of_captures), *columns) == by_id(scores(tmp_path / "out"), *columns)


def test_workers_and_ranges_change_no_byte(of_captures, exported, corpus, tmp_path):
    pattern = f"{corpus}/*/*.pcap"
    score(ScoreOptions(exported, (pattern,), tmp_path / "out", workers=2, shards=3, split_bytes=40_000))
    assert digests(tmp_path / "out") == digests(of_captures)


def test_a_folder_means_its_captures(of_captures, exported, corpus, tmp_path):
    score(ScoreOptions(exported, (str(corpus),), tmp_path / "out", workers=1, shards=3))
    assert digests(tmp_path / "out") == digests(of_captures)


def test_names_in_a_folder_may_be_patterns_or_not_utf_8(exported, corpus, tmp_path, monkeypatch):
    folder = tmp_path / "[x]" / "captures"
    folder.mkdir(parents=True)
    shutil.copy(corpus / "web/0.pcap", folder / "a[1]*.pcap")
    shutil.copy(corpus / "web/0.pcap", os.fsencode(folder) + b"/\xff.pcap")
    monkeypatch.chdir(folder.parent)
    card = score(ScoreOptions(exported, ("captures",), tmp_path / "out", workers=1))
    assert card.captures.captures == 1
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [(Path(each["uri"]).name, each["reason"]) for each in rejects] == [("\\xff.pcap", "unreadable")]


def test_rows_say_what_their_numbers_mean_and_lie_in_order(of_captures, dataset):
    card = read_scores(of_captures)
    for shard in card.shards:
        table = pq.read_table(of_captures / shard.path)
        assert table.num_rows == shard.rows
        starts = table["start"].to_pylist()
        assert starts == sorted(starts)
        for task in read_card(dataset).tasks:
            assert json.loads(table.schema.field(f"class_{task.name}").metadata[VOCABULARY]) == list(task.vocabulary)
            probabilities = np.array(table[f"probability_{task.name}"].to_pylist())
            np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
            assert table[f"class_{task.name}"].to_pylist() == probabilities.argmax(axis=1).tolist()
            named = [task.vocabulary[at] for at in table[f"class_{task.name}"].to_pylist()]
            assert table[f"predicted_{task.name}"].to_pylist() == named
    every = scores(of_captures)
    assert card.classes["app"] == {
        word: every["class_app"].to_pylist().count(at) for at, word in enumerate(["web", "ssh"])
    }
    assert card.captures.records == card.captures.metered + sum(card.captures.dropped.values())


def test_what_cannot_be_read_is_counted(exported, corpus, tmp_path):
    whole = (corpus / "web" / "0.pcap").read_bytes()
    (tmp_path / "cut.pcap").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "text.pcap").write_text("no capture at all")
    inputs = (f"{tmp_path}/*.pcap", f"{tmp_path}/none-*.pcap")
    card = score(ScoreOptions(exported, inputs, tmp_path / "out", workers=1))
    reasons = pq.read_table(tmp_path / "out" / REJECTS_TABLE)["reason"].to_pylist()
    expected = [RejectReason.CUT_OFF, RejectReason.NO_MATCH, RejectReason.NOT_A_CAPTURE]
    assert sorted(reasons) == expected
    assert card.captures.rejects == 3
    assert 0 < card.scored == card.rows
    assert pq.read_table(tmp_path / "out" / CAPTURES_TABLE).num_rows == 1


def test_a_flow_of_two_inputs_is_scored_once_and_a_lost_row_group_counted(
    exported, dataset, of_captures, corpus, tmp_path
):
    copy = shutil.copytree(dataset, tmp_path / "copy")
    first = read_card(copy).shards[0]
    content = bytearray((copy / first.path).read_bytes())
    content[4:2000] = bytes(1996)
    (copy / first.path).write_bytes(content)
    with pytest.raises(FlowloomError, match=rf"{first.path} must have the SHA-256"):
        score(ScoreOptions(exported, (str(copy),), tmp_path / "out", workers=1))
    document = json.loads((copy / CARD).read_text())
    del document[SEAL]
    for shard in document["shards"]:
        shard["sha256"] = ""  # not recorded
    (copy / CARD).write_text(json.dumps(document))
    card = score(ScoreOptions(exported, (str(copy), f"{corpus}/*/*.pcap"), tmp_path / "out", workers=1, shards=3))
    lost = card.rejected["unreadable"]
    assert first.row_groups[0] <= lost <= first.rows
    assert (
        card.rejected["repeated"]
        == read_card(dataset).splits["train"].rows
        + sum(counts.rows for split, counts in read_card(dataset).splits.items() if split != "train")
        - lost
    )
    assert card.rows == card.scored + sum(card.rejected.values())
    assert (
        digests(tmp_path / "out")["scores/part-00000-of-00003.parquet"]
        == (digests(of_captures)["scores/part-00000-of-00003.parquet"])
    )


def shifted(seed):
    """Returns a capture of long flows of large packets, unlike the corpus."""
    frames = [
        (1_700_000_000_000_000_000 + 1_000 * at + flow, ethernet(ipv4(tcp(bytes(1400), 1024 + flow), f"10.9.{seed}.1")))
        for flow in range(60)
        for at in range(40)
    ]
    return pcap(sorted(frames))


def test_skew_is_found_in_other_traffic_only(of_captures, exported, tmp_path):
    alike = read_scores(of_captures).skew
    assert alike.skewed == ()
    assert alike.rows == read_scores(of_captures).scored
    (tmp_path / "other.pcap").write_bytes(shifted(1))
    card = score(ScoreOptions(exported, (f"{tmp_path}/other.pcap",), tmp_path / "out", workers=1))
    assert {"pkt_size", "pkt_gap_ns"} <= set(card.skew.skewed)


def test_addresses_are_left_out_on_demand(exported, corpus, of_captures, tmp_path):
    (tmp_path / "key").write_bytes(hashlib.sha256(b"a key").digest())
    wanted = {"drop": None, "pseudonym": tmp_path / "key"}
    kept = scores(of_captures)
    for identity, key in wanted.items():
        out = tmp_path / identity
        score(ScoreOptions(exported, (f"{corpus}/*/*.pcap",), out, identity=identity, key_file=key, workers=1))
        table = scores(out)
        assert set(table["flow_id"].to_pylist()).isdisjoint(kept["flow_id"].to_pylist())
        assert sorted(table["probability_app"].to_pylist()) == sorted(kept["probability_app"].to_pylist())
        hosts = set(table["src_ip"].to_pylist())
        assert hosts == {None} if identity == "drop" else hosts.isdisjoint(kept["src_ip"].to_pylist())


def test_nothing_half_written_is_left_behind(exported, dataset, tmp_path, monkeypatch):
    (tmp_path / "empty.pcap").write_bytes(pcap([]))
    with pytest.raises(FlowloomError, match="inputs must have rows to score, got none"):
        score(ScoreOptions(exported, (f"{tmp_path}/empty.pcap",), tmp_path / "out", workers=1))

    def fail(self, rows):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", fail)
        with pytest.raises(FlowloomError, match="a step of the job failed: no space left"):
            score(ScoreOptions(exported, (str(dataset),), tmp_path / "out", workers=1))
    assert {path.name for path in tmp_path.iterdir()} == {"empty.pcap"}
    broken = shutil.copytree(exported, tmp_path / "broken")
    (broken / "weights.npz").write_bytes(b"PK")
    with pytest.raises(FlowloomError, match=r"weights.npz must have the SHA-256"):
        score(ScoreOptions(broken, (str(dataset),), tmp_path / "out", workers=1))
    assert {path.name for path in tmp_path.iterdir()} == {"empty.pcap", "broken"}
    with pytest.raises(FlowloomError, match="exists already"):
        score(ScoreOptions(exported, (str(dataset),), tmp_path / "broken", workers=1))


def test_inputs_that_do_not_fit_are_refused(run, exported, dataset, tmp_path):
    def refused(message, *inputs, **options):
        with pytest.raises(FlowloomError, match=message):
            score(ScoreOptions(exported, inputs, tmp_path / "out", **options))

    refused("the folder has no capture; check the path, or name a dataset, which has dataset.json", str(tmp_path))
    refused("did you mean 'test'", str(dataset), split="tset")
    refused("needs at least 1 input")
    refused("key_file must be given with identity pseudonym and only then", "x.pcap", identity="pseudonym")
    pq.write_table(pa.table({"flow_id": [b"0" * 16]}), tmp_path / "odd.parquet")
    refused("got none named group, pkt_size, ", str(tmp_path / "odd.parquet"))
    contract = json.loads((exported / "features.json").read_text())
    contract["definition"]["idle_s"] = 5.0
    del contract[SEAL]
    other = shutil.copytree(exported, tmp_path / "other")
    (other / "features.json").write_text(json.dumps(contract))
    with pytest.raises(FlowloomError, match="must be that of the model's training, got another idle_s"):
        score(ScoreOptions(other, (str(dataset),), tmp_path / "out"))
    with pytest.raises(FlowloomError, match="is not a run"):
        score(ScoreOptions(tmp_path, (str(dataset),), tmp_path / "out"))


def test_the_command_line_tells_classes_and_skew(exported, corpus, tmp_path, capsys):
    words = ["score", str(exported), f"{corpus}/web/*.pcap", "-o", str(tmp_path / "out"), "--workers", "1"]
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    said = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "predicted classes" in said
    assert "features against the training" in said
    card = read_scores(tmp_path / "out")
    assert f"{card.scored:,} of {card.rows:,} rows scored" in said
    assert str(tmp_path / "out" / SCORE_PAGE) in said.replace("\n", "")
    stored = json.loads((tmp_path / "out" / SCORE_CARD).read_text())
    assert stored.pop(SEAL)
    assert stored == json.loads(card.model_dump_json())


def test_the_card_and_the_page_have_counts_and_probabilities_of_all_rows(of_captures):
    card, rows = read_scores(of_captures), scores(of_captures)
    for task, classes in card.probabilities.items():
        probabilities = np.array(rows[f"probability_{task}"].to_pylist())
        chosen = rows[f"class_{task}"].to_numpy()
        for at, (name, found) in enumerate(classes.items()):
            mine = probabilities[chosen == at, at]
            assert found.mean == pytest.approx(probabilities[:, at].mean(), abs=1e-6)
            assert found.predicted == (pytest.approx(mine.mean(), abs=1e-6) if len(mine) else None)
            assert sum(found.bins) == card.classes[task][name] == len(mine)
            assert list(found.bins) == np.histogram(mine, bins=PROBABILITY_BINS, range=(0, 1))[0].tolist()
    page = (of_captures / SCORE_PAGE).read_text()
    assert f"{card.scored:,} flows scored by" in page
    assert page.count('class="bins"') == sum(1 for counts in card.classes.values() for rows in counts.values() if rows)
