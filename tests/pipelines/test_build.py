"""Builds: equal to their in-memory oracle, the same bytes every time, and honest about what could not be read."""

import base64
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.manifests import read_manifest
from flowloom.pipelines.verify import verify
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, SPLITS
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, CARD, REJECTS_TABLE, DatasetCard, read_card
from flowloom.schemas.dataset.views import StoredViews
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress
from flowloom.transforms.arrays.quantile_sketch import merge_sketches
from flowloom.transforms.captures.groups import GroupPlan, identify_capture, match_source, plan_groups
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.dataset.layouts import lay_out
from flowloom.transforms.flows.identities import IdentityKey, conceal_identities, corpus_key
from flowloom.transforms.labels.label_flows import label_by_path, label_groups
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.splits import leakage
from flowloom.transforms.splits.host_pairs import merge_pairs, pair_classes
from flowloom.transforms.splits.leakage import measure_leakage
from flowloom.transforms.splits.splits import (
    assign_splits,
    plan_pair_splits,
    plan_splits,
    plan_time_splits,
    sketch_starts,
)

pytestmark = pytest.mark.timeout(120)

KEY = hashlib.sha256(b"a key").digest()
PSEUDONYMS = "identity: pseudonym\nkey_file: key\nsplits: {by: host_pair}\n"
STRIPES_BY_TIME = "layout: rainbow\nidentity: drop\nsplits: {by: time}\n"
FIRST_OF_EACH = "deduplicate: all\ndefinition: {k: 1}\n"


@pytest.fixture(scope="module")
def build_small(corpus, manifest, tmp_path_factory):
    """Returns a function that builds the small corpus with lines added to its manifest, each way once."""
    built: dict[tuple, Path] = {}

    def make(extra: str = "", workers: int = 1) -> Path:
        (corpus / "small.yaml").write_text(manifest + extra)
        (corpus / "key").write_bytes(KEY)
        if (extra, workers) not in built:
            out = tmp_path_factory.mktemp("out") / "dataset"
            build(BuildOptions(corpus / "small.yaml", out, workers=workers))
            built[extra, workers] = out
        return built[extra, workers]

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def oracle(manifest: CorpusManifest, folder: Path) -> dict[tuple[str, str], pa.Table]:
    """Composes the pure functions in memory: rows by (stripe, split)."""
    uris = {
        uri: [at for at, source in enumerate(manifest.captures) if uri in match_source(source, str(folder))[0]]
        for source in manifest.captures
        for uri in match_source(source, str(folder))[0]
    }
    plan: GroupPlan = plan_groups([identify_capture(*item) for item in uris.items()], manifest.captures)
    labels = label_groups(plan, manifest)
    split_plan = plan_splits(labels, manifest.tasks, manifest.splits)
    key = IdentityKey(KEY) if manifest.identity == "pseudonym" else corpus_key(plan)
    labelled: list[pa.RecordBatch] = []
    for group in plan.groups:
        whole = [CaptureRange(capture.uri, origin=group.origins[capture.uri]) for capture in group.captures]
        for read in GroupReader(whole, group.group, manifest.definition).flows():
            flows = read if manifest.identity == "keep" else conceal_identities(read, key)
            labelled.append(label_by_path(flows, labels, manifest.tasks))
    if manifest.splits.by == "time":
        split_plan = plan_time_splits(split_plan, merge_sketches(map(sketch_starts, labelled)))
    if manifest.splits.by == "host_pair":
        pairs = [pair_classes(flows, manifest.tasks, manifest.splits.seed) for flows in labelled]
        split_plan = plan_pair_splits(split_plan, merge_pairs(pairs), manifest.tasks)
    stripes: dict[tuple[str, str], list[pa.RecordBatch]] = {}
    for flows in labelled:
        rows = assign_splits(flows, split_plan)
        for stripe, laid in lay_out(rows, manifest.tasks, manifest.layout, StoredViews(manifest.identity)):
            for at, split in enumerate(SPLITS):
                kept = laid.filter(pc.equal(laid[SPLIT_COLUMN], at)).drop_columns([SPLIT_COLUMN])
                if kept.num_rows:
                    stripes.setdefault((stripe, split), []).append(kept)
    found = {key: in_order(pa.Table.from_batches(batches)) for key, batches in stripes.items()}
    return first_of_each(found) if manifest.deduplicate == "all" else found


