"""A dataset is on an object store whole or not at all, also after interrupted uploads and with delayed listings."""

import json
import shutil
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from object_store import BUCKET, SECRET, object_store

from flowloom.pipelines import publish as publishing
from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.cli.main import main
from flowloom.pipelines.publish import fetch, publish
from flowloom.pipelines.verify import verify
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, CARD, read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import SEAL

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def store():
    """A real object store with one bucket."""
    with object_store() as served:
        yield served


@pytest.fixture(scope="module")
def dataset(corpus, manifest, tmp_path_factory):
    """A small dataset on disk."""
    (corpus / "publish.yaml").write_text(manifest)
    out = tmp_path_factory.mktemp("published") / "dataset"
    build(BuildOptions(corpus / "publish.yaml", out, workers=1))
    return out


def files(folder) -> dict:
    """Returns the bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(*words: str) -> None:
    """Runs a command that must succeed."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0


def test_captures_and_datasets_may_both_lie_on_an_object_store(corpus, manifest, store, dataset, tmp_path, capfd):
    for path in corpus.rglob("*.pcap"):
        store.client().upload_file(str(path), BUCKET, f"captures/{path.relative_to(corpus)}")
    (tmp_path / "corpus.yaml").write_text(manifest.replace('glob: "', f'glob: "s3://{BUCKET}/captures/'))
    (tmp_path / "jobs").mkdir()
    command("build", f"{tmp_path}/corpus.yaml", f"s3://{BUCKET}/built", f"--job-folder={tmp_path}/jobs")
    command("fetch", f"s3://{BUCKET}/built", f"{tmp_path}/fetched")
    assert list((tmp_path / "jobs").iterdir()) == []
    verify(tmp_path / "fetched")
    assert read_card(tmp_path / "fetched").content_hash == read_card(dataset).content_hash
    told = b"".join(files(tmp_path / "fetched").values()) + "".join(capfd.readouterr()).encode()
    assert SECRET.encode() not in told
    assert read_card(dataset).content_hash.encode() in told


def test_a_dataset_comes_back_as_it_was(corpus, store, dataset, tmp_path):
    publish(dataset, f"s3://{BUCKET}/twice")
    fetch(f"s3://{BUCKET}/twice", tmp_path / "back")
    assert files(tmp_path / "back") == files(dataset)
    with pytest.raises(FlowloomError, match=f"output s3://{BUCKET}/twice exists already"):
        publish(dataset, f"s3://{BUCKET}/twice/")
    with pytest.raises(FlowloomError, match="exists already"):
        build(BuildOptions(corpus / "publish.yaml", f"s3://{BUCKET}/twice"))


def test_an_upload_that_ends_early_is_no_dataset(store, dataset, tmp_path, monkeypatch):
    url, sent = f"s3://{BUCKET}/early", []

    def break_down(path, place):
        if len(sent) == 2:
            raise OSError("the network is down")
        sent.append(place)
        upload(path, place)

    upload = publishing.upload
    monkeypatch.setattr(publishing, "upload", break_down)
    monkeypatch.setattr(publishing, "SIDE_BY_SIDE", 1)
    with pytest.raises(FlowloomError, match=r"could not be written to .*the network is down.*publish .* again"):
        publish(dataset, url)
    monkeypatch.undo()
    assert sum(key.startswith("early/") for key in store.names()) == 2
    with pytest.raises(FlowloomError, match=f"{url} is no dataset: {CARD} cannot be read"):
        fetch(url, tmp_path / "half")
    assert list(tmp_path.iterdir()) == []
    publish(dataset, url)
    fetch(url, tmp_path / "whole")
    assert files(tmp_path / "whole") == files(dataset)


