"""Every job reports its progress in one form, with a number of done parts that never falls."""

import itertools

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from stored_datasets import labelled_flows, random_labels, store_dataset

from flowloom.pipelines.flows import FlowsOptions, meter_captures
from flowloom.pipelines.publish import fetch, publish
from flowloom.pipelines.verify import verify
from flowloom.pipelines.weave import WeaveOptions, weave
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.dataset.views import dataset_files
from flowloom.schemas.progress import Progress
from flowloom.transforms.weave.weave_plans import WeaveRules

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A stored dataset of one task."""
    flows = labelled_flows(60, {"app": random_labels(60, 2, 0, 1)})
    task = Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))
    return store_dataset(tmp_path_factory.mktemp("progress") / "dataset", flows, [task])


@pytest.fixture
def seen():
    """Progress of a job, which must grow until the end of the test; events have no number of parts."""
    told: list[Progress] = []
    yield told
    progress = steps(told)
    assert progress
    assert all(earlier.done <= later.done for earlier, later in itertools.pairwise(progress))
    assert all(each.text and (each.total is None or each.done <= each.total) for each in progress)


def steps(told: list[Progress]) -> list[Progress]:
    """Returns progress without events."""
    return [each for each in told if each.event == "progress"]


def test_flows(corpus, tmp_path, seen):
    captures = (str(corpus / "web/*.pcap"), str(tmp_path / "none.pcap"))
    report = meter_captures(FlowsOptions(captures, tmp_path / "f.parquet", FlowDefinition.of()), seen.append)
    files = len(report.captures)
    assert [each.done for each in steps(seen)] == list(range(files))
    assert seen[0] == Progress(f"metering {corpus / 'web/0.pcap'}", 0, stays=True)
    assert [each.event for each in seen if each not in steps(seen)] == ["capture"] * files + ["reject", "line"]
    assert seen[-2].text.startswith(str(tmp_path / "none.pcap"))
    assert seen[-1].text.startswith("dropped ")
    assert seen[-1].stays


def test_verify(dataset, seen):
    shards = read_card(dataset).shards
    verify(dataset, seen.append)
    assert seen == [Progress(shard.path, done, len(shards)) for done, shard in enumerate(shards)]


def test_weave(dataset, tmp_path, seen):
    card = weave(WeaveOptions((dataset,), tmp_path / "out", WeaveRules("rainbow"), 1), seen.append)
    assert steps(seen)[-1] == Progress(f"{len(card.shards)} shards written", len(card.shards))
    assert seen[-1].event == "card"


def test_publish_and_fetch(dataset, tmp_path, seen):
    files = dataset_files(read_card(dataset))
    MemoryFileSystem.store.clear()
    publish(dataset, "memory://progress", seen.append)
    assert [each.done for each in seen] == list(range(1, len(files) + 1))
    assert {each.text for each in seen} == set(files)
    assert seen[-1] == Progress(files[-1], len(files), len(files))
    seen.clear()
    fetch("memory://progress", tmp_path / "fetched", seen.append)
    assert [(each.done, each.total) for each in seen] == [(done, len(files) - 1) for done in range(1, len(files))]
