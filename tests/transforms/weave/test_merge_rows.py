"""Merged rows: equal to those of an oracle with dictionaries, for any parts."""

import collections

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_datasets import labelled_flows, random_labels, select_rows, store_dataset
from synthetic import synthetic_flows

from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, SPLITS
from flowloom.schemas.corpus.tasks import Dividers, Task
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.io.spill import spill_batches
from flowloom.transforms.weave.merge_rows import MergeCounts, Part, dataset_parts, merge_rows, merge_shard, read_part
from flowloom.transforms.weave.weave_plans import WeaveRules, plan_weave, shards_of

APP = Task(name="app", kind="multiclass", vocabulary=("web", "ssh", "dns"))
ATTACK = Task(name="attack", kind="binary")
SPEED = Task(name="speed", kind="auto", quantity="bandwidth", dividers=Dividers(method="given", at=(10.0,)))
TASKS = (APP, ATTACK, SPEED)

FLOWS = synthetic_flows(12)
code = st.none() | st.integers(0, 1)
row = st.fixed_dictionaries({"flow": st.integers(0, 11), "app": code, "attack": code, "speed": code})


def a_plan(datasets: list[tuple[Task, ...]], rules: WeaveRules, tmp_path_factory):
    cards = []
    for at, tasks in enumerate(datasets):
        flows = labelled_flows(3, {task.name: [0, 0, 0] for task in tasks})
        cards.append(read_card(store_dataset(tmp_path_factory.mktemp("plan"), flows, tasks, name=f"d{at}")))
    return plan_weave(cards, rules)


@pytest.fixture(scope="module")
def plan_of(tmp_path_factory):
    plans: dict = {}

    def make(missing: str, on_conflict: str):
        key = missing, on_conflict
        if key not in plans:
            rules = WeaveRules("aurora", missing=missing, on_conflict=on_conflict)
            plans[key] = a_plan([TASKS, (APP, ATTACK), TASKS], rules, tmp_path_factory)
        return plans[key]

    return make


def stored(rows: list[dict], tasks: tuple[Task, ...]) -> pa.RecordBatch:
    batch = select_rows(FLOWS, [each["flow"] for each in rows])
    for task in tasks:
        codes = pa.array([each[task.name] for each in rows], pa.int32())
        batch = batch.append_column(pa.field(f"label_{task.name}", pa.int32()), codes)
    return batch


def of_each_flow(rows: list[dict]) -> list[dict]:
    return list({each["flow"]: each for each in rows}.values())


