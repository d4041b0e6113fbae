"""Views: one pass gives flows and packets that belong together, whatever reads them, and every packet is counted."""

import collections
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.describe.measure_statistics import measure_statistics
from flowloom.pipelines.verify import verify
from flowloom.schemas.arrow.rows import GROUP_DIGITS, label_column
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.metering.packet_reader import PacketReader

pytestmark = pytest.mark.timeout(120)

VIEWS = {"views": ["flows", "packets"], "packets": {"length": 100}}


@pytest.fixture(scope="module")
def make(corpus, manifest, tmp_path_factory):
    """Returns a function that builds the small corpus with other keys in its manifest."""

    def built(workers: int = 1, **changes) -> tuple[DatasetCard, dict[str, pa.Table], Path]:
        document = yaml.safe_load(manifest) | VIEWS | changes
        path, out = corpus / "views.yaml", tmp_path_factory.mktemp("out") / "dataset"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        (corpus / "key").write_bytes(bytes(range(32)))
        card = build(BuildOptions(path, out, workers=workers, allow_empty=True))
        assert verify(out).content_hash == card.content_hash
        tables = {}
        for view in card.views:
            parts = [
                pq.ParquetFile(out / shard.path).read().append_column("split", pa.repeat(shard.split, shard.rows))
                for shard in card.shards
                if shard.view == view
            ]
            tables[view] = pa.concat_tables(parts, promote_options="default")  # stripes have labels of their own
        return card, tables, out

    return built


@pytest.fixture(scope="module")
def both(make):
    return make()


def test_packets_have_ids_labels_and_splits_of_their_flows(both):
    card, tables, _ = both
    names = ["split", *(label_column(task.name) for task in card.tasks)]
    flows = {row["flow_id"]: row for row in tables["flows"].select(["flow_id", *names]).to_pylist()}
    packets = tables["packets"].select(["flow_id", *names]).to_pylist()
    assert len(packets) > 500
    assert all(flows[row["flow_id"]] == row for row in packets)
    counted = {split: sum(row["split"] == split for row in packets) for split in card.splits}
    assert {split: counts.rows for split, counts in card.view_splits["packets"].items()} == counted
    assert sum(split.rows for split in card.splits.values()) == tables["flows"].num_rows


def test_packets_are_those_of_a_plain_reading(both, corpus):
    card, tables, _ = both
    expected: collections.Counter[tuple[int, bytes]] = collections.Counter()
    dropped = 0
    for path in sorted(corpus.glob("*/*.pcap")):
        reading = PacketReader([CaptureRange(str(path))], "0" * GROUP_DIGITS, FlowDefinition(), PacketView(length=100))
        for view, rows in reading.views():
            if view == "packets":
                expected.update(zip(rows["time_ns"].to_pylist(), rows["bytes"].to_pylist(), strict=True))
        dropped += int(reading.dropped.sum())
    found = zip(
        tables["packets"]["time"].cast(pa.int64()).to_pylist(), tables["packets"]["bytes"].to_pylist(), strict=True
    )
    assert collections.Counter(found) == expected
    account = card.accounting
    assert account.packet_rows == expected.total()
    assert sum(account.packets_dropped.values()) == dropped == account.metered - account.packet_rows
    assert set(account.packets_dropped) == {"name-service", "empty-segment"}


def test_flows_are_those_of_a_build_without_packets(both, make):
    card, _, _ = both
    alone, _, _ = make(views=["flows"])
    assert [s for s in card.shards if s.view == "flows"] == list(alone.shards)
    assert (card.splits, card.normalisation) == (alone.splits, alone.normalisation)
    assert card.content_hash != alone.content_hash


def test_workers_and_stretches_change_no_byte(make):
    changes = {"splits": {"by": "time"}, "identity": "drop", "layout": "rainbow", "definition": {"min_packets": 4}}
    entries = [
        {"glob": f"{name}/*.pcap", "group": name, "labels": labels}
        for name, labels in (("web", {"app": "web"}), ("ssh", {"app": "ssh"}), ("attack", {"attack": True}))
    ]
    one, tables, _ = make(1, captures=entries, output={"shards": 2}, **changes)
    cut, _, _ = make(2, captures=entries, output={"shards": 2, "split_bytes": "20KiB"}, **changes)
    assert (one.content_hash, one.shards, one.accounting) == (cut.content_hash, cut.shards, cut.accounting)
    assert one.accounting.packets_dropped["short-flow"] > 0
    assert set(tables["packets"]["flow_id"].to_pylist()) <= set(tables["flows"]["flow_id"].to_pylist())
    assert {shard.task for shard in one.shards if shard.view == "packets"} == {"app", "attack"}


def test_packets_of_more_flows_than_may_be_open_are_the_same_from_ranges(make):
    entries = [{"glob": f"{name}/*.pcap", "group": name, "labels": {"app": name}} for name in ("web", "ssh")]
    one, cut = (
        make(
            workers,
            captures=entries,
            output={"split_bytes": size},
            splits={"by": "flow"},
            definition={"max_open_flows": 4},
        )[0]
        for workers, size in ((1, "1GiB"), (2, "8KiB"))
    )
    assert (one.content_hash, one.accounting) == (cut.content_hash, cut.accounting)
    assert cut.accounting.flows_ended_early > 0


def test_packets_alone_can_be_divided_one_by_one(make):
    card, tables, out = make(views=["packets"], splits={"by": "packet"}, identity="pseudonym", key_file="key")
    assert "it leaks" in card.split_rule.reason
    splits = collections.defaultdict(set)
    for row in tables["packets"].select(["flow_id", "split"]).to_pylist():
        splits[row["flow_id"]].add(row["split"])
    assert max(map(len, splits.values())) == 3
    assert {path.name for path in out.iterdir()} == {
        "captures.parquet", "dataset.json", "packets", "rejects.parquet", "schema.packets.pbtxt",
    }  # fmt: skip


@pytest.mark.parametrize("views", [["flows", "packets"], ["packets"]])
def test_statistics_are_of_the_first_view(make, views, tmp_path):
    card, tables, out = make(views=views)
    statistics = measure_statistics(out, tmp_path)
    first = tables[views[0]]
    assert statistics.rows == {split: first["split"].to_pylist().count(split) for split in card.splits}
    assert set(statistics.columns["train"]) == set(first.column_names) - {"split"}
    assert bool(statistics.profiles) == (views[0] == "flows")
