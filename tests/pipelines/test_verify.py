"""Verification accepts what `build` writes, and names whatever else a card and its files disagree in."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.verify import verify
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, CARD, REJECTS_TABLE, TF_SCHEMA, read_card
from flowloom.schemas.dataset.dataset_statistics import REPORT, STATISTICS
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import SEAL
from flowloom.schemas.parquet_files import parquet_writer
from flowloom.transforms.inspection.dataset_sketch import DatasetSketch
from flowloom.transforms.splits.leakage import measure_leakage

pytestmark = pytest.mark.timeout(120)

FLAGS = "pkt_tcp_flags"


@pytest.fixture(scope="module")
def whole(corpus, manifest, tmp_path_factory) -> Path:
    """A dataset as `build` wrote it; `cli/test_main.py` verifies one in the other layout."""
    path = corpus / "verify.yaml"
    path.write_text(manifest + "layout: rainbow\n")
    out = tmp_path_factory.mktemp("verify") / "dataset"
    build(BuildOptions(path, out, workers=1))
    return out


@pytest.fixture
def dataset(whole, tmp_path) -> Path:
    """A copy to break, without the digests of card, tables and schema, which would hide all other damage."""
    copy = Path(shutil.copytree(whole, tmp_path / "dataset"))
    recard(copy, lambda card: [card.pop(SEAL), card.pop("files")])
    return copy


def card_of(dataset: Path) -> dict:
    return json.loads((dataset / CARD).read_text())


def recard(dataset: Path, change: Callable[[dict], object]) -> None:
    """Changes the card."""
    card = card_of(dataset)
    change(card)
    (dataset / CARD).write_text(json.dumps(card))


def reshard(dataset: Path, change: Callable[[pa.Table], pa.Table], split: str = "train") -> str:
    """Changes a split's first shard with some rows, corrects its digest and row count in the card, returns its path."""
    at, entry = next(
        (at, s) for at, s in enumerate(card_of(dataset)["shards"]) if s["split"] == split and s["rows"] > 3
    )
    path = dataset / entry["path"]
    table = change(pq.ParquetFile(path).read())
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=16)
    sizes = [min(16, table.num_rows - start) for start in range(0, table.num_rows, 16)]
    mended = {"rows": table.num_rows, "row_groups": sizes, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    recard(dataset, lambda card: card["shards"][at].update(mended))
    return entry["path"]


def replaced(name: str, change: Callable[[list], list]) -> Callable[[pa.Table], pa.Table]:
    """Returns a change of one column."""

    def change_table(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        values = pa.array(change(table[name].to_pylist()), table.schema.field(name).type)
        return table.set_column(at, table.schema.field(name), values)

    return change_table


def other_rows(name: str) -> Callable[[Path], None]:
    """Returns a change of a table's bytes on disk that adds one record to its first row."""

    def change(dataset: Path) -> None:
        table = pq.ParquetFile(dataset / CAPTURES_TABLE).read()
        table = replaced(name, lambda values: [values[0] + 1, *values[1:]])(table)
        with parquet_writer(dataset / CAPTURES_TABLE, table.schema) as writer:
            writer.write_table(table)

    return change


def label_column_of(table: pa.Table) -> str:
    return next(name for name in table.schema.names if name.startswith("label_"))


def relabelled(code: int) -> Callable[[pa.Table], pa.Table]:
    return lambda table: replaced(label_column_of(table), lambda codes: [code, *codes[1:]])(table)


def swapped(table: pa.Table) -> pa.Table:
    return replaced(label_column_of(table), lambda codes: [1 - codes[0], *codes[1:]])(table)


def copied_row(source: str, target: str) -> Callable[[Path], None]:
    """Returns a change that puts the id of a row of one split into a shard of another."""

    def change(dataset: Path) -> None:
        stripe = card_of(dataset)["shards"][0]["task"]
        shard = next(s for s in card_of(dataset)["shards"] if (s["split"], s["task"]) == (source, stripe) and s["rows"])
        first = pq.ParquetFile(dataset / shard["path"]).read()["flow_id"][0].as_py()
        reshard(dataset, replaced("flow_id", lambda ids: [*ids[:-1], first]), target)

    return change


def shorter(name: str) -> Callable[[pa.Table], pa.Table]:
    return replaced(name, lambda lists: [lists[0][:-1], *lists[1:]])


def truncated(dataset: Path) -> None:
    path = dataset / card_of(dataset)["shards"][0]["path"]
    path.write_bytes(path.read_bytes()[:-1])


def wider(schema: pa.Schema) -> pa.Schema:
    at = schema.get_field_index("protocol")
    return schema.set(at, schema.field(at).with_type(pa.int64()))


def first_shard(dataset: Path) -> Path:
    return dataset / card_of(dataset)["shards"][0]["path"]


def damage(name: str) -> Callable[[Path], None]:
    return lambda dataset: (dataset / name).write_bytes(b"PAR1")


def by(rule: str, **more: object) -> Callable[[dict], None]:
    return lambda card: card["split_rule"].update(by=rule, **more)


def hosts_in_two_splits(dataset: Path) -> None:
    recard(dataset, by("host_pair"))
    for split in ("train", "validation"):
        for name in ("src_ip", "dst_ip"):
            reshard(dataset, replaced(name, lambda hosts: [bytes(16), *hosts[1:]]), split)


def doubled_sequence(dataset: Path) -> None:
    recard(dataset, lambda card: card.update(deduplicate="split"))
    for name in card_of(dataset)["normalisation"]:
        reshard(dataset, replaced(name, lambda lists: [lists[0], lists[0], *lists[2:]]))


def other_conflicts(dataset: Path) -> None:
    leakage = measure_leakage(dataset).model_copy(update={"conflicts": {}})
    recard(dataset, lambda card: card.update(leakage=leakage.model_dump()))


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no card": (lambda d: (d / CARD).unlink(), r"dataset\.json is missing"),
    "other format": (lambda d: recard(d, lambda c: c.update(format_version=99)), "format_version must be 1, got 99"),
    "lost shard": (lambda d: first_shard(d).unlink(), r"part-0000\d-of-00002\.parquet is missing"),
    "lost table": (lambda d: (d / REJECTS_TABLE).unlink(), r"rejects\.parquet is missing"),
    "stray file": (lambda d: (d / "flows" / "notes.txt").write_text(""), r"does not list flows/notes\.txt;"),
    "listed twice": (lambda d: recard(d, lambda c: c["shards"].append(c["shards"][0])), "the card lists .* twice"),
    "out of place": (lambda d: recard(d, lambda c: c["shards"][0].update(split="train")), "must be in flows/"),
    "other schema text": (lambda d: (d / TF_SCHEMA).write_text("feature {}"), r"schema\.pbtxt: schema must be that"),
    "other values": (lambda d: recard(d, lambda c: c["tasks"][0].update(vocabulary=["a", "b"])), "schema must be that"),
    "no captures": (damage(CAPTURES_TABLE), r"captures\.parquet cannot be read as Parquet"),
    "records vanish": (other_rows("records"), r"/\d\.pcap: records must be metered or dropped, got \d+ records"),
    "rejects vanish": (other_rows("rejects"), r"rejects of .*\.pcap: found 0, captures\.parquet says 1"),
    "other records": (lambda d: recard(d, lambda c: c["accounting"].update(records=9)), "accounting: records: found"),
    "other drops": (lambda d: recard(d, lambda c: c["accounting"].update(dropped={})), "accounting: dropped: found"),
    "other rejects": (lambda d: recard(d, lambda c: c["accounting"].update(rejects=1)), "accounting: rejects: found 0"),
    "other corpus": (lambda d: recard(d, lambda c: c.update(corpus_digest="00")), "corpus digest: found"),
    "other coverage": (lambda d: recard(d, lambda c: c["coverage"][0].update(conflicts=10**6)), "labelled rows of"),
    "cut shard": (truncated, r"shard flows/.*: SHA-256: found \w+, the card says"),
    "null": (lambda d: reshard(d, with_null("protocol")), "column 'protocol': found .*: uint8>, .*uint8 not null>"),
    "null item": (lambda d: reshard(d, with_null("pkt_ttl")), "column 'pkt_ttl': found .*uint8>>, .*uint8 not null>"),
    "not finite": (lambda d: reshard(d, not_finite), "column 'duration_ns': found .*double .*int64 not null"),
    "empty": (lambda d: reshard(d, emptied), "shortest sequence: found 0, .* says at least 1"),
    "no direction": (lambda d: reshard(d, sideways), "pkt_dir: found 0, .* says -1 or 1"),
    "lost column": (lambda d: reshard(d, lambda t: t.drop_columns([FLAGS])), "column 'pkt_tcp_flags': found missing"),
    "wide column": (
        lambda d: reshard(d, lambda t: t.cast(wider(t.schema))),
        "column 'protocol': found .*int64",
    ),
    "other order of columns": (lambda d: reshard(d, lambda t: t.select(t.schema.names[::-1])), "columns: found label_"),
    "row groups": (lambda d: recard(d, lambda c: c["shards"][0].update(row_groups=[1])), r"row groups: found \["),
    "row count": (lambda d: recard(d, lambda c: c["shards"][0].update(rows=1)), r": rows: found \d+, the card says 1"),
    "order of rows": (lambda d: reshard(d, lambda t: t.take(list(range(t.num_rows))[::-1])), "in the order of their"),
    "label number too high": (lambda d: reshard(d, relabelled(2)), "of task .* must be from 0 to 1, got 2"),
    "negative label number": (lambda d: reshard(d, relabelled(-1)), "must be from 0 to 1, got -1"),
    "ragged": (lambda d: reshard(d, shorter("pkt_ttl")), "pkt_size and pkt_ttl of a flow must have the same length"),
    "long": (lambda d: recard(d, lambda c: c["definition"].update(k=5)), r"schema\.pbtxt: schema"),
    "other labels": (lambda d: reshard(d, swapped), "rows and classes of split 'train': found"),
    "other classes": (lambda d: recard(d, lambda c: c["splits"]["test"].update(rows=1)), "classes of split 'test'"),
    "split leaks": (copied_row("train", "test"), r"flow \w{32} is in the splits train and test"),
    "doubled id": (copied_row("train", "train"), r"flow \w{32} is in two rows"),
    "other rule": (lambda d: recard(d, by("flow")), r"flow \w{32} must be in split \w+ with splits by flow"),
    "other cuts": (lambda d: recard(d, by("time", cuts_ns=[0, 0])), "must be in split test with splits by time"),
    "shared hosts": (hosts_in_two_splits, "1 host pairs are in the splits train and validation"),
    "duplicates": (doubled_sequence, r"deduplicate: split left \d+ duplicates in \w+ train"),
    "other leakage": (other_conflicts, r"leakage: conflicts: found \{.*\}, the card says \{\}"),
    "lost flows": (lambda d: recard(d, lambda c: c["accounting"].update(flows=10**6)), "flows in shards: found"),
    "other statistics": (
        lambda d: recard(d, lambda c: c["normalisation"]["pkt_ttl"].update(mean=1.5)), "normalisation of pkt_ttl: found"
    ),
    "other content": (lambda d: reshard(d, shift_windows, "test"), "content hash: found"),
    "other hash": (lambda d: recard(d, lambda c: c.update(content_hash="00")), "content hash: found .* says 00;"),
}  # fmt: skip


def with_null(name: str) -> Callable[[pa.Table], pa.Table]:
    """Returns a change that puts a null into a column's first row or first list, as another schema allows."""

    def change_table(table: pa.Table) -> pa.Table:
        kind, values = table.schema.field(name).type, table[name].to_pylist()
        listed = pa.types.is_list(kind)
        column = pa.array([[None] if listed else None, *values[1:]], pa.list_(kind.value_type) if listed else kind)
        return table.set_column(table.schema.get_field_index(name), name, column)

    return change_table


def not_finite(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("duration_ns")
    field = pa.field("duration_ns", pa.float64(), nullable=False)
    return table.set_column(at, field, pa.array([float("inf")] + [1.0] * (table.num_rows - 1)))


def emptied(table: pa.Table) -> pa.Table:
    for name in [name for name in table.schema.names if name.startswith("pkt_")]:
        table = replaced(name, lambda lists: [[], *lists[1:]])(table)
    return table


def sideways(table: pa.Table) -> pa.Table:
    return replaced("pkt_dir", lambda lists: [[0] * len(lists[0]), *lists[1:]])(table)


def shift_windows(table: pa.Table) -> pa.Table:
    return replaced("pkt_tcp_window", lambda lists: [[value ^ 1 for value in values] for values in lists])(table)


def test_a_built_dataset_agrees_with_its_card(whole):
    card = card_of(whole)
    found = verify(whole)
    assert (found.captures, found.content_hash) == (18, card["content_hash"])
    assert (found.shards, found.rows) == (len(card["shards"]), sum(shard["rows"] for shard in card["shards"]))


@pytest.mark.parametrize("name", BREAKS)
def test_damage_is_named(dataset, name):
    spoil, message = BREAKS[name]
    spoil(dataset)
    with pytest.raises(FlowloomError, match=message):
        verify(dataset)


@pytest.mark.parametrize("name", [CAPTURES_TABLE, REJECTS_TABLE, TF_SCHEMA, CARD])
def test_a_flipped_bit_beside_the_shards_is_named(whole, tmp_path, name):
    copy = Path(shutil.copytree(whole, tmp_path / "dataset"))
    content = bytearray((copy / name).read_bytes())
    at = content.index(b'"name": "') + 9 if name == CARD else len(content) // 2
    content[at] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(FlowloomError, match=f"{name}.*SHA-256|{name} must have the {SEAL}"):
        verify(copy)


def test_longer_sequences_than_k_are_named(dataset):
    reshard(dataset, longer)
    with pytest.raises(FlowloomError, match=r"longest sequence: found 61, the card says at most k = 60"):
        verify(dataset)


def longer(table: pa.Table) -> pa.Table:
    for name in [name for name in table.schema.names if name.startswith("pkt_")]:
        table = replaced(name, lambda lists: [[lists[0][0]] * 61, *lists[1:]])(table)
    return table


def test_groups_of_a_capture_split_lie_in_one_split(dataset):
    group = next(
        pq.ParquetFile(dataset / shard["path"]).read()["group"][0].as_py()
        for shard in card_of(dataset)["shards"]
        if shard["split"] == "train"
    )
    reshard(dataset, replaced("group", lambda groups: [group] * len(groups)), "validation")
    with pytest.raises(FlowloomError, match=rf"capture group {group} is in the splits train and validation"):
        verify(dataset)


def test_leakage_on_the_card_is_measured_again(dataset):
    leakage = measure_leakage(dataset)
    recard(dataset, lambda card: card.update(leakage=leakage.model_dump()))
    assert verify(dataset).content_hash == card_of(dataset)["content_hash"]


def test_statistics_beside_the_card_are_those_of_the_dataset(dataset):
    card = read_card(dataset)
    sketch = DatasetSketch(card.tasks, card.definition.k)
    for shard in card.shards:
        for rows in pq.ParquetFile(dataset / shard.path).iter_batches():
            sketch.add(shard.split, rows)
    statistics = sketch.statistics(card.content_hash)
    (dataset / REPORT).write_text("")
    where = dataset / STATISTICS
    where.write_text(statistics.model_dump_json())
    assert verify(dataset).content_hash == card.content_hash
    for changed, words in (
        ({"content_hash": "00"}, r"statistics\.json: content hash: found 00"),
        ({"rows": {}}, r"statistics\.json: rows: found"),
        ({"unknown": {}}, r"statistics\.json: unknown: found"),
        ({"statistics_version": 99}, "has version 99"),
        ({"rows": "many"}, "is damaged at rows"),
    ):
        where.write_text(json.dumps({**json.loads(statistics.model_dump_json()), **changed}))
        with pytest.raises(FlowloomError, match=words):
            verify(dataset)
    where.write_text("{")
    with pytest.raises(FlowloomError, match="is not JSON"):
        verify(dataset)


def test_every_shard_is_announced(whole):
    seen = []
    verify(whole, lambda one: seen.append((one.text, one.done, one.total)))
    paths = [shard["path"] for shard in card_of(whole)["shards"]]
    assert seen == [(path, at, len(paths)) for at, path in enumerate(paths)]
