"""Automatic tasks: class boundaries come from train rows alone, and anyone can compute the labels again."""

import bisect
import itertools
import statistics

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.verify import verify
from flowloom.schemas.dataset.dataset_card import DatasetCard, read_card
from flowloom.schemas.errors import FlowloomError

TASKS = {
    "bandwidth": {
        "kind": "auto",
        "quantity": "bandwidth",
        "dividers": {"method": "class-means", "reference": "app"},
    },
    "length": {"kind": "auto", "quantity": "duration", "dividers": {"method": "quantiles", "classes": 3}},
    "burst": {"kind": "auto", "quantity": "bursts", "dividers": {"method": "given", "at": [2.0, 5.0]}},
}


@pytest.fixture(scope="module")
def make(corpus, manifest, tmp_path_factory):
    def built(layout: str = "aurora", workers: int = 1, **tasks) -> tuple[DatasetCard, dict[str, pa.Table]]:
        document = yaml.safe_load(manifest)
        document["tasks"] |= tasks or TASKS
        document |= {"layout": layout, "splits": {"by": "flow"}}
        path = corpus / "measured.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        out = tmp_path_factory.mktemp("out") / "dataset"
        build(BuildOptions(path, out, workers=workers))
        card = read_card(out)
        assert verify(out).content_hash == card.content_hash
        rows: dict[str, list[pa.Table]] = {}
        for shard in card.shards:
            name = f"{shard.task or ''}/{shard.split}".lstrip("/")
            rows.setdefault(name, []).append(pq.ParquetFile(out / shard.path).read())
        return card, {name: pa.concat_tables(parts) for name, parts in rows.items()}

    return built


def rate(row: dict) -> float | None:
    bits = 8 * (row["bytes_fwd"] + row["bytes_bwd"])
    return bits * 1e9 / row["duration_ns"] if row["duration_ns"] else None


def test_boundaries_and_labels_equal_those_of_a_loop(make):
    card, rows = make()
    tasks = {task.name: task for task in card.tasks}
    by_app: dict[int, list[float]] = {}
    for row in rows["train"].to_pylist():
        if row["label_app"] is not None and rate(row) is not None:
            by_app.setdefault(row["label_app"], []).append(rate(row))
    means = sorted(statistics.fmean(values) for values in by_app.values())
    expected = [(low + high) / 2 for low, high in itertools.pairwise(means)]
    assert tasks["bandwidth"].dividers.at == pytest.approx(expected, rel=1e-12)
    assert len(tasks["bandwidth"].vocabulary) == 2
    thirds = [
        sum(row["label_length"] == code for row in rows["train"].to_pylist()) / len(rows["train"]) for code in range(3)
    ]
    assert thirds == pytest.approx([1 / 3] * 3, abs=0.02)
    for split in rows.values():
        for row in split.to_pylist():
            wanted = None if rate(row) is None else bisect.bisect_right(tasks["bandwidth"].dividers.at, rate(row))
            assert row["label_bandwidth"] == wanted
            runs = sum(1 for _ in itertools.groupby(row["pkt_dir"]))
            assert row["label_burst"] == bisect.bisect_right([2, 5], runs)


def test_workers_and_layouts_find_the_same_boundaries(make):
    one, two = make()[0], make(workers=2)[0]
    assert (one.content_hash, one.tasks) == (two.content_hash, two.tasks)
    striped, rows = make("rainbow")
    assert striped.tasks == one.tasks
    assert sum(table.num_rows for name, table in rows.items() if name.startswith("length/")) == one.accounting.flows


def test_what_cannot_be_divided_is_an_error_and_no_dataset(make):
    alike = {"kind": "auto", "quantity": "bursts", "dividers": {"method": "quantiles", "classes": 500}}
    with pytest.raises(FlowloomError, match="task 'many': the boundaries of 500 classes must differ"):
        make(many=alike)
