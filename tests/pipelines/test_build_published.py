"""Builds with published files: rows pass the steps of flows, their labels are mapped, and all are counted."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.verify import verify
from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.schemas.dataset.dataset_card import REJECTS_TABLE, DatasetCard
from flowloom.schemas.errors import FlowloomError

pytestmark = pytest.mark.timeout(120)

SERVICES = ("doc", "drive")


@pytest.fixture(scope="module")
def published(tmp_path_factory, corpus) -> Path:
    """A folder with captures, text flows, JSON flows, a table of packets and tables of features."""
    folder = tmp_path_factory.mktemp("published")
    draws = random.Random(5)
    (folder / "web").symlink_to(corpus / "web")
    for service in SERVICES:
        (folder / "quic" / service).mkdir(parents=True)
        for at in range(6):
            times = sorted(draws.uniform(0, 9) for _ in range(draws.randrange(2, 30)))
            lines = [f"{1.6e9 + t:.6f}\t{t:.6f}\t{draws.randrange(60, 1400)}\t{draws.randrange(2)}" for t in times]
            (folder / "quic" / service / f"{at}.txt").write_text("\n".join([*lines, "x"] if at == 0 else lines) + "\n")
    records = [
        {
            "timestamp": [0.0, 0.5, 1.0],
            "direction_length": [draws.randrange(1, 1500), -draws.randrange(1, 1500), 7],
            "label": at % 2,
            "source_file": "",
        }
        for at in range(20)
    ]
    (folder / "certta.json").write_text(json.dumps([*records, {**records[0], "timestamp": []}]))
    header = (
        "frame.time_epoch frame.len ip.src ip.dst ipv6.src ipv6.dst tcp.srcport tcp.dstport udp.srcport udp.dstport"
    )
    rows = [f"{1.5e9 + at}\t100\t10.0.0.{at % 9}\t10.1.0.1\t\t\t\t\t{at % 9}\t53\t" for at in range(60)]
    (folder / "kitsune.tsv").write_text("\n".join(["\t".join([*header.split(), "icmp.type"]), *rows]) + "\n")
    (folder / "kitsune.csv").write_text("\n".join(str(int(at % 9 == 0)) for at in range(60)) + "\n")
    cells = [f"{draws.randrange(9)},{draws.randrange(3)},{'BENIGN' if at % 3 else 'Bot'}" for at in range(90)]
    (folder / "table.csv").write_text("\n".join(["Flow Duration,Flow Bytes/s,Label", *cells, "x,1,Bot"]) + "\n")
    return folder


APP = {"app": {"kind": "multiclass", "vocabulary": ["doc", "drive", "web"]}}
QUIC = {"published": "quic-ucdavis", "path": "quic", "labels_as": {"service": "app"}}
CERTTA = {"published": "certta", "path": "certta.json", "labels_as": {"class": "app"},
          "words": {"app": {"0": "doc", "1": None}}}  # fmt: skip
KITSUNE = {"published": "kitsune", "path": "kitsune.tsv", "label_path": "kitsune.csv"}
TABLE = {"published": "cicids2017", "path": "table.csv", "features": ["flow_duration", "flow_bytes_per_s"]}
METERABLE = {"preset": "default", "size": "wire", "tcp_close": "none", "k": 20}


def document(*entries, **changes) -> dict:
    return {"name": "published", "captures": list(entries), "tasks": APP, "output": {"shards": 2}, **changes}


def manifest_of(folder: Path, *entries, **changes) -> Path:
    path = folder / "published.yaml"
    path.write_text(yaml.safe_dump(document(*entries, **changes), sort_keys=False))
    return path


def built(folder: Path, out: Path, *entries, workers: int = 1, **changes) -> tuple[DatasetCard, pa.Table]:
    path = manifest_of(folder, *entries, **changes)
    card = build(BuildOptions(path, out, workers=workers, allow_empty=True))
    assert verify(out).content_hash == card.content_hash
    assert sum(sum(entry.set_aside.values()) for entry in card.published) == pq.read_table(out / REJECTS_TABLE).num_rows
    return card, pa.concat_tables([pq.ParquetFile(out / shard.path).read() for shard in card.shards])


@pytest.mark.parametrize("identity", ["keep", "drop"])
def test_published_flows_lie_beside_those_of_captures(published, tmp_path, identity):
    tasks = APP | {
        "attack": {"kind": "binary"},
        "pace": {"kind": "auto", "quantity": "bandwidth", "dividers": {"method": "class-means", "reference": "app"}},
    }
    entries = ({"glob": "web/*.pcap", "labels": {"app": "web"}}, QUIC, CERTTA, KITSUNE)
    how = {"tasks": tasks, "definition": METERABLE, "identity": identity}
    card, rows = built(published, tmp_path / "one", *entries, **how)
    if identity == "drop":
        again, _ = built(published, tmp_path / "two", *entries, workers=2, **how)
        assert again == card  # with the digest of every shard
    metered = sum(split.classes["app"]["web"] for split in card.splits.values())
    assert [(entry.path, entry.groups, entry.rows, entry.set_aside) for entry in card.published] == [
        ("quic", 12, 12, {"bad-row": 2}), ("certta.json", 1, 20, {"bad-row": 1}), ("kitsune.tsv", 1, 9, {}),
    ]  # fmt: skip
    assert card.accounting.flows == rows.num_rows == metered + 12 + 20 + 9
    totals = {
        name: {word: sum(split.classes[name][word] for split in card.splits.values()) for word in task.vocabulary}
        for name, task in {task.name: task for task in card.tasks}.items()
    }
    assert totals["app"] == {"doc": 6 + 10, "drive": 6, "web": metered}
    assert totals["attack"] == {"negative": 8, "positive": 1}
    assert sum(totals["pace"].values()) > 30
    coverage = {(entry.source, entry.task): entry for entry in card.coverage}
    certta = coverage["certta.json (class)", "app"]
    assert (certta.kind, certta.flows, certta.labelled, certta.unknown_words) == ("published", 20, 10, 10)
    unknown = rows.filter(pa.compute.is_null(rows["start"]))
    assert unknown.num_rows == 20
    assert rows["pkt_ttl"].null_count == 12 + 20 + 9
    if identity == "keep":
        assert rows["src_ip"].null_count == 12 + 20
    else:
        assert "src_ip" not in rows.column_names


def test_pseudonyms_and_rainbow_take_flows_without_addresses(published, tmp_path):
    (published / "key").write_bytes(bytes(range(32)))
    how = {"layout": "rainbow", "identity": "pseudonym", "key_file": "key", "definition": METERABLE}
    card, rows = built(published, tmp_path / "out", QUIC, {**KITSUNE, "labels_as": {"attack": "app"}, "words": {
        "app": {"negative": "web", "positive": "doc"}}}, **how)  # fmt: skip
    assert {shard.task for shard in card.shards} == {"app"}
    assert rows["src_ip"].null_count == 12
    real = {bytes(10) + b"\xff\xff\x0a\x00\x00" + bytes([host]) for host in range(9)}
    assert real.isdisjoint(rows["src_ip"].to_pylist())
    assert len(set(rows["src_ip"].drop_null().to_pylist())) == 9


def test_files_whose_rows_agree_are_divided_as_captures_are(published, tmp_path):
    card, _ = built(published, tmp_path / "out", QUIC)
    assert card.split_rule.by == "capture"
    assert [split.classes["app"]["doc"] for split in card.splits.values()] == [4, 1, 1]
    mixed, _ = built(published, tmp_path / "mixed", QUIC, CERTTA)
    assert mixed.split_rule.by == "flow"
    assert "got different ones of: app" in mixed.split_rule.reason


def test_a_file_of_two_entries_is_read_once(published, tmp_path):
    card, rows = built(published, tmp_path / "out", QUIC, {**QUIC, "path": "quic/doc"})
    assert [entry.rows for entry in card.published] == [12, 0]
    assert card.published[1].set_aside["duplicate"] == 6
    assert rows.num_rows == 12


def test_tables_are_a_view_whose_equal_rows_stay_together(published, tmp_path):
    tasks = {"attack": {"kind": "multiclass", "vocabulary": ["benign", "bot"]}}
    card, rows = built(published, tmp_path / "out", TABLE, tasks=tasks, views=["tables"])
    assert card.accounting.flows == 0
    (entry,) = card.published
    features = [tuple(row[name] for name in card.features) for row in rows.to_pylist()]
    assert (entry.rows, entry.repeated, entry.set_aside) == (90, 90 - len(set(features)), {"bad-row": 1})
    by_split = [
        {
            tuple(row.values())
            for shard in card.shards
            if shard.split == split
            for row in pq.ParquetFile(tmp_path / "out" / shard.path).read(list(card.features)).to_pylist()
        }
        for split in card.splits
    ]
    assert sum(map(len, by_split)) == len(set.union(*by_split)) == len(set(features))
    assert {path.name for path in (tmp_path / "out").glob("schema*")} == {"schema.tables.pbtxt"}


def test_flows_and_tables_of_one_build_are_counted_apart(published, tmp_path):
    tasks = APP | {"attack": {"kind": "multiclass", "vocabulary": ["benign", "bot"]}}
    entries = (QUIC, TABLE)
    path = published / "both.yaml"
    path.write_text(yaml.safe_dump(document(*entries, tasks=tasks, views=["flows", "tables"])))
    card = build(BuildOptions(path, tmp_path / "out", workers=1, allow_empty=True))
    assert verify(tmp_path / "out").rows == 102
    assert sum(split.rows for split in card.splits.values()) == 12
    assert sum(split.rows for split in card.view_splits["tables"].values()) == 90


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"captures": [{**QUIC, "published": "quic"}]}, ["captures.0.published", "quic-ucdavis", "got 'quic'"]),
        ({"captures": [{**QUIC, "pth": "x"}]}, ["captures.0.pth", "key of published: quic-ucdavis", "mean 'path'"]),
        ({"captures": [{**QUIC, "labels_as": {"servce": "app"}}]}, ["'servce'", "did you mean 'service'"]),
        ({"captures": [{**QUIC, "labels_as": {"service": "ap"}}]}, ["'ap'", "did you mean 'app'"]),
        ({"captures": [{**QUIC, "words": {"app": {"x": "drve"}}}]}, ["'drve'", "did you mean 'drive'"]),
        ({"captures": [{**TABLE, "labels_as": {"attack": "app", "family": "app"}}]}, ["once, got attack and family"]),
        ({"captures": [{**QUIC, "labels_as": {}}]}, ["labels no task", "labels_as: {service: app}"]),
        ({"captures": [QUIC], "views": ["flows", "tables"]}, ["no entry", "the view tables"]),
        ({"captures": [TABLE], "tasks": {"attack": {"kind": "binary"}}}, ["rows of the view tables", "views: [flows"]),
        ({"captures": [QUIC], "splits": {"by": "host_pair"}}, ["need addresses", "'quic'"]),
        ({"captures": [CERTTA], "splits": {"by": "time"}}, ["need start times", "certta"]),
        ({"captures": [{"published": "iscx-wang2017", "path": "x", "labels": {"app": "web"}}], "views": ["packets"]},
         ["either label_path", "or variant"]),
        ({"captures": [{**TABLE, "features": ["flow_duratio"]}]}, ["did you mean 'flow_duration'"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes, words):
    with pytest.raises(FlowloomError) as caught:
        parse_manifest(document() | changes, "c.yaml")
    for word in words:
        assert word in str(caught.value)


def test_a_foreign_word_stops_the_build_and_names_the_nearest(published, tmp_path):
    tasks = {"app": {"kind": "multiclass", "vocabulary": ["docs", "drive"]}}
    with pytest.raises(
        FlowloomError, match=r"'quic': service must be a label value of task 'app'.*got 'doc'.*did you mean 'docs'"
    ):
        built(published, tmp_path / "out", QUIC, tasks=tasks)
    card, _ = built(published, tmp_path / "out", {**QUIC, "unknown_words": "unknown"}, tasks=tasks)
    assert sum(split.unknown["app"] for split in card.splits.values()) == 6


def test_an_absent_file_stops_a_build_or_is_a_reject(published, tmp_path):
    card, rows = built(published, tmp_path / "out", QUIC, {**QUIC, "path": "nowhere"})
    assert (rows.num_rows, card.published[1].set_aside) == (12, {"unreadable": 1})
    with pytest.raises(FlowloomError, match=r"got none for captures.1 'quics' \(did you mean 'quic'\?\); correct"):
        build(BuildOptions(manifest_of(published, QUIC, {**QUIC, "path": "quics"}), tmp_path / "strict"))
