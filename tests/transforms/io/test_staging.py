"""An output folder is whole or not there."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowloom.schemas.atomic_files import unfinished, write_text
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.parquet_files import parquet_writer
from flowloom.transforms.io.spill import clear
from flowloom.transforms.io.staging import staged_folder


def test_a_folder_appears_when_it_is_whole(tmp_path):
    out = tmp_path / "new" / "dataset"
    with staged_folder(str(out)) as staging:
        write_text(f"{staging}/card", "text")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["dataset"]
    assert (out / "card").read_text() == "text"


def test_failure_leaves_nothing(tmp_path):
    def fail() -> None:
        with staged_folder(str(tmp_path / "dataset")) as staging:
            write_text(f"{staging}/card", "text")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_nothing_is_overwritten(tmp_path, kind):
    out = tmp_path / "dataset"
    {"file": out.touch, "folder": out.mkdir, "link": lambda: out.symlink_to("nowhere")}[kind]()
    with pytest.raises(FlowloomError, match="exists already; remove it, or name another one"), staged_folder(str(out)):
        pass


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path):
    out = tmp_path / "dataset"

    def collide() -> None:
        with staged_folder(str(out)):
            out.mkdir()
            (out / "theirs").touch()

    with pytest.raises(FlowloomError, match="appeared while"):
        collide()
    assert [path.name for path in tmp_path.rglob("*")] == ["dataset", "theirs"]


def test_two_processes_do_not_make_one_folder(tmp_path):
    out = str(tmp_path / "dataset")
    with (
        staged_folder(out),
        pytest.raises(FlowloomError, match=r"dataset is in use by process \d+"),
        staged_folder(out),
    ):
        pytest.fail("both make the folder")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FlowloomError, match="cannot be made"), staged_folder(str(tmp_path / "file" / "dataset")):
        pass


def test_two_attempts_at_one_file_do_not_meet(tmp_path):
    path, rows = str(tmp_path / "part.parquet"), pa.record_batch({"a": pa.array([1, 2])})
    with parquet_writer(path, rows.schema) as lost, parquet_writer(path, rows.schema) as second:
        lost.write_batch(rows)
        second.write_batch(rows)
    assert pq.read_table(path).num_rows == 2


def test_what_lost_workers_left_is_cleared(tmp_path):
    (tmp_path / "flows").mkdir()
    with open(unfinished(str(tmp_path / "flows" / "part.parquet")), "w") as file:
        file.write("half")
    write_text(str(tmp_path / "flows" / "whole"), "text")
    clear(str(tmp_path))
    assert [path.name for path in (tmp_path / "flows").iterdir()] == ["whole"]
