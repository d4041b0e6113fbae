"""Dataset card: written only if all pairs of counts agree."""

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from synthetic import synthetic_flows

from flowloom.schemas.arrow.accounting import CAPTURES, CLOCK_COLUMNS, DROPPED_COLUMNS
from flowloom.schemas.corpus.manifest import Output, parse_manifest
from flowloom.schemas.dataset.card_parts import SplitRule
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, CARD, read_card
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.captures.capture_digest import LEAF_BYTES, CaptureLeaves
from flowloom.transforms.captures.groups import reject_rows
from flowloom.transforms.dataset.build_results import BuildResults, gather_results
from flowloom.transforms.dataset.layouts import AURORA, LaidOut
from flowloom.transforms.dataset.shards import spill_digests, write_shard
from flowloom.transforms.dataset.write_card import write_card
from flowloom.transforms.io.verdict import FAILURE
from flowloom.transforms.labels.label_bins import LabelBins
from flowloom.transforms.labels.label_flows import GroupLabels, LabelClaim, label_by_path
from flowloom.transforms.metering.accounts import CaptureSha256, GroupAccount
from flowloom.transforms.published.plan_published import PublishedFindings
from flowloom.transforms.splits.splits import SplitPlan

MANIFEST = parse_manifest(
    {
        "name": "m",
        "captures": [{"glob": "a", "labels": {"attack": True}}, {"glob": "b", "labels": {"attack": False}}],
        "tasks": {"attack": {"kind": "binary"}},
    },
    "m.yaml",
)
GROUP = "a" * 16
LABELS = (GroupLabels(GROUP, (1,), (LabelClaim("attack", "a", True), LabelClaim("attack", "b", False)), True),)
CAPTURE = {
    "uri": "/in/a", "digest": "a" * 64, "sha256": None, "group": GROUP, "bytes": 9,
    "format": "pcap", "compression": "none",
    "link_types": [1], "records": 32, "metered": 30,
        **dict.fromkeys(("metered_cut", *DROPPED_COLUMNS, *CLOCK_COLUMNS), 0),
        "dropped_not_ip": 2,
    "rejects": 0, "first_ns": 1, "last_ns": 2,
}  # fmt: skip
NONE_PUBLISHED = PublishedFindings((), {}, reject_rows([]))


@pytest.fixture
def findings(tmp_path) -> BuildResults:
    rows = label_by_path(synthetic_flows(20, group=GROUP), LABELS, MANIFEST.tasks)
    written = write_shard(("flows", AURORA, "train", 0), [rows], str(tmp_path), MANIFEST.tasks, Output(shards=1))
    shard = spill_digests(written, str(tmp_path))
    account = GroupAccount(GROUP, 20, 3, batch([CAPTURE], CAPTURES), reject_rows([]))
    rule = SplitRule(by="flow", reason="", seed=7, shares=(1.0, 0.0, 0.0))
    layouts = [LaidOut({AURORA: 8}, 0), LaidOut({AURORA: 12}, 0)]
    return gather_results(
        LABELS, NONE_PUBLISHED, SplitPlan(rule, {}), LabelBins(MANIFEST.tasks), [shard], [account], layouts=layouts
    )


def failure(findings: BuildResults, staging: Path) -> str:
    assert write_card(findings, MANIFEST, "/in", str(staging)) == f"{staging}/{FAILURE}"
    assert not (staging / CARD).exists()
    return (staging / FAILURE).read_text()


def test_counts_that_agree_give_a_card(findings, tmp_path):
    write_card(findings, MANIFEST, "/in", str(tmp_path))
    card = read_card(tmp_path)
    assert (card.accounting.flows, card.accounting.flows_short, card.accounting.records) == (23, 3, 32)
    assert card.splits["train"].classes == {"attack": {"negative": 0, "positive": 20}}
    assert card.splits["test"].rows == 0
    assert [(entry.source, entry.labelled, entry.conflicts) for entry in card.coverage] == [("a", 20, 0), ("b", 20, 20)]


def test_lost_rows_are_a_failure(findings, tmp_path):
    assert "shards must have all laid out rows" in failure(
        dataclasses.replace(findings, rows={("flows", AURORA): 21}), tmp_path
    )
    assert "shards must have all laid out rows" in failure(dataclasses.replace(findings, shards=[]), tmp_path)
    doubled = dataclasses.replace(findings, shards=[*findings.shards] * 2, rows={("flows", AURORA): 40})
    assert "each flow must have a row, got 40 rows of 23 flows, 3 too short" in failure(doubled, tmp_path)