def oracle(datasets: list[list[dict]], missing: str, on_conflict: str) -> tuple[dict, dict, dict]:
    """Joins with dictionaries: labels by flow, and labelled and conflicting flows by (dataset, task)."""
    joined: dict = {}
    labelled, conflicts = collections.Counter(), collections.Counter()
    disputed = set()
    for number, rows in enumerate(datasets):
        for each in rows:
            labels = joined.setdefault(each["flow"], dict.fromkeys(task.name for task in TASKS))
            for task in labels:
                said = each.get(task)
                if said is None:
                    continue
                labelled[number, task] += 1
                if labels[task] is None:
                    labels[task] = said
                elif labels[task] != said:
                    conflicts[number, task] += 1
                    disputed.add((each["flow"], task))
    for flow, labels in joined.items():
        for task, known in labels.items():
            if on_conflict == "unknown" and (flow, task) in disputed:
                labels[task] = None
            elif known is None and missing == "negative" and task != "speed":
                labels[task] = 0
    return joined, labelled, conflicts


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.lists(row, max_size=8).map(of_each_flow), min_size=3, max_size=3),
    st.sampled_from(["unknown", "negative"]),
    st.sampled_from(["first", "unknown"]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_rows_of_a_flow_become_one_row_as_in_dictionaries(plan_of, datasets, missing, on_conflict, striped, draws):
    plan = plan_of(missing, on_conflict)
    tasks = [TASKS, (APP, ATTACK), TASKS]
    for each in datasets[1]:
        each.pop("speed", None)
    split = {flow: SPLITS[flow % 3] for flow in range(12)}
    parts = []
    for number, rows in enumerate(datasets):
        for name in SPLITS:
            some = [each for each in rows if split[each["flow"]] == name]
            for task in tasks[number] if striped else (None,):
                carried = tasks[number] if task is None else (task,)
                mine = [each for each in some if task is None or each[task.name] is not None]
                parts.append((Part(number, task and task.name, name, None), stored(mine, carried)))
    draws.shuffle(parts)
    if striped:
        datasets = [
            [each for each in rows if any(each.get(task.name) is not None for task in TASKS)] for rows in datasets
        ]
    joined, labelled, conflicts = oracle(datasets, missing, on_conflict)
    merged, counts = merge_rows(parts, plan)
    numbers = {flow: number for number, flow in enumerate(FLOWS["flow_id"].to_pylist())}
    found = {numbers[each["flow_id"]]: each for each in merged.to_pylist()}
    assert merged.num_rows == len(found) == counts.merged == len(joined)
    for flow, each in found.items():
        assert {task.name: each[f"label_{task.name}"] for task in TASKS} == joined[flow]
        assert SPLITS[each[SPLIT_COLUMN]] == split[flow]
        expected = FLOWS.slice(flow, 1).to_pylist()[0]
        assert {name: each[name] for name in expected} == expected
    assert counts.flows.tolist() == [len(rows) for rows in datasets]
    for number in range(3):
        for at, task in enumerate(TASKS):
            assert counts.labelled[number, at] == labelled[number, task.name]
            assert counts.conflicts[number, at] == conflicts[number, task.name]
    assert counts.unlabelled == sum(all(label is None for label in labels.values()) for labels in joined.values())
    assert not counts.contradictions


def test_contradicting_rows_are_counted(plan_of):
    plan = plan_of("unknown", "first")
    rows = stored([{"flow": flow, "app": 0, "attack": 0, "speed": 0} for flow in range(5)], TASKS)
    at = rows.schema.get_field_index("duration_ns")
    longer = rows.set_column(at, rows.schema.field(at), pa.array([7] * 5, pa.int64()))
    _, counts = merge_rows([(Part(0, None, "train", None), rows), (Part(2, None, "test", None), longer)], plan)
    assert {what: found[0] for what, found in counts.contradictions.items()} == {"split": 5, "packets": 5}
    assert "train in 'd0' and test in 'd2'" in counts.contradictions["split"][1]
    twice = counts + counts
    assert twice.contradictions["split"] == (10, counts.contradictions["split"][1])
    assert (twice.merged, twice.flows.tolist()) == (10, [10, 0, 10])
    assert (MergeCounts.none(plan) + counts).merged == counts.merged


def test_label_values_are_replaced(tmp_path):
    other = APP.model_copy(update={"vocabulary": ("dns", "http", "web")})
    cards = [
        read_card(store_dataset(tmp_path / name, labelled_flows(6, {"app": [0, 1, 2] * 2}), [task], name=name))
        for name, task in (("a", APP), ("b", other))
    ]
    rules = WeaveRules("aurora", replacements={"app": {"http": "web"}})
    plan = plan_weave(cards, rules)
    assert plan.tasks == (APP,)
    rows = labelled_flows(6, {"app": [0, 1, 2, None, 0, 1]}).drop_columns([SPLIT_COLUMN])
    merged, _ = merge_rows([(Part(1, None, "train", None), rows)], plan)
    by_flow = dict(zip(merged["flow_id"].to_pylist(), merged["label_app"].to_pylist(), strict=True))
    values = [None if by_flow[flow] is None else APP.vocabulary[by_flow[flow]] for flow in rows["flow_id"].to_pylist()]
    assert values == ["dns", "web", "web", None, "dns", "web"]


DISAGREEMENTS = {
    "definition": ({"definition": {"k": 30}}, {}, r"flow definitions .* must agree, got k 60 in 'a' and 30 in 'b'"),
    "identity": ({"identity": "drop"}, {}, "identities .* got identity keep in 'a' and drop in 'b'"),
    "key": ({"key_id": "ff"}, {}, "identities .* got key_id none in 'a' and ff in 'b'"),
    "columns of flows": ({"flow_columns": 1}, {}, "got version 2 in 'a' and 1 in 'b'; build 'b' again"),
    "views": ({"views": ("flows", "packets")}, {}, "dataset 'b': views must be flows, got flows, packets"),
    "kind": ({"tasks": [{"name": "app", "kind": "binary"}]}, {}, "tasks 'app' .* got kind multiclass in 'a'"),
    "added value": (
        {"tasks": [{"name": "app", "kind": "multiclass", "vocabulary": ["web", "ssh", "dns", "quic"]}]}, {},
        r"task 'app': 'a' and 'b' must have the same label values, got added: quic; .*--word app\.quic=web",
    ),
    "removed value": (
        {"tasks": [{"name": "app", "kind": "multiclass", "vocabulary": ["web", "dns"]}]}, {}, "got removed: ssh;",
    ),
    "order": (
        {"tasks": [{"name": "app", "kind": "multiclass", "vocabulary": ["ssh", "web", "dns"]}]}, {},
        "got another order: ssh, web, dns after web, ssh, dns;",
    ),
    "replacement in no task": ({}, {"replacements": {"ap": {"web": "web"}}}, "did you mean 'app'"),
    "replacement of no value": ({}, {"replacements": {"app": {"htp": "web"}}}, "one of dns, ssh, web, got 'htp'"),
    "replacement that is no value": ({}, {"replacements": {"app": {"web": "sh"}}}, "got 'sh'; did you mean 'ssh'"),
    "incomplete replacements": (
        {"tasks": [{"name": "app", "kind": "multiclass", "vocabulary": ["web", "http", "quic"]}]},
        {"replacements": {"app": {"http": "web"}}},
        "dataset 'b': label value of task 'app' must be one of web, ssh, dns, got 'quic'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_differences_between_datasets_are_named(tmp_path, name):
    change, rules, message = DISAGREEMENTS[name]
    card = read_card(store_dataset(tmp_path, labelled_flows(6, {"app": [0, 1, 2] * 2}), [APP], name="a"))
    other = type(card).model_validate(card.model_dump() | {"name": "b"} | change)
    with pytest.raises(FlowloomError, match=message):
        plan_weave([card, other], WeaveRules("aurora", **rules))


def test_measured_tasks_keep_their_class_boundaries_and_must_share_them(tmp_path):
    flows = labelled_flows(6, {"speed": [0, 1] * 3})
    card = read_card(store_dataset(tmp_path, flows, [SPEED], name="a"))
    assert plan_weave([card, card], WeaveRules("aurora")).tasks == (SPEED,)
    moved = SPEED.with_bins([11.0])
    other = card.model_copy(update={"name": "b", "tasks": (moved,)})
    with pytest.raises(FlowloomError, match=r"tasks 'speed' .* must agree, got dividers"):
        plan_weave([card, other], WeaveRules("aurora"))
    with pytest.raises(FlowloomError, match="must not be of kind auto, got 'speed'"):
        plan_weave([card], WeaveRules("aurora", replacements={"speed": {"below 10 bit/s": "from 10 bit/s"}}))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"layout": "auroa"}, "layout must be one of aurora, rainbow, got 'auroa'; did you mean 'aurora'"),
        ({"layout": "aurora", "missing": "no"}, "missing must be one of unknown, negative"),
        ({"layout": "aurora", "on_conflict": "last"}, "on_conflict must be one of first, error, unknown"),
        ({"layout": "rainbow", "missing": "negative"}, "layout must be aurora for missing: negative, got rainbow"),
        ({"layout": "rainbow", "shards": 0}, "shards must be between 1 and 99,999, got 0"),
    ],
)
def test_invalid_rules_are_rejected(rules, message):
    with pytest.raises(FlowloomError, match=message):
        WeaveRules(**rules)


