"""The card of scores: what all workers counted, put together, checked, and written last."""

import dataclasses
import importlib.metadata
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from flowloom.schemas.corpus.manifest import Identity
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, REJECTS_TABLE, Accounting
from flowloom.schemas.models.feature_profile import FeatureProfile
from flowloom.schemas.models.score_card import SCORE_CARD, ScoreCard, ScoredModel, ScoreReject
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.dataset.capture_tables import captures_table, count_captures, rejects_table
from flowloom.transforms.io.parquet import write_table
from flowloom.transforms.io.staging import write_text
from flowloom.transforms.io.verdict import fail
from flowloom.transforms.metering.meter_groups import GroupAccount
from flowloom.transforms.score.score_rows import ScoreCounts, WrittenScores
from flowloom.transforms.score.skew import model_skew

ScoreFinding: TypeAlias = GroupAccount | ScoreCounts | WrittenScores | pa.RecordBatch


@dataclasses.dataclass(frozen=True)
class ScorePlan:
    """What is known of a scoring before it starts.

    Attributes:
      trained: the profile of the training; None for the reason `untrained`.
      threshold: of skew, in bits.
      inputs: as the user named them.
      folder: what paths in the tables are relative to, where they lie below it.
      captured: whether captures are among the inputs.
      part_rows: rows of the row groups.
    """

    model: ScoredModel
    trained: FeatureProfile | None
    untrained: str | None
    threshold: float
    inputs: tuple[str, ...]
    identity: Identity
    folder: str
    captured: bool
    part_rows: int


def write_score_card(findings: Iterable[ScoreFinding], plan: ScorePlan, staging: str) -> str:
    """Write the tables of captures and rejects and the card; or what is wrong, and no card.

    Returns:
      The path of the file that was written last.
    """
    accounts: list[GroupAccount] = []
    rejects: list[pa.RecordBatch] = []
    written: list[WrittenScores] = []
    counts = ScoreCounts()
    for found in findings:
        match found:
            case GroupAccount():
                accounts.append(found)
            case ScoreCounts():
                counts = counts + found
            case WrittenScores():
                written.append(found)
            case _:
                rejects.append(found)
    captures = captures_table(accounts, {}, plan.folder)
    refused = rejects_table(accounts, rejects, plan.folder)
    written.sort(key=lambda shard: shard.shard.path)
    scored = sum(shard.shard.rows for shard in written)
    repeated = sum(shard.repeated for shard in written)
    rejected = sum_by_key([counts.rejected, {ScoreReject.REPEATED: repeated} if repeated else {}])
    expected = sum(account.flows for account in accounts) + plan.part_rows
    if fault := _fault(expected, counts.rows, scored + sum(rejected.values()), refused):
        return fail(staging, [fault])
    sums = sum_by_key(shard.classes for shard in written)
    classes = {
        task: dict(zip(words, sums.get(task, np.zeros(len(words), np.int64)).tolist(), strict=True))
        for task, words in plan.model.tasks.items()
    }
    skew = missing = None
    if plan.trained is not None:
        told = {name: tuple(bins.tolist()) for name, bins in counts.counts.items()}
        profile = FeatureProfile(k=plan.trained.k, rows=counts.profiled, counts=told, classes=classes)
        skew = model_skew(plan.trained, profile, plan.threshold)
        missing = None if skew else "no row was scored, or none was trained on"
    short = sum(account.flows_short for account in accounts)
    flows = sum(account.flows for account in accounts) + short
    told = count_captures(captures, refused)
    card = ScoreCard(
        tool_version=importlib.metadata.version("flowloom"),
        model=plan.model,
        inputs=plan.inputs,
        identity=plan.identity,
        rows=counts.rows,
        scored=scored,
        rejected={str(reason): rejected[reason] for reason in sorted(rejected)},
        classes=classes,
        captures=Accounting(**told, flows=flows, flows_short=short, flows_unlabelled=0) if plan.captured else None,
        skew=skew,
        skew_missing=missing or plan.untrained,
        shards=tuple(shard.shard for shard in written),
    )
    write_table(f"{staging}/{CAPTURES_TABLE}", captures)
    write_table(f"{staging}/{REJECTS_TABLE}", refused)
    write_text(f"{staging}/{SCORE_CARD}", card.model_dump_json(indent=2) + "\n")
    return f"{staging}/{SCORE_CARD}"


def _fault(expected: int, came: int, accounted: int, rejects: pa.Table) -> str | None:
    """Return what is wrong with the counts, if anything is."""
    if expected != came or came != accounted:
        return f"rows do not add up: {expected} were metered or read, {came} came to the model, {accounted} are told of"
    if came:
        return None
    reasons = [f"{row['uri']}: {row['reason']}: {row['detail']}" for row in rejects.slice(0, 3).to_pylist()]
    return f"there is no row to score; {'; '.join(reasons) or 'the inputs are empty'}"
