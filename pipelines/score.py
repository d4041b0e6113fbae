"""`flowloom score`: writes the probabilities of every task of captures or datasets, with a card, skew and a page."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
from rich import box
from rich.console import Group
from rich.table import Table

from flowloom.pipelines.describe.score_page import write_score_page
from flowloom.pipelines.engines.embedded import EMBEDDED, running
from flowloom.pipelines.whole_groups import run_with_room, tell_ended_early
from flowloom.schemas.cores import usable_cores
from flowloom.schemas.corpus.capture_limits import NO_LIMITS, CaptureLimits
from flowloom.schemas.corpus.manifest import Identity, Output
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.models.score_card import MAX_SKEW, SCORE_CARD, ScoreCard, ScoredModel, read_scores
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.flows.flow_ptransforms import ConcealIdentities
from flowloom.transforms.flows.identities import corpus_key, read_key
from flowloom.transforms.io.spill import clear
from flowloom.transforms.io.staging import staged_folder
from flowloom.transforms.io.tally import watched
from flowloom.transforms.io.verdict import require_success
from flowloom.transforms.metering.accounts import GroupAccount
from flowloom.transforms.metering.metering_ptransforms import JoinPartitions, MeterRanges, PlanMetering
from flowloom.transforms.score.score_inputs import Needs, ScoreInputs, plan_inputs
from flowloom.transforms.score.score_ptransforms import (
    ReadParts,
    ScoreResults,
    ScoreRows,
    WriteScoreCard,
    WriteScores,
)
from flowloom.transforms.score.score_rows import RowScorer
from flowloom.transforms.score.write_score_card import ScorePlan

_DEFAULT = Output()


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """Options of `flowloom score`: the model, the inputs, the output, and the engine.

    Attributes:
      model: folder of a run or of an export.
      inputs: captures by path or glob, dataset folders, `.parquet` files of flows.
      out: the folder to make.
      split: the split of datasets to score; None for all.
      identity, key_file: treatment of the addresses of captures; rows of datasets stay as they are.
      shards: largest number of Parquet files to write.
      split_bytes: size of the ranges that larger captures are read in.
      max_skew: divergence above which a feature counts as skewed, in bits.
      runner: name of the Beam runner.
      beam_args: further options of Beam, as on its command line.
      limits: how many bytes a compressed capture may become.
    """

    model: str | os.PathLike[str]
    inputs: tuple[str, ...]
    out: str | os.PathLike[str]
    split: str | None = None
    identity: Identity = "keep"
    key_file: str | os.PathLike[str] | None = None
    shards: int = _DEFAULT.shards
    split_bytes: int = int(_DEFAULT.split_bytes)
    max_skew: float = MAX_SKEW
    workers: int = dataclasses.field(default_factory=usable_cores)
    runner: str = EMBEDDED
    beam_args: tuple[str, ...] = ()
    limits: CaptureLimits = NO_LIMITS

    def __post_init__(self) -> None:
        if not self.inputs:
            raise FlowloomError("score needs at least 1 input, got none; name captures, datasets or .parquet files")
        for name in ("workers", "shards", "split_bytes"):
            if getattr(self, name) < 1:
                raise FlowloomError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.max_skew <= 1:
            raise FlowloomError(f"max_skew must be from 0 to 1 bit, got {self.max_skew:g}")
        if self.identity not in ("keep", "pseudonym", "drop"):
            raise FlowloomError(f"identity must be keep, pseudonym or drop, got {self.identity!r}")
        if (self.identity == "pseudonym") != (self.key_file is not None):
            raise FlowloomError("key_file must be given with identity pseudonym and only then; see docs/manifest.md")

    @property
    def equal_workers(self) -> int | None:
        """Number of workers that get an equal share of the work; None if the runner gives work to idle workers."""
        return self.workers if self.runner == EMBEDDED else None


def score(options: ScoreOptions, progress: Callable[[Progress], None] = ignore_progress) -> ScoreCard:
    """Scores every row of the inputs and returns the card of the scores.

    Args:
      progress: called about twice a second, from another thread.

    Raises:
      FlowloomError: if the model cannot be read, an input lacks a column that it needs, there is no row to score, or
        the output folder exists.
    """
    from flowloom.trainers.deploy.deployed_model import DeployedModel
    from flowloom.trainers.deploy.scorer import Scorer, columns_of

    model = DeployedModel.open(Path(options.model).resolve())
    scorer = Scorer(model)
    view = model.features.view
    k = model.features.inputs["sequence"].shape[0] if view == "flows" else model.definition.k
    needs = Needs(view, model.features.columns, columns_of(model), model.definition.model_copy(update={"k": k}))
    inputs = plan_inputs(options.inputs, needs, options.split, options.workers, options.limits)
    plan = ScorePlan(
        model=ScoredModel(
            path=os.fspath(options.model),
            kind=model.kind,
            recipe=model.recipe,
            dataset=model.dataset,
            definition=model.definition,
            tasks=model.tasks,
            view=view,
            engine=model.engine,
        ),
        trained=model.profile,
        untrained=model.profile_missing,
        threshold=options.max_skew,
        inputs=options.inputs,
        identity=options.identity,
        folder=os.getcwd(),
        captured=bool(inputs.captures.groups or inputs.captures.rejects.num_rows),
        part_rows=inputs.rows,
    )
    # a mixture travels to the workers as it is; graphs of TensorFlow cannot, and are loaded by each process
    load = functools.partial(_given, scorer) if model.engine == "lanes" else functools.partial(Scorer, model)
    with staged_folder(os.fspath(options.out)) as staging:

        def run(whole: tuple[str, ...]) -> None:
            engine = (options.runner, options.workers, options.beam_args, staging)
            with watched(staging, progress), running(*engine) as pipeline:
                compose(pipeline, inputs, needs, plan, load, options, staging, whole)

        run_with_room(run, staging, needs.definition, progress)
        require_success(staging, SCORE_CARD)
        clear(staging)
        card = read_scores(staging)
        write_score_page(staging)
    tell_ended_early(card.captures.flows_ended_early if card.captures else 0, needs.definition, progress)
    skewed = list(card.skew.skewed) if card.skew else []
    if card.skew:
        text = f"skewed: {', '.join(skewed)}" if skewed else "no feature is skewed"
        progress(Progress(text, event="drift", facts={"drifted": skewed}))
    facts = {"place": os.fspath(options.out), "rows": card.rows, "scored": card.scored, "rejected": dict(card.rejected)}
    progress(Progress(f"wrote the card of {options.out}", event="card", facts=facts))
    return card


def _given(scorer: RowScorer) -> RowScorer:
    return scorer


def compose(
    pipeline: beam.Pipeline,
    inputs: ScoreInputs,
    needs: Needs,
    plan: ScorePlan,
    load: Callable[[], RowScorer],
    options: ScoreOptions,
    staging: str,
    whole: tuple[str, ...] = (),
) -> None:
    """Builds the pipeline from captures and row groups to shards of scores and their card.

    Args:
      whole: names of capture groups that are metered in one piece.
    """
    rows: dict[str, tuple[beam.PCollection[pa.RecordBatch], bool]] = {}
    accounts: tuple[beam.PCollection[GroupAccount], ...] = ()
    if inputs.captures.groups:
        plan_metering = PlanMetering(
            inputs.captures.groups,
            needs.definition,
            options.split_bytes,
            options.equal_workers,
            whole=whole,
        )
        planned = pipeline | "PlanMetering" >> plan_metering
        metered = planned.tasks | "MeterRanges" >> MeterRanges(needs.definition, staging)
        joined = metered.fragments | "JoinPartitions" >> JoinPartitions(needs.definition, staging)
        accounts = (metered.accounts, joined.accounts)
        key = read_key(os.fspath(options.key_file)) if options.key_file else None
        key = corpus_key(inputs.captures) if options.identity == "drop" else key
        for name, flows in (("Whole", metered.flows), ("Joined", joined.flows)):
            rows[name] = flows | f"ConcealIdentities {name}" >> ConcealIdentities(key), options.identity != "drop"
    read = pipeline | "ReadParts" >> ReadParts(inputs.parts, options.equal_workers)
    rows["Parts"] = read.rows, True
    scored = [
        batches | f"ScoreRows {name}" >> ScoreRows(load, staging, options.shards, addresses)
        for name, (batches, addresses) in rows.items()
    ]
    classes = {task: len(values) for task, values in plan.model.tasks.items()}
    write = WriteScores(staging, options.shards, classes, needs.view)
    results = ScoreResults(
        shards=tuple(each.scores for each in scored) | "AllScores" >> beam.Flatten() | "WriteScores" >> write,
        counts=tuple(each.counts for each in scored) | "AllCounts" >> beam.Flatten(),
        accounts=tuple(accounts) | "AllAccounts" >> beam.Flatten(pipeline=pipeline),
        lost=read.lost,
    )
    results | "WriteScoreCard" >> WriteScoreCard(plan, staging, inputs.captures.rejects)


def skew_table(card: ScoreCard) -> Group:
    """Returns tables of the predicted classes, and of the divergence of features from the training."""
    classes = Table(title="predicted classes", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shares = {skew.name: skew for skew in card.skew.classes} if card.skew else {}
    for name, justify in (("task", "left"), ("class", "left"), ("rows", "right"), ("share", "right")):
        classes.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type] # a literal in fact
    classes.add_column("bits from training", justify="right", no_wrap=True)
    for task, words in card.classes.items():
        for at, (word, rows) in enumerate(words.items()):
            apart = f"{shares[task].jensen_shannon:.3f}" if at == 0 and task in shares else ""
            share = f"{rows / card.scored:.1%}" if card.scored else "-"
            classes.add_row(task if at == 0 else "", word, f"{rows:,}", share, apart)
        classes.add_section()
    if card.skew is None:
        return Group(classes, f"skew was not measured: {card.skew_missing}")
    table = Table(title="features against the training", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("feature", "bits", "noise", "furthest", "at", "unseen", ""):
        table.add_column(name, justify="left" if name in ("feature", "at", "") else "right", no_wrap=name != "at")
    for skew in card.skew.features:
        table.add_row(
            skew.name,
            f"{skew.jensen_shannon:.3f}",
            f"{skew.noise:.3f}",
            f"{skew.l_infinity:.1%}",
            skew.largest_bin,
            f"{skew.unseen / skew.values:.2%}" if skew.values else "-",
            "SKEWED" if skew.skewed else "",
        )
    return Group(classes, table)
