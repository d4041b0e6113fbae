"""Flipped bits in every kind of stored file: each reader names the file before it computes anything from it.

The files are those of version 0.1 in `fixtures/flowloom-0.1`, with the digests that this version adds.
"""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from flowloom.pipelines.describe.card_tables import describe
from flowloom.pipelines.describe.measure_statistics import measure_statistics
from flowloom.pipelines.retrain.increments import freeze_test, write_newest
from flowloom.pipelines.score import ScoreOptions, score
from flowloom.pipelines.verify import verify
from flowloom.pipelines.weave import WeaveOptions, weave
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, CARD, REJECTS_TABLE, read_card, save_card
from flowloom.schemas.dataset.views import dataset_files
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import file_sha256, sealed
from flowloom.schemas.models.retrain_state import STATE, read_state, write_state
from flowloom.schemas.parquet_files import read_row_group, read_table, write_table
from flowloom.trainers.evaluation.evaluate import EvaluateOptions, evaluate
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.recipes.run_directory import FINISHED, Run, digests
from flowloom.trainers.training.challenger import compare
from flowloom.trainers.training.train import TrainOptions, train
from flowloom.transforms.weave.weave_plans import WeaveRules

FIXTURE = Path(__file__).resolve().parent / "fixtures" / "flowloom-0.1"
PLACES = (0.0, 0.2, 0.5, 0.8, 0.99, 1.0)
"""Parts of a file before the flipped byte: header, pages, footer and last byte."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A state with a dataset, a run and frozen test rows, and an export, all with digests."""
    folder = Path(shutil.copytree(FIXTURE, tmp_path_factory.mktemp("damaged") / "stored"))
    version = folder / "state/versions/0001"
    for part in ("dataset", "frozen"):
        card = read_card(version / part)
        present = [name for name in dataset_files(card)[len(card.shards) : -1] if (version / part / name).exists()]
        files = {name: file_sha256(version / part / name) for name in present}
        save_card(card.model_copy(update={"files": files}), version / part)
    finished = json.loads((version / "run" / FINISHED).read_bytes())
    (version / "run" / FINISHED).write_text(json.dumps(sealed({**finished, "files": digests(version / "run")})))
    write_state(read_state(folder / "state"), folder / "state")
    return folder


@pytest.fixture
def copy(stored, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(stored, tmp_path / "stored"))


def flip(path: Path, place: float) -> None:
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] ^= 4
    path.write_bytes(content)


def shard_of(folder: Path, split: str) -> Path:
    """Returns the file of a shard with rows."""
    return next(folder / shard.path for shard in read_card(folder).shards if shard.split == split and shard.rows)


def feed(split: str) -> Callable[[Path], object]:
    """Returns a reader of the rows that training gets of a split."""

    def read(folder: Path) -> object:
        run = Run.open(folder / "state/versions/0001/run")
        return Feed(Dataset.open(folder / "state/versions/0001/dataset"), split, run.features, 32)

    return read


SHARD_READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "feed": ("train", feed("train")),
    "train": ("train", lambda d: train(TrainOptions(d / "state/versions/0001/dataset", d / "new", overrides=("k=8",)))),
    "evaluate": (
        "test",
        lambda d: evaluate(
            EvaluateOptions(d / "state/versions/0001/run", dataset=d / "state/versions/0001/dataset", baselines=())
        ),
    ),
    "weave": (
        "train",
        lambda d: weave(
            WeaveOptions((d / "state/versions/0001/dataset",), d / "woven", WeaveRules("rainbow"), workers=1)
        ),
    ),
    "score": (
        "test",
        lambda d: score(ScoreOptions(d / "export", (str(d / "state/versions/0001/dataset"),), d / "scores", workers=1)),
    ),
    "newest rows of retrain": (
        "train",
        lambda d: write_newest(*(str(d / "state/versions/0001" / name) for name in ("dataset", "dataset", "newest"))),
    ),
    "frozen rows of retrain": (
        "test",
        lambda d: freeze_test(str(d / "state/versions/0001/dataset"), ("app",), str(d / "frozen")),
    ),
    "describe": ("train", lambda d: measure_statistics(d / "state/versions/0001/dataset", d / "described")),
    "verify": ("train", lambda d: verify(d / "state/versions/0001/dataset")),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reader", ["feed", "verify", "newest rows of retrain", "frozen rows of retrain", "score"])
