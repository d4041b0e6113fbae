"""Flink builds and scores as the embedded engine does, in one process and on a cluster, and survives lost workers."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flink_cluster import FlinkCluster, flink_cluster, job_server
from written_runs import CHANNELS, K, seeded, write_run

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.score import ScoreOptions, score
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.models.lmmoe import LMMoE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # raised by Beam when the other end of its workers' streams closes
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(scope="module")
def small(corpus, manifest) -> Path:
    """The manifest of the small corpus, as a file."""
    (corpus / "flink.yaml").write_text(manifest)
    return corpus / "flink.yaml"


@pytest.fixture(scope="module")
def ours(small, tmp_path_factory) -> DatasetCard:
    """The card of the dataset that the embedded engine builds."""
    return build(BuildOptions(small, tmp_path_factory.mktemp("ours") / "embedded", workers=1))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[FlinkCluster]:
    """A cluster of processes on this machine."""
    with flink_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@contextlib.contextmanager
def when_rows_are_written(out: Path, act: Callable[[], None]) -> Iterator[None]:
    """Acts once while the block builds a dataset: after a worker has written rows, before the shards are written."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            if any(path.is_file() for path in out.parent.glob(f".{out.name}.building-*/spill/*")):
                act()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        acted = not watcher.is_alive()
        ended.set()
        watcher.join()
    assert acted


def test_a_mini_cluster_builds_the_same_dataset(small, ours, tmp_path):
    flags = ("--flink_master=[local]", "--flink_version=1.19", f"--flink_job_server_jar={job_server()}")
    theirs = build(BuildOptions(small, tmp_path / "out", 1, "FlinkRunner", (*flags, "--parallelism=2")))
    assert theirs == ours


def test_a_cluster_scores_as_the_embedded_engine_does(corpus, ours, cluster, tmp_path):
    # an untrained model
    model = seeded(LMMoE, K, len(CHANNELS), {"app": 2, "attack": 2}, experts=2, units=5, gate_input="mean")
    run, captures = write_run(tmp_path / "run", model, ours.tasks), (f"{corpus}/*/*.pcap",)
    engines = {"embedded": {}, "flink": {"runner": "PortableRunner", "beam_args": cluster.flags}}
    found = {}
    for name, engine in engines.items():
        card = score(ScoreOptions(run, captures, tmp_path / name, workers=1, shards=2, **engine))
        digests = [hashlib.sha256((tmp_path / name / shard.path).read_bytes()).hexdigest() for shard in card.shards]
        found[name] = (card.rows, card.scored, card.classes, digests)
    assert found["flink"] == found["embedded"]
    assert found["flink"][1] > 0


def test_a_task_manager_that_is_lost_costs_a_cluster_nothing_but_time(small, ours, cluster, tmp_path):
    with when_rows_are_written(tmp_path / "out", cluster.kill_task_manager):
        theirs = build(BuildOptions(small, tmp_path / "out", 1, "PortableRunner", cluster.flags))
    assert theirs == ours
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_cluster_that_is_lost_leaves_no_dataset_and_then_builds_the_same(small, ours, cluster, tmp_path):
    with (
        pytest.raises(FlowloomError, match="the engine failed: "),
        when_rows_are_written(tmp_path / "out", cluster.kill_task_managers),
    ):
        build(BuildOptions(small, tmp_path / "out", 1, "PortableRunner", cluster.flags))
    assert list(tmp_path.iterdir()) == []
    cluster.start_task_managers()
    assert build(BuildOptions(small, tmp_path / "out", 1, "PortableRunner", cluster.flags)) == ours
