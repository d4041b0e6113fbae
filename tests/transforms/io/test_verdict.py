"""A job succeeds by its result file, and fails with the faults that it wrote."""

import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.io.verdict import FAILURE, fail, require_success


def test_a_result_is_success(tmp_path):
    (tmp_path / "card.json").touch()
    require_success(str(tmp_path), "card.json")


def test_faults_are_raised_in_one_message(tmp_path):
    assert fail(str(tmp_path), ["rows differ", "no shard"]) == str(tmp_path / FAILURE)
    with pytest.raises(FlowloomError, match=r"^rows differ; no shard$"):
        require_success(str(tmp_path), "card.json")


def test_a_job_without_a_verdict_has_failed(tmp_path):
    with pytest.raises(FlowloomError, match=r"wrote neither card\.json nor failure\.txt; see the logs"):
        require_success(str(tmp_path), "card.json")
