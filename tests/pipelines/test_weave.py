"""Merging of datasets: round trips between layouts give the same dataset, and all counts add up."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from stored_datasets import BY_FLOW, labelled_flows, random_labels, relabel, select_rows, store_dataset

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.verify import verify
from flowloom.pipelines.weave import WeaveOptions, weave
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.schemas.corpus.tasks import Dividers, Task
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, REJECTS_TABLE, DatasetCard, read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.io.spill import clear
from flowloom.transforms.weave.merge_rows import find_parts, merge_shards
from flowloom.transforms.weave.weave_plans import WeaveRules, plan_weave
from flowloom.transforms.weave.write_merged_card import write_merged_card

pytestmark = pytest.mark.timeout(120)

APP = Task(name="app", kind="multiclass", vocabulary=("web", "ssh", "dns"))
ATTACK = Task(name="attack", kind="binary")
SPEED = Task(name="speed", kind="auto", quantity="bandwidth", dividers=Dividers(method="given", at=(10.0,)))
ROWS = 120


@pytest.fixture(scope="module")
def flows() -> pa.RecordBatch:
    """Flows with labels of several tasks, of one or of none."""
    labels = {"app": random_labels(ROWS, 3, 0.5, 1), "attack": random_labels(ROWS, 2, 0.5, 2)}
    return labelled_flows(ROWS, labels | {"speed": random_labels(ROWS, 2, 0.9, 3)})


def merge(out: Path, *datasets: Path, layout: str, workers: int | None = None, **rules) -> DatasetCard:
    """Merges datasets and verifies the result; without workers, by calling the functions of the pipeline."""
    rules = WeaveRules(layout, **rules)
    if workers:
        card = weave(WeaveOptions(datasets, out, rules, workers))
    else:
        inputs = [(folder, read_card(folder)) for folder in datasets]
        plan = plan_weave([card for _, card in inputs], rules)
        parts, unread = find_parts(inputs, plan, str(out))
        shards, counts, faults = merge_shards(parts, plan, str(out))
        write_merged_card(shards, counts, [*unread, *faults], plan, inputs, str(out))
        clear(str(out))
        card = read_card(out)
    assert verify(out).content_hash == card.content_hash
    return card


def read_rows(dataset: Path, task: str | None = None) -> dict[bytes, dict]:
    """Returns the rows of a stripe by flow, each with its split."""
    rows = {}
    for shard in read_card(dataset).shards:
        if shard.task == task:
            for row in pq.ParquetFile(dataset / shard.path).read().to_pylist():
                assert rows.setdefault(row["flow_id"], row | {"split": shard.split})["split"] == shard.split
    return rows


def digests(card: DatasetCard) -> dict[str, str]:
    return {shard.path: shard.sha256 for shard in card.shards}


def test_rainbow_to_aurora_and_back_is_the_same_to_the_byte(tmp_path, flows):
    stripes = store_dataset(tmp_path / "stripes", flows, (APP, ATTACK, SPEED), "rainbow")
    fused = merge(tmp_path / "fused", stripes, layout="aurora")
    back = merge(tmp_path / "back", tmp_path / "fused", layout="rainbow", workers=2)
    card = read_card(stripes)
    assert back.content_hash == card.content_hash
    assert digests(back) == digests(card)
    assert (back.tasks, back.split_rule, back.definition) == (card.tasks, card.split_rule, card.definition)
    labelled = [row for row in flows.to_pylist() if any(row[f"label_{task.name}"] is not None for task in card.tasks)]
    rows = read_rows(tmp_path / "fused")
    assert len(rows) == len(labelled) < ROWS
    for row in labelled:
        row.pop(SPLIT_COLUMN)
        assert {name: rows[row["flow_id"]][name] for name in row} == row
    account = fused.accounting
    assert (account.flows, account.flows_absent, account.flows_unlabelled) == (ROWS, ROWS - len(labelled), 0)
    assert [(source.name, source.content_hash, source.layout) for source in back.sources] == [
        ("small", fused.content_hash, "aurora")
    ]


def test_aurora_to_rainbow_and_back_loses_only_unlabelled_flows_and_counts_them(tmp_path, flows):
    fused = store_dataset(tmp_path / "fused", flows, (APP, ATTACK, SPEED))
    lost = read_card(fused).accounting.flows_unlabelled
    stripes = merge(tmp_path / "stripes", fused, layout="rainbow")
    assert stripes.accounting.flows_absent == stripes.accounting.flows_unlabelled == lost > 0
    merge(tmp_path / "back", tmp_path / "stripes", layout="aurora")
    assert len(read_rows(tmp_path / "back")) == ROWS - lost
    again = merge(tmp_path / "again", tmp_path / "back", layout="rainbow")
    assert again.content_hash == stripes.content_hash


def test_filled_labels_go_there_and_back(tmp_path, flows):
    full = relabel(flows, "app", random_labels(ROWS, 3, 0.0, 4))
    fused = store_dataset(tmp_path / "fused", full, (APP, ATTACK), missing="negative")
    stripes = merge(tmp_path / "stripes", fused, layout="rainbow")
    assert stripes.missing == "negative"
    back = merge(tmp_path / "back", tmp_path / "stripes", layout="aurora")
    assert (back.content_hash, back.missing) == (read_card(fused).content_hash, "negative")
    assert digests(back) == digests(read_card(fused))


def test_missing_labels_become_negative_but_measured_ones_do_not(tmp_path, flows):
    stripes = store_dataset(tmp_path / "stripes", flows, (APP, ATTACK, SPEED), "rainbow", missing="negative")
    plain = merge(tmp_path / "plain", stripes, layout="aurora")
    assert plain.missing == "unknown"
    filled = merge(tmp_path / "filled", stripes, layout="aurora", missing="negative")
    assert filled.missing == "negative"
    before, after = read_rows(tmp_path / "plain"), read_rows(tmp_path / "filled")
    for flow, row in before.items():
        expected = {name: 0 if row[name] is None else row[name] for name in ("label_app", "label_attack")}
        assert after[flow] == row | expected
    assert filled.tasks[2] == SPEED
    spread = merge(tmp_path / "spread", tmp_path / "filled", layout="rainbow")
    assert len(read_rows(tmp_path / "spread", "attack")) == len(before)
    again = merge(tmp_path / "again", tmp_path / "spread", layout="aurora", missing="negative")
    assert again.content_hash == filled.content_hash
    assert merge(tmp_path / "more", tmp_path / "again", layout="rainbow").content_hash == spread.content_hash


@pytest.mark.parametrize("shards", [2, 3])
def test_the_number_of_shards_changes_no_row(tmp_path, flows, shards):
    stripes = store_dataset(tmp_path / "stripes", flows, (APP, ATTACK), "rainbow", shards=4)
    expected = merge(tmp_path / "fused", stripes, layout="aurora")
    card = merge(tmp_path / "out", stripes, layout="aurora", shards=shards, workers=1)
    assert card.content_hash == expected.content_hash
    assert all(shard.path.endswith(f"-of-{shards:05d}.parquet") for shard in card.shards)
    assert not list(tmp_path.glob("out/spill*"))


def test_workers_change_no_byte(tmp_path, flows):
    stripes = store_dataset(tmp_path / "stripes", flows, (APP, ATTACK), "rainbow", shards=4)
    cards = [merge(tmp_path / str(of), stripes, layout="aurora", shards=2, workers=of) for of in (None, 2)]
    assert cards[0] == cards[1]
    files = [path.relative_to(tmp_path / "2") for path in (tmp_path / "2").rglob("*.*")]
    assert len(files) == len(cards[0].shards) + 4
    for path in files:
        assert (tmp_path / "None" / path).read_bytes() == (tmp_path / "2" / path).read_bytes()


@pytest.fixture(scope="module")
def single(tmp_path_factory, flows) -> tuple[Path, Path]:
    """Two datasets of one task each, with one different capture and different numbers of shards."""
    folder = tmp_path_factory.mktemp("single")
    first = select_rows(flows, range(80))
    other = select_rows(flows, range(40, ROWS))
    return (
        store_dataset(folder / "a", first, (APP,), captures=("a", "b"), rejects=("none", "x"), name="apps"),
        store_dataset(
            folder / "b", other, (ATTACK,), shards=3, captures=("b", "c"), rejects=("x", "a.pcap"), name="floods"
        ),
    )


def test_single_task_datasets_become_one_of_all_tasks(tmp_path, flows, single):
    card = merge(tmp_path / "out", *single, layout="aurora", name="both", workers=2)
    rows = read_rows(tmp_path / "out")
    assert len(rows) == ROWS
    for at, row in enumerate(flows.to_pylist()):
        found = rows[row["flow_id"]]
        assert found["label_app"] == (row["label_app"] if at < 80 else None)
        assert found["label_attack"] == (row["label_attack"] if at >= 40 else None)
    account = card.accounting
    assert (account.flows, account.flows_joined, account.flows_absent) == (160, 40, 0)
    assert (account.captures, account.records, account.rejects) == (3, 30, 3)
    assert (card.name, card.split_rule) == ("both", BY_FLOW)
    assert pq.ParquetFile(tmp_path / "out" / CAPTURES_TABLE).read()["uri"].to_pylist() == ["a.pcap", "b.pcap", "c.pcap"]
    prefix = read_card(single[1]).content_hash[:8]
    uris = pq.ParquetFile(tmp_path / "out" / REJECTS_TABLE).read()["uri"].to_pylist()
    assert uris == sorted(["none", "x", f"{prefix}:a.pcap"])
    said = {(entry.task, entry.source): entry for entry in card.coverage}
    known = pc.sum(pc.is_valid(flows["label_app"].slice(0, 80))).as_py()
    assert (said["app", "apps"].kind, said["app", "apps"].flows, said["app", "apps"].labelled) == ("dataset", 80, known)
    assert set(said) == {("app", "apps"), ("attack", "floods")}
    assert [source.name for source in card.sources] == ["apps", "floods"]


def test_single_task_datasets_become_stripes(tmp_path, flows, single):
    card = merge(tmp_path / "out", *single, layout="rainbow", workers=1)
    assert card.name == "apps+floods"
    for task, some in (("app", range(80)), ("attack", range(40, ROWS))):
        part = select_rows(flows, list(some)).to_pylist()
        expected = {row["flow_id"]: row[f"label_{task}"] for row in part if row[f"label_{task}"] is not None}
        found = {flow: row[f"label_{task}"] for flow, row in read_rows(tmp_path / "out", task).items()}
        assert found == expected
    fused = merge(tmp_path / "fused", *single, layout="aurora", shards=1)
    assert merge(tmp_path / "split", tmp_path / "fused", layout="rainbow").content_hash == card.content_hash
    assert fused.accounting.flows_unlabelled == card.accounting.flows_unlabelled


def test_conflicts_go_by_the_rule(tmp_path, flows):
    one = store_dataset(tmp_path / "one", relabel(flows, "app", [0] * ROWS), (APP,), name="one")
    two = store_dataset(tmp_path / "two", relabel(flows, "app", [at % 2 for at in range(ROWS)]), (APP,), name="two")
    first = merge(tmp_path / "first", one, two, layout="aurora")
    assert {row["label_app"] for row in read_rows(tmp_path / "first").values()} == {0}
    assert [(entry.source, entry.conflicts) for entry in first.coverage] == [("one", 0), ("two", ROWS // 2)]
    assert first.on_conflict == {"app": "first"}
    unknown = merge(tmp_path / "unknown", one, two, layout="rainbow", on_conflict="unknown")
    assert len(read_rows(tmp_path / "unknown", "app")) == unknown.accounting.flows_absent == ROWS // 2
    with pytest.raises(
        FlowloomError, match=r"labels of task 'app' must agree .*, got 60 flows of 'two' with another label"
    ):
        weave(WeaveOptions((one, two), tmp_path / "error", WeaveRules("aurora", on_conflict="error")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "one", "two", "unknown"]


def test_a_flow_in_two_splits_is_an_error_and_no_dataset(tmp_path, flows):
    one = store_dataset(tmp_path / "one", flows, (APP,), name="one")
    rule = BY_FLOW.model_copy(update={"seed": 8})
    moved = labelled_flows(ROWS, {"attack": [1] * ROWS}, rule=rule)
    two = store_dataset(tmp_path / "two", moved, (ATTACK,), name="two", split_rule=rule)
    differ = sum(a != b for a, b in zip(flows[SPLIT_COLUMN], moved[SPLIT_COLUMN], strict=True))
    with pytest.raises(
        FlowloomError, match=rf"must have the same split in all datasets, got {differ} with different ones, first flow"
    ):
        weave(WeaveOptions((one, two), tmp_path / "out", WeaveRules("aurora"), workers=1))
    assert not (tmp_path / "out").exists()


def test_datasets_with_different_rules_keep_their_splits(tmp_path, flows):
    one = store_dataset(tmp_path / "one", flows, (APP,), name="one")
    rule = BY_FLOW.model_copy(update={"seed": 8})
    others = labelled_flows(60, {"attack": [1] * 60}, seed=5, rule=rule)
    two = store_dataset(tmp_path / "two", others, (ATTACK,), name="two", split_rule=rule, captures=("z",))
    card = merge(tmp_path / "out", one, two, layout="aurora")
    assert (card.split_rule.by, sum(card.split_rule.shares)) == ("inputs", pytest.approx(1))
    assert "one: by flow; two: by flow" in card.split_rule.reason
    rows = read_rows(tmp_path / "out")
    for dataset in (one, two):
        for flow, row in read_rows(dataset).items():
            assert rows[flow]["split"] == row["split"]


def test_stripes_have_no_duplicates_but_merged_stripes_may(tmp_path, flows):
    labels = {"attack": random_labels(ROWS, 2, 0.0, 2)}
    fused = store_dataset(tmp_path / "fused", labelled_flows(ROWS, labels), (ATTACK,), deduplicate="all")
    stripes = merge(tmp_path / "stripes", fused, layout="rainbow")
    assert stripes.deduplicate == "all"
    assert merge(tmp_path / "back", tmp_path / "stripes", layout="aurora").deduplicate == "none"


def test_damaged_inputs_and_empty_results_are_errors(tmp_path, flows):
    empty = store_dataset(tmp_path / "empty", labelled_flows(9, {"app": [None] * 9}), (APP,))
    with pytest.raises(FlowloomError, match="must have rows, got none for layout rainbow: 9 flows, 9 without a label"):
        weave(WeaveOptions((empty,), tmp_path / "out", WeaveRules("rainbow"), workers=1))
    broken = store_dataset(tmp_path / "broken", flows, (APP,))
    (broken / read_card(broken).shards[0].path).write_bytes(b"PAR1")
    for shards in (2, 3):
        with pytest.raises(FlowloomError, match=r"part-00000-of-00002\.parquet must have the SHA-256"):
            weave(WeaveOptions((broken,), tmp_path / "out", WeaveRules("rainbow", shards=shards), workers=1))
    with pytest.raises(FlowloomError, match="is not a dataset"):
        weave(WeaveOptions((tmp_path,), tmp_path / "out", WeaveRules("aurora")))
    with pytest.raises(FlowloomError, match="needs at least 1 dataset, got none"):
        WeaveOptions((), tmp_path / "out", WeaveRules("aurora"))
    with pytest.raises(FlowloomError, match="workers must be at least 1, got 0"):
        WeaveOptions((empty,), tmp_path / "out", WeaveRules("aurora"), workers=0)
    assert not (tmp_path / "out").exists()


def test_each_layout_of_a_build_can_be_made_from_the_other(tmp_path, corpus, manifest):
    built = {}
    for layout in ("aurora", "rainbow"):
        (corpus / "weave.yaml").write_text(f"{manifest}layout: {layout}\n")
        built[layout] = build(BuildOptions(corpus / "weave.yaml", tmp_path / layout, workers=1))
    for layout, other in (("aurora", "rainbow"), ("rainbow", "aurora")):
        card = merge(tmp_path / f"{layout} merged", tmp_path / other, layout=layout)
        assert digests(card) == digests(built[layout])
        assert card.content_hash == built[layout].content_hash
        own = built[layout].model_dump(exclude={"accounting", "sources", "leakage"})
        assert json.loads(card.model_copy().model_dump_json(include=set(own))) == json.loads(json.dumps(own))
