"""Experiments of MTC: functions of their settings, which choose by the rows they may see."""

import dataclasses
import hashlib

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics
from tiny_network import TinyNetwork

from flowloom.pipelines.reproduce.mtc import mtc_experiments
from flowloom.pipelines.reproduce.mtc.mtc_experiments import LINK_TYPE, MTCExperiments, MTCSetting, RowSet, network
from flowloom.pipelines.reproduce.mtc.row_table import RowTable
from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.feed.byte_spec import ByteSpec
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.recipes.builders import build_mtc
from flowloom.trainers.recipes.recipe import Recipe

SIX, THREE = tuple("abcdef"), tuple("abc")
BYTE_TASKS = (
    Task(name="tra", kind="multiclass", vocabulary=SIX),
    Task(name="aux", kind="multiclass", vocabulary=THREE),
    Task(name="vpn", kind="multiclass", vocabulary=("plain", "vpn")),
)
TABLE_TASKS = (Task(name="attack", kind="multiclass", vocabulary=THREE), Task(name="mal", kind="binary"))
FOLLOWS = ("aux", (0, 1, 2, 0, 1, 2))
TOTALS = {"a": 30, "b": 40, "c": 25}
SETS = {
    "bytes": RowSet("bytes", "bytes", "Bytes", "hash", "packets", BYTE_TASKS, ("vpn",), 600, "aux", (0, 1, 2, 0, 1, 2)),
    "tables": RowSet(
        "tables", "tables", "Tables", "hash", "tables", TABLE_TASKS, ("attack",), 600, "mal", (0, 1, 1), totals=TOTALS
    ),
}


def ids(rows):
    return pa.array([hashlib.sha256(str(n).encode()).digest()[:16] for n in range(rows)], pa.binary(16))


