"""The IoT Sentinel table: manifest, grid, cells of a small dataset, page; and a quick run on the real captures."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml
from quick_reproductions import reproduced_twice

from flowloom.pipelines.manifests import read_manifest
from flowloom.pipelines.reproduce.engine.datasets import built_once
from flowloom.pipelines.reproduce.engine.experiments import run_experiments
from flowloom.pipelines.reproduce.iot_sentinel import sentinel_cells
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_arms import ARMS, Arm, SentinelCell, grid, known_arms
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_cells import SentinelCells
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_data import TASKS, sentinel_folder, sentinel_manifest
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_tables import SentinelOutcomes, claims, sections
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import ignore_progress
from flowloom.trainers.feed.dataset import Dataset

ROOT = Path(__file__).parents[4]
SMALL = ("k=6", "epochs=1")
FEW_ARMS = (
    Arm("flow-net", "together", recipe="multitask-cnn", overrides=SMALL),
    Arm("flow-net-apart", "apart", recipe="multitask-cnn", overrides=SMALL, apart=True),
    Arm("extra-trees", "neighbours", method="neighbours"),
    Arm("ceiling", "ceiling", method="ceiling"),
)
KINDS = {"Aria": "lookup/dns", "SmarterCoffee": "chat/mqtt", "iKettle2": "web/nginx", "HueBridge": "mail/smtp"}


def test_the_manifest_is_the_documented_one_without_packets(tmp_path):
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(sentinel_manifest("", 7), sort_keys=False))
    documented = read_manifest(ROOT / "docs/corpora/iot-sentinel.yaml")
    assert read_manifest(tmp_path / "made.yaml") == documented.model_copy(update={"views": ("flows",)})
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(sentinel_manifest("", 101), sort_keys=False))
    assert read_manifest(tmp_path / "made.yaml").splits.seed == 101


def test_a_folder_without_captures_is_refused(tmp_path):
    with pytest.raises(FlowloomError, match="needs the captures of IoT Sentinel"):
        sentinel_folder(tmp_path)


def test_arms_have_distinct_names_and_those_of_this_version_are_known():
    names = [arm.name for arm in ARMS]
    assert len(set(names)) == len(names)
    known, unknown = known_arms()
    assert {"multa", "cesnet-cnn", "flowpic", "multitask-cnn", "neighbours", "ceiling"} <= {arm.name for arm in known}
    assert {*known, *unknown} == set(ARMS)
    lacking = Arm("new", "new", recipe="multa", overrides=("model.nothing=1",))
    assert known_arms([lacking]) == ((), (lacking,))


def test_a_grid_has_a_cell_for_each_arm_split_and_model_apart():
    planned = grid(FEW_ARMS, {101: "a", 102: "b"}, "test", ("schedule.patience=1",))
    assert len(planned) == 2 * (1 + 3 + 1 + 1)
    cell = SentinelCell.of(next(each for each in planned if each.name == "flow-net-apart__vendor__split-102").settings)
    assert cell.overrides == (*SMALL, "schedule.patience=1", "seed=102", "feed.tasks=[vendor]")
    assert (cell.rows, cell.content, cell.experiment.key) == ("test", "b", planned[-4].key)
    assert grid(FEW_ARMS, {101: "c"}, "test")[0].key != grid(FEW_ARMS, {101: "a"}, "test")[0].key
    with pytest.raises(FlowloomError, match="letters a-z, digits and hyphens, got 'a/b'"):
        grid([Arm("a/b", "")], {101: "a"}, "test")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A dataset of four devices with captures of the test corpus, split by two seeds."""
    data = tmp_path_factory.mktemp("data") / "iot-sentinel"
    for device, kind in KINDS.items():
        (data / device).mkdir(parents=True)
        source = sorted((ROOT / "tests/corpus/captures" / kind).glob("*"))
        for number, path in enumerate(source):
            shutil.copyfile(path, data / device / f"Setup-A-{number}-STA.pcap")
    folder = sentinel_folder(data.parent)
    out = tmp_path_factory.mktemp("datasets")
    return {seed: built_once(f"d-{seed}", sentinel_manifest(folder, seed), out, ignore_progress) for seed in (101, 102)}


