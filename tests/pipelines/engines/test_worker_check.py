"""The worker check: workers show that they share the job's folder and run the same Flowloom."""

import os

import pytest
from apache_beam.testing.util import assert_that, equal_to

from flowloom.pipelines.engines import worker_check
from flowloom.pipelines.engines.embedded import EMBEDDED, start_pipeline
from flowloom.pipelines.engines.worker_check import REQUESTS, WorkerCheck, answer_worker_check
from flowloom.pipelines.engines.worker_check_ptransforms import AnswerWorkerCheck
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.io.spill import clear


def test_hosts_answer_into_the_folder(tmp_path):
    check = WorkerCheck.begin(str(tmp_path))
    expected = list(answer_worker_check(range(REQUESTS), check))
    assert expected == list(range(REQUESTS))
    assert check.hosts() == [worker_check.socket.gethostname()]
    clear(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_answers_as_the_function_does(tmp_path):
    (tmp_path / "function").mkdir()
    (tmp_path / "pipeline").mkdir()
    direct, piped = (WorkerCheck.begin(str(tmp_path / name)) for name in ("function", "pipeline"))
    expected = list(answer_worker_check(range(REQUESTS), direct))
    with start_pipeline(EMBEDDED, 1, []) as pipeline:
        assert_that(pipeline | AnswerWorkerCheck(piped), equal_to(expected))
    assert piped.hosts() == direct.hosts()


def test_a_worker_without_the_folder_fails_and_does_not_create_it(tmp_path):
    (tmp_path / "submitter").mkdir()
    check = WorkerCheck.begin(str(tmp_path / "submitter"))
    os.rename(tmp_path / "submitter", tmp_path / "elsewhere")
    with pytest.raises(FlowloomError, match=r"does not find the submitter's file there .*No such file"):
        check.answer(0)
    assert not (tmp_path / "submitter").exists()


def test_another_folder_of_the_same_name_fails(tmp_path):
    check = WorkerCheck.begin(str(tmp_path))
    (tmp_path / "spill" / "worker-check" / "token").write_text("another")
    with pytest.raises(FlowloomError, match="must be the same folder for all workers"):
        check.answer(0)


def test_answers_have_to_arrive(tmp_path):
    with pytest.raises(FlowloomError, match="must arrive in the submitter's folder, got none"):
        WorkerCheck.begin(str(tmp_path)).hosts()


def test_another_version_is_named(tmp_path, monkeypatch):
    check = WorkerCheck.begin(str(tmp_path))
    monkeypatch.setattr(worker_check.importlib.metadata, "version", lambda _: "9.9")
    check.answer(0)
    monkeypatch.undo()
    with pytest.raises(FlowloomError, match=r"got 9\.9; install the same version there"):
        check.hosts()