def byte_table(rows=180, length=56):
    """Six kinds of rows; a byte at the link type's place tells half of the kinds from the others."""
    generator = np.random.default_rng(1)
    kinds = np.arange(rows) % 6
    values = generator.integers(0, 20, (rows, length)).astype(np.uint8)
    values[:, :12] = 40 * kinds[:, None]
    values[:, LINK_TYPE] = 100 * (kinds >= 3)
    labels = {"tra": kinds, "aux": kinds % 3, "vpn": kinds // 3}
    labels = {task: codes.astype(np.int32) for task, codes in labels.items()}
    return RowTable(BYTE_TASKS, ids(rows), ids(rows), values, (), labels, 0)


def feature_table(rows=300):
    """Three classes of 240, 30 and 30 rows, separated by one feature; one feature is constant, six are copies."""
    generator = np.random.default_rng(2)
    codes = np.concatenate([np.zeros(240), np.ones(30), np.full(30, 2)]).astype(np.int32)[generator.permutation(rows)]
    values = generator.exponential(1e6, (rows, 56))
    values[:, 0] += 1e7 * codes
    values[:, 1] = 3.0
    values[:, 50:] = 2 * values[:, 2:8] + 1
    labels = {"attack": codes, "mal": (codes > 0).astype(np.int32)}
    return RowTable(TABLE_TASKS, ids(rows), ids(rows), values, tuple(f"f{n}" for n in range(56)), labels, 0)


@pytest.fixture
def experiments(monkeypatch):
    tables = {"bytes": byte_table(), "tables": feature_table()}
    monkeypatch.setattr(mtc_experiments, "_table", lambda path, *others: tables[path])
    monkeypatch.setattr(mtc_experiments, "network", tiny)
    mtc_experiments._trials.cache_clear()
    return MTCExperiments(SETS)


def tiny(method, view, length, tasks, *others):
    source = "bytes" if view == "packets" else "features"
    return lambda: TinyNetwork(length, {task.name: len(task.vocabulary) for task in tasks}, source)


def settings_of(name="bytes", method="cnn", **others):
    updates = 0 if method in ("forest", "boosted-trees", "byte", "neighbour") else 24
    totals = TOTALS if name == "tables" else {}
    fields = {"limit": 600, "repeat": 0, "seed": 7, "updates": updates, "totals": totals, **others}
    return dataclasses.asdict(MTCSetting(name, "hash", method=method, **fields))


def timeless(found):
    return {name: value for name, value in found.items() if name != "cpu_s"}


def test_a_cell_is_a_function_of_its_settings_whatever_ran_before(experiments):
    settings = settings_of(updates=4)
    first = experiments(settings)
    experiments(settings_of(updates=4, repeat=1, weights={"tra": 9.0}))
    assert timeless(experiments(settings)) == timeless(first)
    assert experiments(settings_of(updates=4, seed=8))["history"] != first["history"]
    assert experiments(settings_of(updates=4, weights={"tra": 9.0}))["history"] != first["history"]


def test_a_network_keeps_the_best_moment_of_the_validation_rows(experiments):
    found = experiments(settings_of(watched=True))
    assert found["rows"] == [114, 30, 36]
    assert [record["update"] for record in found["history"]] == list(range(2, 25, 2))
    scores = {record["update"]: record["macro_f1"]["tra"] for record in found["history"]}
    assert scores[found["update"]] == max(scores.values())
    kept = next(record for record in found["history"] if record["update"] == found["update"])
    assert kept["test"]["macro_f1"]["tra"] == found["tasks"]["tra"]["macro_f1"]

    # the figures are those of scikit-learn
    figures = found["tasks"]["tra"]
    counts = np.array(figures["confusion"])
    true, said = (np.repeat(code.ravel(), counts.ravel()) for code in np.indices(counts.shape))
    for name, measure in (("macro_f1", "f1_score"), ("macro_recall", "recall_score")):
        expected = getattr(sklearn.metrics, measure)(true, said, average="macro", zero_division=0.0)
        assert figures[name] == pytest.approx(expected)
    assert [each["support"] for each in figures["classes"].values()] == counts.sum(axis=1).tolist()


def test_aux_is_summed_also_where_no_head_answers_it(experiments):
    tasks = experiments(settings_of(method="mtc-lite-2task", updates=2))["tasks"]
    assert set(tasks) == {"tra", "vpn", "aux-sum"}
    assert sum(each["support"] for each in tasks["aux-sum"]["classes"].values()) == 36


def test_a_task_of_tables_is_summed_from_the_first_one(experiments):
    tasks = experiments(settings_of("tables", "dense", updates=40))["tasks"]
    assert set(tasks) == {"attack", "mal", "mal-sum"}
    confusion = np.array(tasks["attack"]["confusion"])
    # what is most likely to be b or c may be neither of them, so that the sum tells more
    summed = np.array(tasks["mal-sum"]["confusion"])
    assert summed.sum(axis=1).tolist() == [confusion[0].sum(), confusion[1:].sum()]
    assert summed[0, 1] >= confusion[0, 1:].sum()


def test_a_network_that_sums_aux_always_agrees_with_itself():
    lite = network("mtc-lite-sum", "packets", 56, BYTE_TASKS, ("vpn",), FOLLOWS, repetitions=(0, 0, 0))()
    said = lite({"bytes": byte_table().values[:5]})
    np.testing.assert_allclose(said["aux"], said["tra"][:, :3] + said["tra"][:, 3:], atol=1e-6)


def test_the_recipe_of_mtc_lite_trains_the_network_that_is_compared():
    compared = network("mtc-lite", "packets", 56, BYTE_TASKS, ("vpn",))()
    recipe = Recipe.named("mtc-lite", ("transformer_tasks=[vpn]",))
    trained = build_mtc(recipe, ByteSpec(length=56), BYTE_TASKS)
    assert {**trained.get_config(), "name": ""} == {**compared.get_config(), "name": ""}
    assert (trained.stem, trained.readout, trained.masked, trained.expanded) == (8, "wide", 0.2, True)
    assert trained.attention_heads == 6


def test_the_recipe_of_mtc_lite_on_tables_trains_the_network_that_is_compared():
    compared = network("mtc-lite", "tables", 49, TABLE_TASKS, ("attack",))()
    recipe = Recipe.named("mtc-lite-tables", ("transformer_tasks=[attack]",))
    moments = {f"f{n}": (0.0, 1.0) for n in range(49)}
    trained = build_mtc(recipe, TableSpec(moments=moments, scaling="standard", missing="mean"), TABLE_TASKS)
    assert {**trained.get_config(), "name": ""} == {**compared.get_config(), "name": ""}
    assert (trained.stem, trained.attention_heads, trained.masked, trained.expanded) == (7, 7, 0.0, True)
    assert (recipe.feed.most_features, recipe.feed.table_scaling) == (49, "quantile")


def test_one_byte_is_enough_where_it_leaks(experiments):
    found = experiments(settings_of(method="byte", tested=("vpn", "tra")))["tasks"]
    assert set(found) == {"vpn", "tra"}
    assert found["vpn"]["macro_f1"] == 1.0
    assert found["tra"]["macro_recall"] == pytest.approx(1 / 3)


def test_the_nearest_train_row_answers_every_task_and_says_how_near_it_is(experiments):
    found = experiments(settings_of(method="neighbour"))
    assert set(found["tasks"]) == set(found["bands"]) == {"tra", "aux", "vpn"}
    for task, bands in found["bands"].items():
        assert sum(band["rows"] for band in bands) == found["rows"][2]
        right = np.trace(np.array(found["tasks"][task]["confusion"]))
        assert sum(band["right"] for band in bands) == right > 0


def test_trees_answer_the_tasks_they_are_asked_for(experiments):
    assert set(experiments(settings_of(method="forest"))["tasks"]) == {"tra", "aux", "vpn"}
    assert set(experiments(settings_of(method="boosted-trees", tested=("vpn",)))["tasks"]) == {"vpn"}


def test_train_rows_of_tables_are_balanced_and_the_others_stay_as_they_are(experiments):
    setting = MTCSetting(**settings_of("tables", "forest"))
    rows = mtc_experiments._prepared(SETS["tables"], setting)
    assert np.bincount(rows.train.labels["attack"]).tolist() == list(TOTALS.values())
    assert np.array_equal(rows.train.labels["mal"], rows.train.labels["attack"] > 0)
    assert np.bincount(rows.validation.labels["attack"]).tolist() == [38, 5, 5]
    assert np.bincount(rows.test.labels["attack"]).tolist() == [48, 6, 6]
    for part in rows.parts:
        assert part.values.shape[1] == 49
        assert part.values.min() >= 0
        assert part.values.max() <= 1
    found = experiments(settings_of("tables", "forest"))
    assert found["rows"][0] == sum(TOTALS.values())
    assert found["tasks"]["attack"]["macro_f1"] > 0.6  # chance: a third


def test_features_and_scales_are_those_of_the_train_rows(experiments, monkeypatch):
    setting = MTCSetting(**settings_of("tables", "forest"))
    before = mtc_experiments._prepared(SETS["tables"], setting)
    table = feature_table()
    test = table.split(0, 7).test
    table.values[test] *= 1e3
    monkeypatch.setattr(mtc_experiments, "_table", lambda *others: table)
    after = mtc_experiments._prepared(SETS["tables"], setting)
    np.testing.assert_array_equal(before.train.values, after.train.values)
    np.testing.assert_array_equal(before.validation.values, after.validation.values)
    assert not np.array_equal(before.test.values, after.test.values)