@pytest.fixture(scope="module")
def outcomes(built, tmp_path_factory):
    out = tmp_path_factory.mktemp("table")
    planned = grid(FEW_ARMS, {seed: card.content_hash for seed, (_, card) in built.items()}, "validation")
    cells = SentinelCells({seed: str(path) for seed, (path, _) in built.items()}, str(out / "runs"))
    results = run_experiments(planned, cells, out / "cells")
    assert results.computed == 12
    before = sentinel_cells.train
    sentinel_cells.train = None  # a finished run is not trained again
    try:
        (again,) = [each for each in planned if each.name == "flow-net__split-101"]
        assert cells(again.settings) == results.by_name[again.name]
    finally:
        sentinel_cells.train = before
    return SentinelOutcomes(results.by_name, FEW_ARMS, (101, 102))


def test_cells_predict_the_rows_of_their_split(outcomes, built):
    for seed, (path, card) in built.items():
        result = outcomes.results[f"flow-net__split-{seed}"]
        assert result["rows"] == card.splits["validation"].rows
        _, captures = sentinel_cells.labels_and_captures(str(path), "validation")
        groups = {name for shard in card.shards if shard.split == "validation" for name in [shard.path]}
        assert groups
        assert len(captures) == result["rows"]
        assert Dataset.open(path).card.tasks[0].name == "device"


def test_models_apart_cost_their_sum(outcomes):
    together, apart = outcomes.arm("flow-net"), outcomes.arm("flow-net-apart")
    each = [outcomes.results[f"flow-net-apart__{task}__split-101"]["parameters"] for task in TASKS]
    assert outcomes.cost(apart, "parameters") == sum(each) > 2 * outcomes.cost(together, "parameters")
    assert outcomes.cost(together, "macs") > 0


def test_neighbours_and_ceiling_are_better_than_one_epoch(outcomes):
    for target in ("device", "vendor", "category", "device_merged"):
        ceiling = outcomes.mean(outcomes.arm("ceiling"), target, "flow").mean
        near = outcomes.mean(outcomes.arm("extra-trees"), target, "flow").mean
        assert ceiling >= near > outcomes.mean(outcomes.arm("flow-net"), target, "flow").mean


def test_the_page_has_every_arm_and_pairs_of_splits(outcomes):
    found = {name: table for section in sections(outcomes) for name, table in section.tables.items()}
    assert set(found) == {"macro_f1_flow", "macro_f1_capture", "differences", "cost"}
    assert [row["arm"] for row in found["macro_f1_flow"].rows] == [arm.title for arm in FEW_ARMS]
    assert [row["arm"] for row in found["macro_f1_capture"].rows] == [arm.title for arm in FEW_ARMS[:3]]
    assert [row["arm"] for row in found["differences"].rows] == ["apart", "neighbours"]
    gain = found["differences"].rows[1]["device"]
    expected = [
        outcomes.results[f"flow-net__split-{seed}"]["figures"]["device"]["flow"]
        - outcomes.results[f"extra-trees__split-{seed}"]["figures"]["device"]["flow"]
        for seed in (101, 102)
    ]
    assert gain.mean == pytest.approx(sum(expected) / 2)
    stated = claims(outcomes)
    assert {claim.id for claim in stated} == {f"above-{than}-{task}" for than in ("trees", "alone") for task in TASKS}
    assert not next(claim for claim in stated if claim.id == "above-trees-device").holds
    assert claims(dataclasses.replace(outcomes, arms=FEW_ARMS[1:])) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_quick_run_on_the_real_captures(real_data, tmp_path, capsys):
    found = reproduced_twice("iot-sentinel", real_data, tmp_path / "out", capsys)
    known, unknown = known_arms()
    assert [row["arm"] for row in found["tables"]["macro_f1_flow"]] == [arm.title for arm in known]
    assert found["data"]["rows"] == "validation"
    said = " ".join(found["data"]["lines"])
    assert all(arm.name in said for arm in unknown)
