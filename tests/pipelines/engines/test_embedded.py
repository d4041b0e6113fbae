"""The embedded engine passes elements on whole, however long they take to write."""

import dataclasses
import time

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from flowloom.pipelines.engines.embedded import EMBEDDED, start_pipeline
from flowloom.schemas.errors import FlowloomError


@dataclasses.dataclass(frozen=True)
class Slow:
    """An element that takes longer to write than the pause between two flushes by time."""

    number: int

    def __reduce__(self):
        time.sleep(1.2)
        return Slow, (self.number,)


@pytest.mark.timeout(60)
def test_no_element_is_cut_while_it_is_written():
    with start_pipeline(EMBEDDED, 2, []) as pipeline:
        numbers = (
            pipeline
            | beam.Create([1, 2])
            | beam.Map(Slow)
            | "Elements" >> beam.Reshuffle()
            | beam.Map(lambda slow: slow.number)
        )
        assert_that(numbers, equal_to([1, 2]))


def test_options_reach_beam():
    pipeline = start_pipeline(EMBEDDED, 3, ["--job_name=loom"])
    options = pipeline.options.get_all_options()
    assert (options["direct_num_workers"], options["direct_running_mode"]) == (3, "multi_threading")
    assert options["job_name"] == "loom"


def test_an_unknown_runner_is_named():
    with pytest.raises(FlowloomError, match=r"runner 'FnApiRunnr' cannot start with options"):
        start_pipeline("FnApiRunnr", 1, [])