def test_every_flip_in_a_shard_is_named(copy, reader, place):
    split, read = SHARD_READERS[reader]
    shard = shard_of(copy / "state/versions/0001/dataset", split)
    flip(shard, place)
    with pytest.raises(FlowloomError, match=shard.name):
        read(copy)


@pytest.mark.parametrize("reader", ["train", "evaluate", "weave", "describe"])
def test_a_flip_in_a_shard_is_named_by_slow_readers(copy, reader):
    split, read = SHARD_READERS[reader]
    shard = shard_of(copy / "state/versions/0001/dataset", split)
    flip(shard, 0.4)
    before = sorted(copy.rglob("*"))
    with pytest.raises(FlowloomError, match=shard.name):
        read(copy)
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [CAPTURES_TABLE, REJECTS_TABLE])
def test_every_flip_in_a_table_is_named(copy, name, place):
    dataset = copy / "state/versions/0001/dataset"
    flip(dataset / name, place)
    with pytest.raises(FlowloomError, match=name):
        verify(dataset)
    with pytest.raises(FlowloomError, match=name):
        weave(WeaveOptions((dataset,), copy / "woven", WeaveRules("rainbow"), workers=1))
    if name == REJECTS_TABLE:
        with pytest.raises(FlowloomError, match=name):
            describe(dataset, Console(file=io.StringIO()))


def test_every_flip_in_a_card_is_named_or_harmless(copy):
    dataset = copy / "state/versions/0001/dataset"
    card, content = read_card(dataset), (dataset / CARD).read_bytes()
    noticed = 0
    for at in np.random.default_rng(1).integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[at] ^= 4
        (dataset / CARD).write_bytes(damaged)
        try:
            assert read_card(dataset) == card
        except FlowloomError as error:
            assert CARD in str(error)  # noqa: PT017 - either is right
            noticed += 1
    assert noticed > 100  # the others are in the space between values


@pytest.mark.parametrize("name", ["run.json", "recipe.json", "features.json", "source.json", "history.json"])
def test_every_flip_in_the_files_of_a_run_is_named(copy, name):
    run = copy / "state/versions/0001/run"
    for place in PLACES:
        content = (run / name).read_bytes()
        flip(run / name, place)
        with pytest.raises(FlowloomError, match=rf"{name}|{run}"):
            Run.open(run)
        (run / name).write_bytes(content)
    Run.open(run)


@pytest.mark.parametrize("place", PLACES)
def test_every_flip_in_a_model_is_named(copy, place):
    run = copy / "state/versions/0001/run"
    flip(run / "model.keras", place)
    with pytest.raises(FlowloomError, match=r"model\.keras must have the SHA-256"):
        Run.open(run).load_model()


def test_a_flip_in_the_frozen_rows_is_named_before_models_are_compared(copy):
    version = copy / "state/versions/0001"
    shard = shard_of(version / "frozen", "test")
    flip(shard, 0.5)
    with pytest.raises(FlowloomError, match=shard.name):
        compare(None, version / "run", [version / "frozen"])


def test_every_flip_in_a_state_is_named_or_harmless(copy):
    path = copy / "state" / STATE
    state, content = read_state(copy / "state"), path.read_bytes()
    for at in np.random.default_rng(2).integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        try:
            assert read_state(copy / "state") == state
        except FlowloomError as error:
            assert STATE in str(error)  # noqa: PT017 - either is right


def test_pages_have_checksums_that_every_reader_verifies(copy, tmp_path):
    table = read_table(shard_of(copy / "state/versions/0001/dataset", "train"))
    path = tmp_path / "flows.parquet"
    write_table(path, table, 16)
    content = path.read_bytes()
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(0).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
        pages = range(start + column.total_compressed_size // 2, start + column.total_compressed_size)
    for at in pages:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        for read in (lambda: read_table(path), lambda: read_row_group(path, 0)):
            with pytest.raises(FlowloomError, match=r"flows\.parquet cannot be read as Parquet"):
                read()


def test_older_files_without_digests_are_read(tmp_path):
    old = Path(shutil.copytree(FIXTURE, tmp_path / "old"))
    version = old / "state/versions/0001"
    assert Run.open(version / "run").sha256("model.keras") is None
    assert read_card(version / "dataset").files == {}
    assert read_state(old / "state").champion == 1
