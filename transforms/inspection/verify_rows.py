"""Verification of claims on the card that need the rows of all shards."""

import itertools
from collections.abc import Sequence

import numpy as np

from flowloom.schemas.corpus.manifest import Deduplicate
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.dataset.card_parts import Accounting
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.transforms.arrays.digests import sort_digests
from flowloom.transforms.dataset.card_counts import count_overlap, count_splits, find_byte_rules, normalisation
from flowloom.transforms.dataset.shards import shards_hash
from flowloom.transforms.inspection.verify_files import CheckedShard, broken, differs

_NO_IDS = np.empty((0, 2), np.uint64)


def check_rows(shards: Sequence[CheckedShard], card: DatasetCard) -> None:
    """Checks counts, ids, splits, statistics and the content hash of all rows against the card.

    Raises:
      FlowloomError: if anything differs; the message names the count, flow, group, channel or hash.
    """
    written = [shard.written for shard in shards]
    for name in card.views:
        known, of = card.splits, ""
        if name != card.views[0]:
            known, of = card.view_splits.get(name, {}), f" of {name}"
        for split, counts in count_splits(written, card.tasks, name).items():
            if known.get(split) != counts:
                raise differs(f"rows and classes of split {split!r}{of}", counts, known.get(split))
    if "flows" in card.views:
        _check_flows([shard for shard in shards if shard.written.shard.view == "flows"], card)
    if "packets" in card.views:
        _check_packets([shard for shard in shards if shard.written.shard.view == "packets"], card)
    if "tables" in card.views:
        _check_tables([shard for shard in shards if shard.written.shard.view == "tables"], card)
    if card.split_rule.by == "capture":
        _check_groups(shards)
    if card.split_rule.by == "host_pair" and card.identity != "drop":
        _check_pairs(shards)
    if card.deduplicate != "none":
        _check_duplicates(shards, card.deduplicate)
    statistics = normalisation(written)
    for channel in {**statistics, **card.normalisation}:
        if statistics.get(channel) != card.normalisation.get(channel):
            raise differs(f"normalisation of {channel}", statistics.get(channel), card.normalisation.get(channel))
    if count_overlap(written, card.views[0]) != card.overlap:
        raise broken("overlap of tasks must be that on the card, got another one")
    if find_byte_rules(written) != card.byte_rules:
        raise broken("byte rules must be those on the card, got others")
    digest = shards_hash(written, card.tasks)
    if digest != card.content_hash:
        raise differs("content hash", digest, card.content_hash)


def _check_packets(shards: Sequence[CheckedShard], card: DatasetCard) -> None:
    """Checks that packets add up, and that all packets of a flow are in one split."""
    account = card.accounting
    if account.metered != account.packet_rows + sum(account.packets_dropped.values()):
        raise differs("packets metered", account.metered, f"{account.packet_rows} rows, {account.packets_dropped}")
    rows = sum(len(shard.ids) for shard in shards)
    read = account.packet_rows + sum(entry.rows for entry in card.published if entry.view == "packets")
    if card.layout == "aurora" and rows != read:
        raise differs("rows of packets in shards", rows, read)
    if card.split_rule.by != "packet":
        _check_packet_splits(shards)