def first_of_each(tables: dict[tuple[str, str], pa.Table]) -> dict[tuple[str, str], pa.Table]:
    """Keeps the first row of each sequence of sizes and directions in a stripe."""
    seen, kept = set(), {}
    for (stripe, split), table in sorted(tables.items(), key=lambda item: SPLITS.index(item[0][1])):
        chosen = []
        for row in table.select(["pkt_size", "pkt_dir"]).to_pylist():
            sequence = (stripe, *row["pkt_size"], *row["pkt_dir"])
            chosen.append(sequence not in seen)
            seen.add(sequence)
        kept[stripe, split] = table.filter(pa.array(chosen)).combine_chunks()
    return kept


def in_order(table: pa.Table) -> pa.Table:
    return table.sort_by([("start", "ascending"), ("flow_id", "ascending")]).combine_chunks()


def stored(out: Path, card: DatasetCard) -> dict[tuple[str, str], pa.Table]:
    tables: dict[tuple[str, str], list[pa.Table]] = {}
    for shard in card.shards:
        table = pq.ParquetFile(out / shard.path).read()
        assert table.num_rows == shard.rows == sum(shard.row_groups)
        tables.setdefault((shard.task or "", shard.split), []).append(table)
    return {key: in_order(pa.concat_tables(parts)) for key, parts in tables.items()}


def tables(out: Path) -> list[pa.Table]:
    return [pq.ParquetFile(out / shard.path).read() for shard in read_card(out).shards]


@pytest.mark.parametrize(
    "extra", ["", "layout: rainbow\nidentity: drop\nsplits: {by: time}\n", PSEUDONYMS + FIRST_OF_EACH]
)
def test_a_build_equals_its_oracle(build_small, corpus, extra):
    out = build_small(extra)
    card = read_card(out)
    assert stored(out, card) == oracle(read_manifest(corpus / "small.yaml"), corpus)
    assert (card.accounting.rows_duplicate > 0) == (card.deduplicate == "all")
    assert verify(out).content_hash == card.content_hash


def test_a_key_is_named_and_never_written(build_small):
    out = build_small(PSEUDONYMS + FIRST_OF_EACH)
    assert read_card(out).key_id == hashlib.sha256(KEY).hexdigest()[:16]
    stored_bytes = b"".join([*files(out).values(), *(pickle.dumps(t.to_pydict()) for t in tables(out))])
    for spelt in (KEY[:16], KEY[16:], KEY.hex().encode(), KEY.hex().upper().encode(), base64.b64encode(KEY)):
        assert spelt not in stored_bytes
    # the ids of the same flows, and the hosts behind them, are others
    (one, other) = (pa.concat_tables(tables(folder)) for folder in (out, build_small()))
    for name in ("flow_id", "src_ip", "dst_ip"):
        assert set(one[name].to_pylist()).isdisjoint(other[name].to_pylist())


def test_the_same_bytes_on_repeat_and_for_any_worker_count(build_small, corpus, manifest, tmp_path):
    one, two = files(build_small()), files(build_small(workers=2))
    assert list(one) == list(two)
    assert [name for name in one if one[name] != two[name]] == []
    # elsewhere, under other names
    shutil.copytree(corpus, tmp_path / "moved")
    build(BuildOptions(tmp_path / "moved" / "small.yaml", tmp_path / "again", workers=2))
    assert files(tmp_path / "again") == files(build_small(workers=2))


@pytest.mark.parametrize("split", [pytest.param("2KiB", marks=pytest.mark.slow), "20KiB"])
def test_stretches_of_captures_change_no_byte_of_a_shard(corpus, manifest, tmp_path, split):
    def shards(name: str, split: str, workers: int) -> tuple:
        path = corpus / f"{name}.yaml"
        document = yaml.safe_load(manifest)
        document["output"] = {"shards": 2, "split_bytes": split}
        for source in document["captures"]:
            source["group"] = Path(source["glob"]).parent.name  # captures of one timeline, each again in stretches
        document["splits"] = {"by": "flow"}
        path.write_text(yaml.safe_dump(document))
        card = build(BuildOptions(path, tmp_path / name, workers=workers))
        tables = {table: (tmp_path / name / table).read_bytes() for table in (CAPTURES_TABLE, REJECTS_TABLE)}
        return card.content_hash, {s.path: (tmp_path / name / s.path).read_bytes() for s in card.shards}, tables

    assert shards("whole", "1GiB", 1) == shards("cut", split, 2)


