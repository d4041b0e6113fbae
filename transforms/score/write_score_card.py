"""Score card: assembles and checks the counts of all workers, and writes the card last."""

import dataclasses
import importlib.metadata
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.corpus.manifest import Identity
from flowloom.schemas.dataset.card_parts import Accounting
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, REJECTS_TABLE
from flowloom.schemas.file_digests import sealed_text
from flowloom.schemas.models.feature_profile import FeatureProfile
from flowloom.schemas.models.score_card import SCORE_CARD, ModelSkew, ScoreCard, ScoredModel, ScoreReject
from flowloom.schemas.parquet_files import write_table
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.dataset.capture_tables import captures_table, count_captures, rejects_table
from flowloom.transforms.io.verdict import ask_whole, fail
from flowloom.transforms.metering.accounts import GroupAccount
from flowloom.transforms.metering.open_flows import crowded_groups
from flowloom.transforms.score.probability_counts import class_probabilities
from flowloom.transforms.score.score_inputs import LostRows
from flowloom.transforms.score.score_rows import ScoreCounts, WrittenScores
from flowloom.transforms.score.skew import model_skew


@dataclasses.dataclass(frozen=True)
class ScorePlan:
    """Facts of a scoring job that are known before it starts.

    Attributes:
      trained: feature profile of the training; None for the reason in `untrained`.
      threshold: divergence above which a feature is skewed, in bits.
      inputs: inputs as the user named them.
      folder: the folder to which paths below it are relative in the tables.
      captured: whether captures are among the inputs.
      part_rows: number of rows in the row groups.
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


def write_score_card(
    shards: Iterable[WrittenScores],
    counts: Iterable[ScoreCounts],
    accounts: Sequence[GroupAccount],
    lost: Sequence[LostRows],
    rejects: pa.RecordBatch,
    plan: ScorePlan,
    staging: str,
) -> str:
    """Writes the tables of captures and rejects and the card; or the fault of the job, and no card.

    If groups may have reached `max_open_flows`, it asks for them in one piece (`transforms/io/verdict.py`).

    Args:
      shards: the written scores, in any order.
      counts: counts of all scored batches.
      accounts: accounts of the metered captures.
      lost: row groups that cannot be read.
      rejects: reject rows of the inputs.
      plan: the plan of the job.
      staging: the folder with the shards.

    Returns:
      The path of the file that was written last.
    """
    if crowded := crowded_groups(accounts, plan.model.definition):
        return ask_whole(staging, crowded)
    reject_table = rejects_table(accounts, [rejects, *(part.reject for part in lost)], plan.folder)
    captures = captures_table(accounts, {}, reject_table, plan.folder)
    unread = sum(part.rows for part in lost)
    total = sum([*counts, ScoreCounts(unread, {ScoreReject.UNREADABLE: unread} if unread else {})], ScoreCounts())
    written = sorted(shards, key=lambda shard: shard.shard.path)
    repeated = sum(shard.repeated for shard in written)
    rejected = sum_by_key([total.rejected, {ScoreReject.REPEATED: repeated} if repeated else {}])
    scored = sum(shard.shard.rows for shard in written)
    expected = sum(account.flows for account in accounts) + plan.part_rows
    if fault := _fault(expected, total.rows, scored + sum(rejected.values()), reject_table):
        return fail(staging, [fault])
    classes = count_classes(written, plan.model)
    skew, skew_missing = compare_with_training(total, classes, plan)
    card = ScoreCard(
        tool_version=importlib.metadata.version("flowloom"),
        model=plan.model,
        inputs=plan.inputs,
        identity=plan.identity,
        rows=total.rows,
        scored=scored,
        rejected={str(reason): rejected[reason] for reason in sorted(rejected)},
        classes=classes,
        probabilities={
            task: class_probabilities((shard.probabilities[task] for shard in written), values)
            for task, values in plan.model.tasks.items()
        },
        captures=account_captures(accounts, captures, reject_table) if plan.captured else None,
        skew=skew,
        skew_missing=skew_missing,
        shards=tuple(shard.shard for shard in written),
    )
    write_table(f"{staging}/{CAPTURES_TABLE}", captures)
    write_table(f"{staging}/{REJECTS_TABLE}", reject_table)
    write_text(f"{staging}/{SCORE_CARD}", sealed_text(card.model_dump_json(), indent=2))
    return f"{staging}/{SCORE_CARD}"


def count_classes(shards: Iterable[WrittenScores], model: ScoredModel) -> dict[str, dict[str, int]]:
    """Returns the number of rows of each predicted class, by task."""
    sums = sum_by_key(shard.classes for shard in shards)
    return {
        task: dict(zip(values, sums.get(task, np.zeros(len(values), np.int64)).tolist(), strict=True))
        for task, values in model.tasks.items()
    }


def compare_with_training(
    counts: ScoreCounts, classes: dict[str, dict[str, int]], plan: ScorePlan
) -> tuple[ModelSkew | None, str | None]:
    """Returns the skew of scored rows against the training, or the reason why there is none."""
    if plan.trained is None:
        return None, plan.untrained
    histograms = {name: tuple(bins.tolist()) for name, bins in counts.counts.items()}
    profile = FeatureProfile(k=plan.trained.k, rows=counts.profiled, counts=histograms, classes=classes)
    skew = model_skew(plan.trained, profile, plan.threshold)
    return skew, plan.untrained if skew else "no row was scored, or the training had no rows"


def account_captures(accounts: Sequence[GroupAccount], captures: pa.Table, rejects: pa.Table) -> Accounting:
    """Returns the account of the captures that were metered for scoring."""
    short = sum(account.flows_short for account in accounts)
    flows = sum(account.flows for account in accounts) + short
    return Accounting(
        **count_captures(captures, rejects),
        flows=flows,
        flows_short=short,
        flows_unlabelled=0,
        flows_ended_early=sum(account.ended_early for account in accounts),
    )


def _fault(expected: int, given: int, accounted: int, rejects: pa.Table) -> str | None:
    """Returns the fault of counts that do not agree, or None."""
    if expected != given or given != accounted:
        return (
            f"rows must add up, got {expected:,} metered or read, {given:,} given to the model, "
            f"{accounted:,} scored or rejected"
        )
    if given:
        return None
    reasons = [f"{row['uri']}: {row['reason']}: {row['detail']}" for row in rejects.slice(0, 3).to_pylist()]
    return f"inputs must have rows to score, got none: {'; '.join(reasons) or 'the inputs are empty'}"