def test_missing_records_are_a_failure(findings, tmp_path):
    capture = batch([{**CAPTURE, "records": 33}], CAPTURES)
    accounts = [dataclasses.replace(findings.accounts[0], captures=capture)]
    message = failure(dataclasses.replace(findings, accounts=accounts), tmp_path)
    assert "a: records must be metered or dropped, got 33 records, 30 metered and 2 dropped" in message


def test_digests_of_ranges_are_joined_and_missing_ones_are_a_failure(findings, tmp_path):
    captures = batch([{**CAPTURE, "digest": "", "bytes": LEAF_BYTES + 1}], CAPTURES)
    account = dataclasses.replace(findings.accounts[0], captures=captures)
    first, second = (CaptureLeaves("/in/a", at, bytes([at]) * 32) for at in range(2))
    shards = [spill_digests(shard, str(tmp_path)) for shard in findings.shards]
    plans = (LABELS, NONE_PUBLISHED, findings.split_plan, LabelBins(MANIFEST.tasks))
    layouts = [LaidOut({AURORA: 20}, 0)]
    for leaves in ((), (first,), (second,), (first, first)):
        without = gather_results(*plans, shards, [dataclasses.replace(account, leaves=leaves)], layouts=layouts)
        assert "a: the digest must cover every byte of the capture, got parts of it" in failure(without, tmp_path)
    empty = batch([], CAPTURES)
    accounts = [dataclasses.replace(account, leaves=(second,))]
    accounts += [dataclasses.replace(account, captures=empty, flows=0, flows_short=0, leaves=(first,))]
    known = gather_results(*plans, shards, accounts, [CaptureSha256("/in/a", "b" * 64)], layouts=layouts)
    write_card(known, MANIFEST, "/in", str(tmp_path))
    (row,) = pq.read_table(tmp_path / CAPTURES_TABLE).to_pylist()
    assert row["digest"] == blake3(bytes(32) + b"\1" * 32).hexdigest()
    assert row["sha256"] == "b" * 64


def test_conflicts_are_a_failure_if_the_manifest_says_so(findings, tmp_path):
    strict = MANIFEST.model_copy(update={"on_conflict": {"attack": "error"}})
    assert write_card(findings, strict, "/in", str(tmp_path)) == f"{tmp_path}/{FAILURE}"
    message = (tmp_path / FAILURE).read_text()
    assert "labels of task 'attack' must agree (on_conflict: error)" in message
    assert "b: 20 flows against an earlier source, 0 within it; correct" in message


def test_captures_of_one_group_are_a_timeline_with_gaps_and_overlaps(findings, tmp_path):
    spans = [(0, 10), (12, 20), (18, 30), (31, 40)]
    rows = [
        {**CAPTURE, "uri": f"/in/{i}", "first_ns": a * 10**9, "last_ns": b * 10**9} for i, (a, b) in enumerate(spans)
    ]
    accounts = [dataclasses.replace(findings.accounts[0], captures=batch([row], CAPTURES)) for row in reversed(rows)]
    for account in accounts[1:]:
        accounts[accounts.index(account)] = dataclasses.replace(account, flows=0, flows_short=0)
    write_card(dataclasses.replace(findings, accounts=accounts), MANIFEST, "/in", str(tmp_path))
    (line,) = read_card(tmp_path).timelines
    assert (line.group, line.captures, line.seconds) == (GROUP, 4, 40)
    assert (line.gaps, line.largest_gap_s, line.overlaps, line.largest_overlap_s) == (1, 2, 1, 2)


def test_ranges_of_one_capture_give_one_row(findings, tmp_path):
    parts = [
        {**CAPTURE, "first_ns": 5, "link_types": [1]},
        {**CAPTURE, "first_ns": 3, "last_ns": 9, "link_types": [101]},
    ]
    accounts = [dataclasses.replace(findings.accounts[0], captures=batch(parts, CAPTURES))]
    write_card(dataclasses.replace(findings, accounts=accounts), MANIFEST, "/in", str(tmp_path))
    (row,) = pq.read_table(tmp_path / CAPTURES_TABLE).to_pylist()
    assert (row["records"], row["metered"], row["first_ns"], row["last_ns"]) == (64, 60, 3, 9)
    assert row["link_types"] == [1, 101]
    assert read_card(tmp_path).timelines == ()
