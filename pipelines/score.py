"""`flowloom score`: captures or datasets to the probabilities of every task, with accounting and a look at skew."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
from rich import box
from rich.console import Group
from rich.table import Table

from flowloom.pipelines.engines.embedded import EMBEDDED, start_pipeline, usable_cores
from flowloom.schemas.corpus.manifest import Identity, Output
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.models.score_card import MAX_SKEW, SCORE_CARD, ScoreCard, ScoredModel, read_scores
from flowloom.transforms.flows.conceal import corpus_key
from flowloom.transforms.flows.flow_ptransforms import ConcealIdentities
from flowloom.transforms.flows.pseudonyms import read_key
from flowloom.transforms.io.progress import Tally, watched
from flowloom.transforms.io.spill import clear
from flowloom.transforms.io.staging import staged_folder
from flowloom.transforms.io.verdict import require_success
from flowloom.transforms.metering.metering_ptransforms import MeterGroups, PlanReadings
from flowloom.transforms.score.score_inputs import Needs, ScoreInputs, plan_inputs
from flowloom.transforms.score.score_ptransforms import ReadParts, ScoreRows, WriteScoreCard, WriteScores
from flowloom.transforms.score.score_rows import lost_rows
from flowloom.transforms.score.write_score_card import ScorePlan

_DEFAULT = Output()


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """What to score by which model, where to, and on which engine.

    Attributes:
      model: a run's folder, or an export's.
      inputs: captures by path or glob, dataset folders, `.parquet` files of flows.
      out: the folder to make.
      split: the split of datasets to score; None: all.
      identity, key_file: what becomes of the addresses of captures; rows of datasets have what their dataset has.
      shards: Parquet files to write at most.
      split_bytes: larger captures are read in stretches of this size.
      max_skew: from which divergence on a feature counts as skewed, in bits.
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
            raise FlowloomError("identity pseudonym needs a key file, and only that; see docs/data-contract.md")

    @property
    def lanes(self) -> int | None:
        """How many equal shares of the work the runner deals out; None where it gives work to whoever is idle."""
        return self.workers if self.runner == EMBEDDED else None


def score(options: ScoreOptions, progress: Callable[[Tally], None] | None = None) -> ScoreCard:
    """Score every row of the inputs and return the card of what was found.

    Args:
      progress: called about twice a second with what was done so far, from another thread.

    Raises:
      FlowloomError: if the model cannot be read, an input has not what it sees, there is no row to score, or the output
        folder exists.
    """
    from flowloom.trainers.deploy.deployed_model import DeployedModel
    from flowloom.trainers.deploy.scorer import Scorer, columns_of

    model = DeployedModel.open(Path(options.model).resolve())
    scorer = Scorer(model)
    view = model.features.view
    k = model.features.inputs["sequence"].shape[0] if view == "flows" else model.definition.k
    needs = Needs(view, model.features.columns, columns_of(model), model.definition.model_copy(update={"k": k}))
    inputs = plan_inputs(options.inputs, needs, options.split, options.workers)
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
        with watched(staging, progress), start_pipeline(options.runner, options.workers, options.beam_args) as pipeline:
            compose(pipeline, inputs, needs, plan, load, options, staging)
        require_success(staging, SCORE_CARD)
        clear(staging)
        return read_scores(staging)


def _given(scorer: Any) -> Any:
    return scorer


def compose(
    pipeline: beam.Pipeline,
    inputs: ScoreInputs,
    needs: Needs,
    plan: ScorePlan,
    load: Callable[[], Any],
    options: ScoreOptions,
    staging: str,
) -> None:
    """Lay the road from captures and row groups to shards of scores and their card."""
    findings, places = [], []
    if inputs.captures.groups:
        plan_readings = PlanReadings(
            inputs.captures.groups, needs.definition, options.split_bytes, options.lanes, digests=False
        )
        meter = MeterGroups(needs.definition, staging)
        whole, joined, _, accounts = pipeline | "PlanReadings" >> plan_readings | "MeterGroups" >> meter
        findings += accounts
        key = read_key(os.fspath(options.key_file)) if options.key_file else None
        key = corpus_key(inputs.captures) if options.identity == "drop" else key
        for name, flows in (("Whole", whole), ("Joined", joined)):
            concealed = flows | f"ConcealIdentities {name}" >> ConcealIdentities(key)
            score_rows = ScoreRows(load, staging, options.shards, addresses=options.identity != "drop")
            scored = concealed | f"ScoreRows {name}" >> score_rows
            findings.append(scored.counts)
            places.append(scored.scores)
    if inputs.parts:
        read = pipeline | "ReadParts" >> ReadParts(inputs.parts, options.lanes)
        scored = read.rows | "ScoreRows Parts" >> ScoreRows(load, staging, options.shards)
        findings += [scored.counts, read.unreadable | "LostRows" >> beam.Map(lost_rows)]
        findings.append(read.unreadable | "Unreadable" >> beam.MapTuple(lambda reject, _: reject))
        places.append(scored.scores)
    if places:
        classes = {task: len(words) for task, words in plan.model.tasks.items()}
        write = WriteScores(staging, options.shards, classes, needs.view)
        findings.append(places | "AllScores" >> beam.Flatten() | "WriteScores" >> write)
    else:
        findings.append(pipeline | "Nothing" >> beam.Create([]))
    tuple(findings) | "WriteScoreCard" >> WriteScoreCard(plan, staging, inputs.captures.rejects)


def skew_table(card: ScoreCard) -> Group:
    """Return the classes that were predicted, and how far features differ from training, as tables for people."""
    classes = Table(title="predicted classes", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shares = {skew.name: skew for skew in card.skew.classes} if card.skew else {}
    for name, justify in (("task", "left"), ("class", "left"), ("rows", "right"), ("share", "right")):
        classes.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
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