def test_more_flows_than_may_be_open_are_the_same_from_ranges(corpus, manifest, tmp_path):
    """Ranges cannot know which flows end for lack of resources, so the build meters these groups in one piece."""

    def built(name: str, split: str, workers: int) -> tuple[DatasetCard, list[str]]:
        document = yaml.safe_load(manifest)
        document["definition"] = {"max_open_flows": 4}
        document["output"] = {"split_bytes": split}
        document["splits"] = {"by": "flow"}
        for source in document["captures"]:
            source["group"] = Path(source["glob"]).parent.name
        path = corpus / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        said: list[Progress] = []
        card = build(BuildOptions(path, tmp_path / name, workers=workers), said.append)
        return card, [each.text for each in said if each.stays]

    whole, _ = built("piece", "1GiB", 1)
    cut, said = built("ranges", "8KiB", 2)
    assert cut.content_hash == whole.content_hash
    assert cut.accounting == whole.accounting
    assert cut.accounting.flows_ended_early > 0
    assert verify(tmp_path / "ranges").content_hash == whole.content_hash
    again, early = said
    assert again.endswith("max_open_flows=4 open flows; each of them is metered again in one piece")
    assert early.startswith(f"warning: {cut.accounting.flows_ended_early:,} flows ended early (end reason 5)")


def test_names_and_shard_counts_leave_the_content_hash(build_small, corpus, manifest, tmp_path):
    for path in corpus.glob("*/*.pcap"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name / f"renamed-{9 - int(path.stem)}.pcap")
    (tmp_path / "small.yaml").write_text(manifest.replace("shards: 2", "shards: 5"))
    card = build(BuildOptions(tmp_path / "small.yaml", tmp_path / "out", workers=1))
    before = read_card(build_small())
    assert card.content_hash == before.content_hash
    assert card.corpus_digest == before.corpus_digest
    assert card.splits == before.splits
    assert card.normalisation == before.normalisation
    assert len(card.shards) > len(before.shards)


def test_the_card_adds_up(build_small):
    card = read_card(build_small())
    account = card.accounting
    assert (account.captures, account.rejects, account.dropped) == (18, 0, {"not-ip": 18})
    assert account.records == account.metered + 18
    assert account.flows == sum(split.rows for split in card.splits.values()) == sum(s.rows for s in card.shards)
    assert card.split_rule.by == "capture"
    for split in card.splits.values():
        assert split.rows > 0
        for task in card.tasks:
            assert sum(split.classes[task.name].values()) + split.unknown[task.name] == split.rows
            assert all(split.classes[task.name].values())
    assert {entry.source: entry.labelled for entry in card.coverage if entry.task == "app"} == {
        "web/*.pcap": sum(split.classes["app"]["web"] for split in card.splits.values()),
        "ssh/*.pcap": sum(split.classes["app"]["ssh"] for split in card.splits.values()),
    }
    captures = pq.read_table(build_small() / "captures.parquet")
    assert captures["uri"].to_pylist() == sorted(captures["uri"].to_pylist())
    assert captures["uri"][0].as_py() == "attack/0.pcap"


def test_no_group_lies_in_two_splits(build_small):
    out = build_small()
    groups = {key: set(table["group"].to_pylist()) for key, table in stored(out, read_card(out)).items()}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 18


def test_rainbow_stripes_hold_one_task_and_count_what_has_none(corpus, manifest, tmp_path):
    text = manifest.replace("labels: {attack: true}", "labels: {}") + "layout: rainbow\n"
    (corpus / "stripes.yaml").write_text(text)
    card = build(BuildOptions(corpus / "stripes.yaml", tmp_path / "out", workers=1, allow_empty=True))
    assert card.accounting.flows_unlabelled > 0
    by_task = {task: sum(s.rows for s in card.shards if s.task == task) for task in ("app", "attack")}
    labelled = card.accounting.flows - card.accounting.flows_unlabelled
    assert by_task == {"app": labelled, "attack": labelled}
    assert sum(split.rows for split in card.splits.values()) == 2 * labelled


def test_bad_files_are_rejects_and_the_rest_is_built(corpus, manifest, build_small, tmp_path):
    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    whole = (folder / "web" / "0.pcap").read_bytes()
    (folder / "web" / "text.pcap").write_text("no capture at all")
    (folder / "web" / "empty.pcap").write_bytes(b"")
    (folder / "web" / "copy.pcap").write_bytes(whole)
    (folder / "web" / "cut.pcap").write_bytes(session_cut := (folder / "ssh" / "0.pcap").read_bytes()[:-7])
    (folder / "web" / "link.pcap").write_bytes(pcap([(1, ethernet(ipv4(udp(), protocol=17)))], link_type=147))
    (folder / "small.yaml").write_text(
        manifest.replace("tasks:", '  - {glob: "nothing/*.pcap"}\n  - {glob: "missing.pcap"}\ntasks:')
    )
    card = build(BuildOptions(folder / "small.yaml", tmp_path / "out", workers=2, allow_empty=True))
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [(row["uri"], row["reason"]) for row in rejects] == [
        ("missing.pcap", "unreadable"),
        ("nothing/*.pcap", "no-match"),
        ("web/copy.pcap", "duplicate"),
        ("web/cut.pcap", "cut-off"),
        ("web/empty.pcap", "empty"),
        ("web/text.pcap", "not-a-capture"),
    ]
    assert 0 < next(row["offset"] for row in rejects if row["reason"] == "cut-off") < len(session_cut)
    assert card.accounting.rejects == 6
    assert card.accounting.dropped["unsupported-linktype"] == 1
    captures = {row["uri"]: row for row in pq.read_table(tmp_path / "out" / "captures.parquet").to_pylist()}
    assert "web/text.pcap" not in captures
    assert captures["web/link.pcap"]["link_types"] == [147]
    assert card.accounting.flows > read_card(build_small()).accounting.flows