def test_what_is_not_in_the_card_is_not_seen(store, dataset, tmp_path):
    store.client().put_object(Bucket=BUCKET, Key="stray/flows/split=train/part-00009-of-00010.parquet", Body=b"old")
    publish(dataset, f"s3://{BUCKET}/stray")
    fetch(f"s3://{BUCKET}/stray", tmp_path / "back")
    assert files(tmp_path / "back") == files(dataset)


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_shard_that_is_not_the_cards_is_named(store, dataset, tmp_path, change):
    url = f"s3://{BUCKET}/{change}"
    publish(dataset, url)
    shard = read_card(dataset).shards[0].path
    store.client().delete_object(Bucket=BUCKET, Key=f"{change}/{shard}")
    if change == "replaced":
        store.client().put_object(Bucket=BUCKET, Key=f"{change}/{shard}", Body=b"another")
    wanted = "is not the file that the card lists" if change == "replaced" else "is not whole"
    with pytest.raises(FlowloomError, match=wanted) as failure:
        fetch(url, tmp_path / "out")
    assert shard in str(failure.value)
    assert list(tmp_path.iterdir()) == []


def recarded(dataset, folder, change) -> Path:
    """Returns a copy of a dataset with another card, as its author could write it."""
    copy = Path(shutil.copytree(dataset, folder))
    card = json.loads((copy / CARD).read_text())
    del card[SEAL]
    change(card)
    (copy / CARD).write_text(json.dumps(card))
    return copy


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret", "flows/../../secret", "", "flows//x", "a\\b", "a\0b", "x"]
)
@pytest.mark.parametrize("place", ["shards", "files"])
def test_cards_name_only_files_of_their_dataset(dataset, tmp_path, place, path):
    def change(card):
        if place == "shards":
            card["shards"][0]["path"] = path
        else:
            card["files"][path] = "0" * 64

    if (place, path) != ("files", "x"):  # a plain name of another file is no path of a shard
        hostile = recarded(dataset, tmp_path / "hostile", change)
        with pytest.raises(FlowloomError, match=r"json is damaged at .*: path (in a dataset|of a shard) must be"):
            publish(hostile, f"file://{tmp_path}/out")
    assert not (tmp_path / "out").exists()


def test_links_lead_neither_out_of_a_dataset_nor_out_of_its_place(dataset, tmp_path):
    (tmp_path / "secret").write_text("secret")
    linked = recarded(dataset, tmp_path / "linked", lambda card: card["files"].clear())
    (linked / CAPTURES_TABLE).unlink()
    (linked / CAPTURES_TABLE).symlink_to(tmp_path / "secret")
    with pytest.raises(FlowloomError, match=r"captures\.parquet must be inside .*, got a symbolic link"):
        publish(linked, f"file://{tmp_path}/out")
    (tmp_path / "place").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "place" / "flows").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FlowloomError, match="got a symbolic link that leads to another directory"):
        publish(dataset, f"file://{tmp_path}/place")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_damaged_file_is_not_published(dataset, tmp_path):
    damaged = Path(shutil.copytree(dataset, tmp_path / "damaged"))
    shard = damaged / read_card(damaged).shards[0].path
    shard.write_bytes(shard.read_bytes()[:-9] + b"x" + shard.read_bytes()[-8:])
    with pytest.raises(FlowloomError, match=f"{shard.name} must have the SHA-256"):
        publish(damaged, f"file://{tmp_path}/out")
    assert not (tmp_path / "out" / CARD).exists()


def test_a_bucket_that_is_not_there_is_told(store, dataset, tmp_path):
    with pytest.raises(FlowloomError, match=r"could not be written to s3://nobody/x .*NO_SUCH_BUCKET"):
        publish(dataset, "s3://nobody/x")
    with pytest.raises(FlowloomError, match="is no dataset"):
        fetch("s3://nobody/x", tmp_path / "out")


class Lagging(MemoryFileSystem):
    """A store whose listings know nothing of what was just written."""

    protocol = "lagging"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    def ls(self, path, detail=True, **_):
        return []

    def find(self, path, **_):
        return {}


def test_listings_may_lag(dataset, tmp_path):
    fsspec.register_implementation("lagging", Lagging, clobber=True)
    publish(dataset, "lagging://late/dataset")
    fetch("lagging://late/dataset", tmp_path / "back")
    assert files(tmp_path / "back") == files(dataset)


def test_folders_are_not_published_to(dataset, tmp_path):
    with pytest.raises(FlowloomError, match="publish needs a URL such as"):
        publish(dataset, str(tmp_path / "copy"))
    with pytest.raises(FlowloomError, match="a job folder is for datasets that go to a URL"):
        BuildOptions("corpus.yaml", tmp_path / "out", job_folder=tmp_path)
