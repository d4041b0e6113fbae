"""Combining rows in Beam gives the sketch that one pass over them gives."""

import itertools

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from stored_datasets import labelled_flows, random_labels, store_dataset

from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import DatasetCard, read_card
from flowloom.transforms.inspection.dataset_sketch import DatasetSketch
from flowloom.transforms.inspection.inspection_ptransforms import SketchRows

TASKS = (Task(name="app", kind="multiclass", vocabulary=("web", "ssh", "dns")), Task(name="attack", kind="binary"))


@pytest.fixture(scope="module")
def flows() -> pa.RecordBatch:
    return labelled_flows(90, {"app": random_labels(90, 3, 0.3, 1), "attack": random_labels(90, 2, 0.3, 2)})


@pytest.fixture(scope="module")
def card(flows, tmp_path_factory) -> DatasetCard:
    return read_card(store_dataset(tmp_path_factory.mktemp("inspected") / "dataset", flows, TASKS))


@pytest.mark.parametrize("parts", [1, 7])
def test_sketch_rows_gives_what_one_sketch_gives(flows, card, parts):
    whole = DatasetSketch(card.tasks, card.definition.k)
    whole.add("train", flows)
    expected = whole.statistics("00")
    cuts = np.linspace(0, flows.num_rows, parts + 1).astype(int)
    batches = [flows.slice(begin, end - begin) for begin, end in itertools.pairwise(cuts)]

    (sketch,) = batches | beam.CombineGlobally(SketchRows(card, "train"))
    found = sketch.statistics("00")
    assert found.model_dump(exclude={"columns"}) == expected.model_dump(exclude={"columns"})
    assert found.columns.keys() == expected.columns.keys()
    for name, column in found.columns["train"].items():
        wanted = expected.columns["train"][name]
        assert (column.count, column.nulls, column.distinct) == (wanted.count, wanted.nulls, wanted.distinct), name


def test_sketch_rows_merges_accumulators_into_one(flows, card):
    combine = SketchRows(card, "validation")
    parts = [combine.add_input(combine.create_accumulator(), flows.slice(start, 30)) for start in (0, 30, 60)]
    merged = combine.extract_output(combine.compact(combine.merge_accumulators(iter(parts))))
    assert merged.rows == {"train": 0, "validation": 90, "test": 0}


def test_a_split_without_rows_has_a_sketch(card):
    (sketch,) = [] | beam.CombineGlobally(SketchRows(card, "test"))
    assert sketch.statistics("00").rows == {"train": 0, "validation": 0, "test": 0}