def test_parts_are_read_only_from_the_files_that_the_card_lists(tmp_path):
    flows = labelled_flows(40, {"app": random_labels(40, 3, 0.2, 1)})
    folder = store_dataset(tmp_path / "a", flows, [APP])
    card = read_card(folder)
    plan = plan_weave([card], WeaveRules("rainbow"))
    parts = [part for _, part in dataset_parts(0, folder, card)]
    (spilled,) = spill_batches([next(iter(read_part(parts[0], plan)))], str(tmp_path))
    again = Part(0, None, parts[0].split, spilled)
    assert next(iter(read_part(again, plan))).equals(next(iter(read_part(parts[0], plan))))
    (folder / card.shards[0].path).write_bytes(b"PAR1")
    with pytest.raises(FlowloomError, match=r"must have the SHA-256 .*, got .*; build the dataset again"):
        merge_shard([parts[0]], plan, str(tmp_path / "out"))
    (folder / card.shards[0].path).unlink()
    with pytest.raises(FlowloomError, match="cannot be read"):
        merge_shard([parts[0]], plan, str(tmp_path / "out"))


def test_flows_in_a_wrong_shard_are_an_error(tmp_path):
    flows = labelled_flows(40, {"app": [0] * 40})
    folder = store_dataset(tmp_path / "a", flows, [APP], shards=2)
    card = read_card(folder)
    one, two = (shard for shard in card.shards if shard.split == "train")
    (folder / one.path).write_bytes((folder / two.path).read_bytes())
    swapped = card.model_copy(update={"shards": (one.model_copy(update={"sha256": two.sha256}),)})
    plan = plan_weave([swapped], WeaveRules("rainbow"))
    ((_, part),) = dataset_parts(0, folder, swapped)
    with pytest.raises(FlowloomError, match="got flows of other shards"):
        list(read_part(part, plan))


def test_a_dataset_has_one_number_of_shards(tmp_path):
    flows = labelled_flows(40, {"app": [0] * 40})
    card = read_card(store_dataset(tmp_path / "a", flows, [APP], shards=2))
    other = read_card(store_dataset(tmp_path / "b", flows, [APP], shards=3))
    assert (shards_of(card), shards_of(other)) == (2, 3)
    with pytest.raises(FlowloomError, match="all stripes and splits must have the same number of shards, got 2, 3"):
        shards_of(card.model_copy(update={"shards": card.shards + other.shards}))
