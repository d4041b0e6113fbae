"""Kitsune on datasets of packet decisions, built by manifests of docs/corpora in its authors' layout."""

import gzip
import itertools
import json
import lzma
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from capture_files import ethernet, ipv4, pcap, tcp, udp

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.reproduce.kitsune.kitnet import KitNET, KitNETOptions
from flowloom.pipelines.reproduce.kitsune.kitsune_baseline import KitsuneOptions, kitsune_baseline
from flowloom.pipelines.reproduce.multa.multa_data import KITSUNE, kitsune_manifest
from flowloom.pipelines.verify import verify
from flowloom.schemas.arrow.rows import PACKETS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.schemas.dataset.dataset_card import CARD, read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import SEAL
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.packets.afterimage import AfterImage

CORPORA = Path(__file__).resolve().parents[4] / "docs" / "corpora"
NS = 1_700_000_000_000_000_000
PACKETS_SENT, FLOOD_BEGINS, FLOOD_EVERY = 1_500, 700, 2

pytestmark = pytest.mark.timeout(300)


def frames() -> tuple[list[tuple[int, bytes]], list[int]]:
    """Requests and answers of three hosts, later beside answers of SSDP that nobody asked for, and labels."""
    rng = np.random.default_rng(5)
    made, labels = [], []
    for at in range(PACKETS_SENT):
        now = NS + at * 20_000_000 + int(rng.integers(5_000_000))
        flood = at >= FLOOD_BEGINS and at % FLOOD_EVERY == 0
        if flood:
            packet = ipv4(udp(bytes(310), 1900, 40_000 + at % 7), f"192.168.9.{at % 50 + 1}", "10.0.0.9", 17)
        else:
            ends = f"10.0.0.{at // 2 % 3 + 1}", "10.0.0.9"
            if at % 4 < 2:
                packet = ipv4(tcp(bytes(int(rng.integers(20, 60))), 5, 80), *ends)
            else:
                packet = ipv4(tcp(bytes(int(rng.integers(500, 900))), 80, 5), *ends[::-1])
        made.append((now, ethernet(packet)))
        labels.append(int(flood))
    return made, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with SSDP, a dataset that docs/corpora/kitsune-ssdp-flood.yaml builds of packets made here."""
    root = tmp_path_factory.mktemp("kitsune")
    (root / "SSDP Flood").mkdir()
    made, labels = frames()
    (root / "SSDP Flood" / "SSDP_Flood_pcap.pcapng.gz").write_bytes(gzip.compress(pcap(made)))
    text = "".join(f"{label}\n" for label in labels)
    (root / "SSDP Flood" / "SSDP_Flood_labels.csv.gz").write_bytes(gzip.compress(text.encode()))
    (root / "m.yaml").write_text((CORPORA / "kitsune-ssdp-flood.yaml").read_text())
    build(BuildOptions(root / "m.yaml", root / "SSDP"))
    return root


def test_every_packet_is_a_row_with_its_own_label(folder):
    verify(folder / "SSDP")
    card = read_card(folder / "SSDP")
    assert card.accounting.metered == card.accounting.flows == PACKETS_SENT
    rows = pa.concat_tables([pq.read_table(folder / "SSDP" / shard.path, partitioning=None) for shard in card.shards])
    rows = rows.sort_by("start")
    assert rows["label_ssdp_flood"].to_pylist() == frames()[1]
    assert max(map(len, rows["pkt_size"].to_pylist())) == 20
    assert rows["start"].cast(pa.int64()).to_pylist() == [time for time, _ in frames()[0]]
    for split, classes in card.splits.items():
        assert classes.classes["ssdp_flood"]["positive"] > 0, split


def test_scores_are_those_of_the_packets_of_the_capture(folder):
    found = kitsune_baseline(KitsuneOptions(folder / "SSDP", "ssdp_flood", map_rows=200, train_rows=None, cluster=5))
    part = CaptureRange(str(folder / "SSDP Flood" / "SSDP_Flood_pcap.pcapng.gz"))
    packets = GroupReader([part], "00c0ffee00c0ffee", FlowDefinition()).packets(part)
    features = AfterImage().update(concatenated(list(packets), PACKETS))
    kitnet = KitNET.fit(features[:FLOOD_BEGINS], 200, KitNETOptions(cluster=5))
    scores, labels = kitnet.score(features), np.array(frames()[1])
    tested = len(found.scores)
    np.testing.assert_allclose(found.scores, scores[-tested:], rtol=1e-9)
    np.testing.assert_array_equal(found.labels, labels[-tested:])
    figures = json.loads(json.dumps(found.figures))
    assert figures["packets"] == tested == 300
    assert (figures["mapped"], figures["trained"]) == (200, FLOOD_BEGINS - 200)
    assert (figures["parameters"], figures["macs"]) == (kitnet.parameters, kitnet.macs)
    attacks, others = found.scores[found.labels == 1], found.scores[found.labels == 0]
    assert figures["auc"] == pytest.approx(np.mean(attacks[:, None] > others) + np.mean(attacks[:, None] == others) / 2)
    assert figures["auc"] > 0.8
    assert min(figures["features_us"], figures["inference_us"]) > 0


def test_training_stops_at_the_limit_and_before_the_first_attack(folder):
    found = kitsune_baseline(KitsuneOptions(folder / "SSDP", "ssdp_flood", map_rows=100, train_rows=50))
    assert found.figures["trained"] == 50
    message = f"more than map_rows={FLOOD_BEGINS} packets before the first attack of task 'ssdp_flood', got 700"
    with pytest.raises(FlowloomError, match=message):
        kitsune_baseline(KitsuneOptions(folder / "SSDP", "ssdp_flood", map_rows=FLOOD_BEGINS))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("definition", "decision"), "flow", "decision must be packet for Kitsune, .*got flow"),
        (("definition", "size"), "ip", "size must be wire for Kitsune, .*got ip"),
        (("identity",), "drop", "got drop; build the dataset with identity: keep or pseudonym"),
    ],
)
def test_datasets_without_the_needed_fields_are_rejected(folder, tmp_path, place, value, message):
    card = json.loads((folder / "SSDP" / CARD).read_text())
    card.pop(SEAL)
    part = card
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    if value == "flow":
        part["key"] = "five_tuple"
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(FlowloomError, match=message):
        kitsune_baseline(KitsuneOptions(tmp_path, "ssdp_flood"))


def test_options_are_checked(folder):
    with pytest.raises(
        FlowloomError, match="task must be one of ssdp_flood, got 'sdp_flood'; did you mean 'ssdp_flood'"
    ):
        kitsune_baseline(KitsuneOptions(folder / "SSDP", "sdp_flood"))
    with pytest.raises(FlowloomError, match="split must be one of train, validation, test, got 'tests'"):
        kitsune_baseline(KitsuneOptions(folder / "SSDP", "ssdp_flood", split="tests"))
    with pytest.raises(FlowloomError, match="map_rows must be at least 2, got 1"):
        KitsuneOptions(folder, "ssdp_flood", map_rows=1)
    with pytest.raises(FlowloomError, match="train_rows must be at least 1, got 0"):
        KitsuneOptions(folder, "ssdp_flood", train_rows=0)


def test_the_three_sets_as_one_rainbow_of_flows_with_the_head_of_mirai(real_data, tmp_path):
    """docs/corpora/kitsune.yaml, with the real packets and labels at hand in place of the first set."""
    with lzma.open(real_data / "kitsune-mirai" / "mirai_labels.csv.xz", "rt") as file:
        head = [line.strip().split(",")[-1] for line in itertools.islice(file, 2_001)]
    labels = [word for word in head if word in ("0", "1")][:2_000]
    made, flood = frames()
    written = {
        "SSDP Flood": ((real_data / "kitsune-mirai" / "mirai2000.pcap").read_bytes(), labels),
        "SSL Renegotiation": (pcap(made), flood),
        "SYN DoS": (pcap([(time + 1, frame) for time, frame in made]), flood),
    }
    for name, (capture, words) in written.items():
        stem = tmp_path / name / name.replace(" ", "_")
        stem.parent.mkdir()
        stem.with_name(f"{stem.name}_pcap.pcap").write_bytes(capture)
        text = "".join(f"{word}\n" for word in words)
        stem.with_name(f"{stem.name}_labels.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "m.yaml").write_text((CORPORA / "kitsune.yaml").read_text())
    card = build(BuildOptions(tmp_path / "m.yaml", tmp_path / "dataset", allow_empty=True))  # the head has no attack
    verify(tmp_path / "dataset")
    assert card.layout == "rainbow"
    assert card.accounting.records == 2_000 + 2 * PACKETS_SENT
    totals = {
        task.name: {
            word: sum(split.classes[task.name][word] for split in card.splits.values()) for word in task.vocabulary
        }
        for task in card.tasks
    }
    assert totals["ssdp_flood"]["positive"] == 0 < totals["ssdp_flood"]["negative"]  # Mirai attacks far behind its head
    assert totals["syn_dos"] == totals["tls_renegotiation"]
    assert totals["syn_dos"]["positive"] == len({(at % 50, at % 7) for at in range(FLOOD_BEGINS, PACKETS_SENT, 2)})


def test_what_is_reproduced_is_what_the_manifests_say(tmp_path):
    for name in KITSUNE:
        made = kitsune_manifest("", name)
        documented = yaml.safe_load((CORPORA / f"{made['name']}.yaml").read_text())
        assert parse_manifest(made, "made") == parse_manifest(documented, "documented")


def test_kitsune_can_learn_from_all_benign_packets(folder):
    options = {"map_rows": 200, "train_rows": None, "cluster": 5}
    found = kitsune_baseline(KitsuneOptions(folder / "SSDP", "ssdp_flood", benign="labelled", **options))
    card = read_card(folder / "SSDP")
    assert found.figures["trained"] == card.splits["train"].classes["ssdp_flood"]["negative"] - 200
    with pytest.raises(FlowloomError, match="benign must be prefix or labelled, got 'all'"):
        KitsuneOptions(folder, "ssdp_flood", benign="all")


def test_the_three_manifests_differ_by_their_set_alone():
    names = [f"kitsune-{name}.yaml" for name in ("ssdp-flood", "ssl-renegotiation", "syn-dos")]
    manifests = [parse_manifest(yaml.safe_load((CORPORA / name).read_text()), name) for name in names]
    assert len({manifest.tasks[0].name for manifest in manifests}) == 3
    assert len({(m.definition, m.splits, m.layout, m.identity, m.output) for m in manifests}) == 1
