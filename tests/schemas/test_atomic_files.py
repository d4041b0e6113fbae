"""Atomic files: the old content or the new one, and nothing else in the folder."""

import pytest

from flowloom.schemas.atomic_files import replacing, unfinished, write_json, write_text


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "card.json"
    write_text(path, "old\n")
    with replacing(path, ".npz") as temporary:
        assert (temporary.parent, temporary.suffix, temporary.name[0]) == (tmp_path, ".npz", ".")
        temporary.write_text("new\n")
        assert path.read_text() == "old\n"
    assert path.read_text() == "new\n"
    write_json(str(path), {"a": [1, "é"]})
    assert path.read_bytes() == b'{\n  "a": [\n    1,\n    "\\u00e9"\n  ]\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "text"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, float("nan"))
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


def test_two_attempts_have_two_names(tmp_path):
    assert unfinished(tmp_path / "text") != unfinished(tmp_path / "text")
