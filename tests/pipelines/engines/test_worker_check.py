"""Workers of a job show that they share its folder and run the same Flowloom."""

import os

import pytest

from flowloom.pipelines.engines import worker_check
from flowloom.pipelines.engines.embedded import EMBEDDED, start_pipeline
from flowloom.pipelines.engines.worker_check import AnswerRoll, Roll
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.io.spill import clear


def test_hosts_answer_into_the_folder(tmp_path):
    roll = Roll.begin(str(tmp_path))
    with start_pipeline(EMBEDDED, 1, []) as pipeline:
        pipeline | AnswerRoll(roll)
    assert roll.check() == [worker_check.socket.gethostname()]
    clear(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_worker_without_the_folder_says_so_and_makes_none(tmp_path):
    (tmp_path / "submitter").mkdir()
    roll = Roll.begin(str(tmp_path / "submitter"))
    os.rename(tmp_path / "submitter", tmp_path / "elsewhere")
    with pytest.raises(FlowloomError, match=r"does not see what the submitter put there .*No such file"):
        roll.answer(0)
    assert not (tmp_path / "submitter").exists()


def test_a_folder_of_the_same_name_is_not_the_same(tmp_path):
    roll = Roll.begin(str(tmp_path))
    (tmp_path / "spill" / "roll" / "word").write_text("another")
    with pytest.raises(FlowloomError, match="must be one and the same folder for all workers"):
        roll.answer(0)


def test_answers_have_to_arrive(tmp_path):
    with pytest.raises(FlowloomError, match="not the submitter's"):
        Roll.begin(str(tmp_path)).check()


def test_another_version_is_named(tmp_path, monkeypatch):
    roll = Roll.begin(str(tmp_path))
    monkeypatch.setattr(worker_check.importlib.metadata, "version", lambda _: "9.9")
    roll.answer(0)
    monkeypatch.undo()
    with pytest.raises(FlowloomError, match=r"has 9\.9; install the same version there"):
        roll.check()
