"""Published files: folders and archives give the same rows, ids keep under other names, damage costs the rest only."""

import gzip
import io
import lzma
import tarfile

from flowloom.transforms.published.cicids2017 import read_cicids_tables
from flowloom.transforms.published.published_files import published_files
from flowloom.transforms.published.published_rejects import Rejects

TABLE = b"Flow Duration,Label\n" + b"".join(b"%d,A\n" % at for at in range(50_000))


def rows(path):
    rejects = Rejects()
    batches = list(read_cicids_tables(str(path), rejects, features=["flow_duration"]))
    return [row for batch in batches for row in batch.to_pylist()], rejects


def archive(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def test_plain_compressed_foldered_and_archived_files_have_the_same_rows(tmp_path):
    (tmp_path / "folder/b").mkdir(parents=True)
    (tmp_path / "folder/a.csv").write_bytes(TABLE)
    (tmp_path / "folder/b/c.csv.gz").write_bytes(gzip.compress(TABLE))
    (tmp_path / "t.tar.xz").write_bytes(lzma.compress(archive(x=TABLE, y=TABLE)))
    wanted = [float(at) for at in range(50_000)] * 2
    ids = set()
    for path in ("folder", "t.tar.xz"):
        found, rejects = rows(tmp_path / path)
        assert [row["flow_duration"] for row in found] == wanted
        assert rejects.counts() == {}
        ids.update(row["flow_id"] for row in found)
    assert len(ids) == 4 * 50_000


def test_ids_are_named_by_content(tmp_path):
    for name in ("one.csv", "two.dat"):
        (tmp_path / name).write_bytes(TABLE)
    assert rows(tmp_path / "one.csv")[0] == rows(tmp_path / "two.dat")[0]
    (tmp_path / "two.dat").write_bytes(TABLE + b"1,B\n")
    ids = [{row["flow_id"] for row in rows(tmp_path / name)[0]} for name in ("one.csv", "two.dat")]
    assert not ids[0] & ids[1]


def test_damage_keeps_what_came_before(tmp_path):
    wide = b"Flow Duration,Label\n" + b"".join(b"%d,%064x\n" % (at, at * at) for at in range(200_000))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(wide)[:-1000])
    found, rejects = rows(tmp_path / "cut.csv.gz")
    assert found
    assert [row["flow_duration"] for row in found] == [float(at) for at in range(len(found))]
    assert rejects.counts() == {"decompression": 1}
    assert rejects.rows()["offset"].to_pylist() == [len(found)]


def test_cut_off_archives_and_files_that_are_none_are_rejects(tmp_path):
    (tmp_path / "cut.tar").write_bytes(archive(x=TABLE, y=TABLE)[: len(TABLE) + 1600])
    found, rejects = rows(tmp_path / "cut.tar")
    assert len(found) > 50_000 - 1
    assert rejects.rows().num_rows > 0
    found, rejects = rows(tmp_path / "missing.csv")
    assert (found, rejects.counts()) == ([], {"unreadable": 1})
    assert [file.name for file in published_files(str(tmp_path), Rejects())] == ["x", "y"]