def _check_packet_splits(shards: Sequence[CheckedShard]) -> None:
    """Checks that no flow id is in two splits."""
    by_split = {
        split: np.unique(
            np.concatenate([_NO_IDS, *(shard.ids for shard in shards if shard.written.shard.split == split)]), axis=0
        )
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        both, counts = np.unique(np.concatenate([by_split[one], by_split[other]]), axis=0, return_counts=True)
        for ids in both[counts > 1][:1]:
            raise broken(f"packets of flow {ids.tobytes().hex()} are in the splits {one} and {other}")


def _check_tables(shards: Sequence[CheckedShard], card: DatasetCard) -> None:
    rows = _check_ids(shards)
    read = sum(entry.rows for entry in card.published if entry.view == "tables")
    if rows > read or (card.layout == "aurora" and rows != read):
        raise differs("rows of tables in shards", rows, f"{read} read")


def _check_flows(shards: Sequence[CheckedShard], card: DatasetCard) -> None:
    flows = _check_ids(shards)
    account = card.accounting
    if card.sources:
        _check_merged(flows, account)
    else:
        _check_built(flows, card)
    found = sum(shard.unlabelled for shard in shards)
    if card.layout == "aurora" and not 0 <= account.flows_unlabelled - found <= account.rows_duplicate:
        raise differs("flows without a label", found, account.flows_unlabelled)


def _check_built(flows: int, card: DatasetCard) -> None:
    account = card.accounting
    unlabelled = account.flows_unlabelled if card.layout == "rainbow" else 0
    most = account.flows - account.flows_short - account.flows_absent - unlabelled
    # with stripes a flow is absent only if it is dropped from all of them
    least = most - account.rows_duplicate
    if not least <= flows <= (least if card.layout == "aurora" else most):
        raise differs(
            "flows in shards",
            flows,
            f"{account.flows}, {account.flows_short} too short, {account.flows_absent} absent, "
            f"{unlabelled} without a label, {account.rows_duplicate} rows dropped as duplicates",
        )


def _check_merged(flows: int, account: Accounting) -> None:
    if flows != account.flows - account.flows_short - account.flows_joined - account.flows_absent:
        raise differs(
            "flows in shards",
            flows,
            f"{account.flows}, {account.flows_short} too short, {account.flows_joined} joined, "
            f"{account.flows_absent} absent",
        )


def _check_ids(shards: Sequence[CheckedShard]) -> int:
    """Checks that each id is once in a stripe and in one split only, and returns the number of ids."""
    stripes = sorted({shard.written.shard.task or "" for shard in shards})
    ids = np.concatenate([np.empty((0, 2), np.uint64), *(shard.ids for shard in shards)])
    rows = [len(shard.ids) for shard in shards]
    stripe = np.repeat([stripes.index(shard.written.shard.task or "") for shard in shards], rows).astype(np.int64)
    split = np.repeat([SPLITS.index(shard.written.shard.split) for shard in shards], rows).astype(np.int64)
    order = np.lexsort((stripe, ids[:, 1], ids[:, 0]))
    ids, stripe, split = ids[order], stripe[order], split[order]
    same = (ids[1:] == ids[:-1]).all(axis=1)
    for at in np.flatnonzero(same & (split[1:] != split[:-1]))[:1]:
        between = " and ".join(SPLITS[each] for each in sorted((split[at], split[at + 1])))
        raise broken(f"flow {ids[at].tobytes().hex()} is in the splits {between}")
    for at in np.flatnonzero(same & (stripe[1:] == stripe[:-1]))[:1]:
        of = f" of stripe {stripes[stripe[at]]!r}" if stripes[stripe[at]] else ""
        raise broken(f"flow {ids[at].tobytes().hex()} is in two rows{of}")
    return len(ids) - int(same.sum())


def _check_groups(shards: Sequence[CheckedShard]) -> None:
    of_group: dict[str, str] = {}
    for shard in shards:
        for group in sorted(shard.groups):
            split = of_group.setdefault(group, shard.written.shard.split)
            if split != shard.written.shard.split:
                raise broken(f"capture group {group} is in the splits {split} and {shard.written.shard.split}")


def _check_pairs(shards: Sequence[CheckedShard]) -> None:
    none = np.empty(0, np.uint64)
    by_split = {
        split: np.concatenate([none, *(shard.pairs for shard in shards if shard.written.shard.split == split)])
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        shared = np.intersect1d(by_split[one], by_split[other])
        if len(shared):
            raise broken(f"{len(shared)} host pairs are in the splits {one} and {other}")


def _check_duplicates(shards: Sequence[CheckedShard], scope: Deduplicate) -> None:
    """Checks that no two rows of a stripe, or of a split of it, have the same sizes and directions."""
    by_scope: dict[tuple[str, ...], list[np.ndarray]] = {}
    for shard in shards:
        entry = shard.written.shard
        key = (entry.task or "", *([entry.split] if scope == "split" else []))
        by_scope.setdefault(key, []).append(shard.sequences)
    for key, sequences in by_scope.items():
        ordered = sort_digests(sequences)
        again = int((ordered[1:] == ordered[:-1]).all(axis=1).sum())
        if again:
            raise broken(f"deduplicate: {scope} left {again} duplicates in {' '.join(filter(None, key)) or 'the rows'}")
