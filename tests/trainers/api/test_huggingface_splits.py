"""Splits for Hugging Face `datasets`: labels are classes with names, and rows are those of the shards."""

import pytest
from stored_datasets import labelled_flows, random_labels, store_dataset

import flowloom as fl


@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
def test_splits_have_the_rows_and_names_of_the_dataset(synthetic, extra_library, layout):
    datasets = extra_library("datasets")
    ds = fl.open_dataset(synthetic(layout=layout))
    splits = ds.huggingface()
    assert list(splits) == list(ds.splits)
    for split, rows in splits.items():
        assert rows.num_rows == sum(group.rows for group in ds.row_groups(split))
        stored = ds.scan(split, text_addresses=True).collect()
        assert sorted(rows["flow_id"]) == sorted(stored["flow_id"].to_list())
        for task in ds.tasks:
            feature = rows.features[f"label_{task.name}"]
            assert isinstance(feature, datasets.ClassLabel)
            assert feature.names == list(task.vocabulary)
    of = {row["flow_id"]: row for row in splits["test"]}
    for row in ds.scan("test", text_addresses=True).collect().to_dicts():
        if layout == "aurora":
            found = of[row["flow_id"]]
            assert {name: found[name] for name in ("src_ip", "pkt_size", "pkt_gap_ns", "label_app")} == {
                name: row[name] for name in ("src_ip", "pkt_size", "pkt_gap_ns", "label_app")
            }


def test_unknown_labels_are_null_and_addresses_text(tmp_path, extra_library):
    extra_library("datasets")
    flows = labelled_flows(60, {"app": random_labels(60, 2, 0, 1)})
    task = fl.Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))
    ds = fl.open_dataset(store_dataset(tmp_path / "dataset", flows, [task]))
    for split, rows in ds.huggingface().items():
        stored = ds.scan(split, text_addresses=True).collect()
        assert list(rows["src_ip"]) == stored["src_ip"].to_list()
        assert list(rows["label_app"]) == stored["label_app"].to_list()
