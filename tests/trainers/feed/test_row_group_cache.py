"""Row groups that fit in memory are decoded once, others on every read, with the same rows."""

import pyarrow as pa
import pytest

from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.row_group_cache import RowGroups


@pytest.mark.parametrize(("fitting", "prepared"), [(0, [3, 3]), (1, [3, 2]), (3, [3, 0])])
def test_row_groups_that_fit_are_prepared_once(synthetic, fitting, prepared):
    dataset = Dataset.open(synthetic())
    groups = dataset.row_groups("train")[:3]
    spec = FeatureSpec.of(dataset.card, 6, ("size", "gap"), "standard")
    columns = ["flow_id", *spec.columns]
    sizes = [pa.Table.from_batches([RowGroups(columns, 0, spec.prepared).read([group])]).nbytes for group in groups]
    calls = []

    def prepare(rows):
        calls.append(rows.num_rows)
        return spec.prepared(rows)

    of = RowGroups(columns, sum(sizes[:fitting]), prepare)
    seen, counts = [], []
    for _ in range(2):
        calls.clear()
        seen.append(of.read(groups))
        counts.append(len(calls))
    assert counts == prepared
    assert seen[0].equals(seen[1])
    assert seen[0].schema.names == ["flow_id", "sequence"]
