"""PTransforms of published rows, run as a pipeline: each gives what its function gives in memory."""

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to
from synthetic import synthetic_flows

from flowloom.transforms.io.spill import spill_batches
from flowloom.transforms.published.plan_published import recall_published
from flowloom.transforms.published.published_ptransforms import RecallPublished


def test_the_batches_of_a_view_are_recalled(tmp_path):
    batches = [synthetic_flows(5, seed=seed) for seed in range(3)]
    places = spill_batches(batches, str(tmp_path))
    assert list(recall_published(places)) == batches
    with beam.Pipeline() as pipeline:
        assert_that(pipeline | RecallPublished(places), equal_to(batches))