def expect_failure(folder: Path, text: str, *words: str, allow_empty: bool = False) -> None:
    (folder / "bad.yaml").write_text(text)
    before = sorted(os.listdir(folder))
    with pytest.raises(FlowloomError) as caught:
        build(BuildOptions(folder / "bad.yaml", folder / "out", workers=1, allow_empty=allow_empty))
    for word in words:
        assert word in str(caught.value)
    assert sorted(os.listdir(folder)) == before


def test_a_misspelt_key_is_named(tmp_path, manifest):
    expect_failure(tmp_path, manifest + "layuot: rainbow\n", "bad.yaml: layuot: unknown key", "did you mean 'layout'")


def test_a_label_unknown_to_the_vocabulary_is_named(tmp_path, manifest):
    expect_failure(tmp_path, manifest.replace("app: ssh", "app: shs"), "'ssh/*.pcap'", "web, ssh", "'shs'")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: [", "in line 1, column 8"),
        ("name: a\nname: b\n", "key 'name' for the second time in line 2"),
        ("- a", "got list"),
    ],
)
def test_what_is_no_yaml_mapping_is_named(tmp_path, text, word):
    expect_failure(tmp_path, text, "expected a corpus manifest", word)


def test_a_corpus_without_a_flow_is_an_error_with_the_first_rejects(tmp_path, manifest):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "text.pcap").write_text("no capture")
    words = ("no flow could be built from corpus 'small'", "0 captures", "attack/*.pcap: no-match")
    expect_failure(tmp_path, manifest, *words, allow_empty=True)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(FlowloomError, match=r"none.yaml: cannot read the corpus manifest: No such file"):
        build(BuildOptions(tmp_path / "none.yaml", tmp_path / "out"))


def test_an_existing_output_is_kept(build_small, corpus):
    out = build_small()
    before = files(out)
    with pytest.raises(FlowloomError, match="exists already; remove it, or name another one"):
        build(BuildOptions(corpus / "small.yaml", out))
    assert files(out) == before


def test_workers_must_be_positive(corpus):
    with pytest.raises(FlowloomError, match="workers must be at least 1, got 0"):
        BuildOptions(corpus / "small.yaml", "out", workers=0)


def test_progress_is_told_to_its_end(corpus, manifest, tmp_path):
    (corpus / "small.yaml").write_text(manifest)
    seen: list[Progress] = []
    card = build(BuildOptions(corpus / "small.yaml", tmp_path / "out", workers=1), seen.append)
    flows, shards = card.accounting.flows, len(card.shards)
    size = sum(path.stat().st_size for path in corpus.glob("*/*.pcap"))
    read = (
        f"{size / 1e3:,.1f} of {size / 1e3:,.1f} kB read"
        if size < 1e6
        else f"{size / 1e6:.1f} of {size / 1e6:.1f} MB read"
    )
    text = f"18 of 18 captures, {read}, {flows:,} flows, {shards} shards"
    seen = [each for each in seen if each.event == "progress"]
    assert seen[-1] == Progress(text, size, size)
    assert [each.done for each in seen] == sorted(each.done for each in seen)


def test_the_card_is_what_was_returned(build_small):
    out = build_small()
    document = json.loads((out / CARD).read_text())
    assert len(document.pop("document_sha256")) == 64
    assert DatasetCard.model_validate(document) == read_card(out)
    assert {path.name for path in out.iterdir()} == {
        "captures.parquet", "dataset.json", "flows", "rejects.parquet", "schema.pbtxt",
    }  # fmt: skip


def test_builds_measure_leakage_unless_told_not_to(build_small, monkeypatch):
    skipped = build_small("leakage: skip\n")
    with monkeypatch.context() as patch:
        patch.setattr(leakage, "PARTITION_ROWS", read_card(skipped).accounting.flows // 3)
        out = build_small()
    card = read_card(out)
    assert card.leakage == measure_leakage(out), "in parts and at once"
    assert read_card(skipped) == card.model_copy(update={"leakage": None})
