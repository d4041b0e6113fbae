"""The `flowloom` command: each one is a thin shell over one function with a typed options object.

Nothing heavy is imported before a command needs it. Results go to stdout; progress, logs and errors to stderr.
"""

import dataclasses
import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flowloom.pipelines.terminal.metrics_table import number, scores_table
from flowloom.pipelines.terminal.progress_display import ProgressDisplay
from flowloom.pipelines.terminal.startup import quick_start
from flowloom.schemas.errors import FlowloomError

app = typer.Typer(
    name="flowloom",
    help="Weave packet captures into multi-task datasets, and train multi-task traffic models on them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_BEAM_COMMANDS = ("build", "score")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting of the recipe.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; everything after `--` goes to Beam. Exits with 0, 1 (the job failed) or 2 (wrong usage)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    at = words.index("--") if "--" in words else len(words)
    try:
        app(args=words[:at], obj=tuple(words[at + 1 :]))
    except FlowloomError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error}; check the path, its rights and the space left")


def _fail(message: str) -> None:
    Console(stderr=True).print(f"error: {message}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flowloom {importlib.metadata.version('flowloom')}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.obj and context.invoked_subcommand not in _BEAM_COMMANDS:
        raise typer.BadParameter(f"only {', '.join(_BEAM_COMMANDS)} takes options for Beam after --, got {context.obj}")


@app.command()
def flows(
    captures: Annotated[list[str], typer.Argument(help="Capture files or globs; each file is a group of its own.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")],
    preset: Annotated[str, typer.Option(help="Flow definition.")] = "default",
    k: Annotated[int | None, typer.Option(min=1, max=65_535, help="Packets kept in a flow's sequences.")] = None,
    as_json: Json = False,
) -> None:
    """Captures to one flow table, without labels."""
    with quick_start():
        from flowloom.pipelines.flows import FlowsOptions, meter_captures
        from flowloom.schemas.corpus.flow_definition import FlowDefinition

    definition = FlowDefinition.of(preset) if k is None else FlowDefinition.of(preset, k=k)
    with ProgressDisplay("flows") as display:
        report = meter_captures(FlowsOptions(tuple(captures), output, definition, digests=as_json), display.line)
    if as_json:
        _print_json(dataclasses.asdict(report))
    else:
        typer.echo(f"{output}: {report.flows:,} flows of {report.packets:,} packets in {report.seconds['total']:.1f} s")


@app.command("compare-definitions")
def compare_definitions(
    capture: Annotated[str, typer.Argument(help="A capture file.")],
    a: Annotated[str, typer.Argument(help="A flow definition preset.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    k: Annotated[int | None, typer.Option(min=1, max=65_535, help="Packets kept in sequences, by both.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Flows to show of each cause.")] = 3,
    as_json: Json = False,
) -> None:
    """What two flow definitions make of a capture, and by which option their flows differ."""
    with quick_start():
        from flowloom.pipelines.compare import CompareOptions, comparison_table
        from flowloom.pipelines.compare import compare_definitions as compare
        from flowloom.schemas.corpus.flow_definition import FlowDefinition

    one, other = (FlowDefinition.of(preset) if k is None else FlowDefinition.of(preset, k=k) for preset in (a, b))
    with ProgressDisplay("compare-definitions") as display:
        report = compare(CompareOptions(capture, one, other, examples), display.line)
    if as_json:
        _print_json(dataclasses.asdict(report))
    else:
        Console().print(comparison_table(report, a, b))


@app.command()
def build(
    context: typer.Context,
    corpus: Annotated[Path, typer.Argument(help="The corpus manifest (YAML).")],
    out: Annotated[str, typer.Argument(help="The dataset directory to make, or the URL to publish it at.")],
    runner: Annotated[
        str | None, typer.Option(help="The Beam runner; options for it follow after --.  [embedded]")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads of the embedded runner.  [all cores]")] = None,
    start_limit: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="How long the workers of another runner may take to start.")
    ] = 180,
    job_folder: Annotated[
        Path | None,
        typer.Option(help="Where all workers share files while a dataset is built for a URL.  [temporary files]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """A corpus manifest to a dataset."""
    with ProgressDisplay("build") as display:
        display.line(f"{corpus} to {out}")
        with quick_start(cloud=runner is not None):
            from flowloom.pipelines.build import BuildOptions
            from flowloom.pipelines.build import build as build_dataset
            from flowloom.pipelines.engines.embedded import EMBEDDED, usable_cores

        engine = (workers or usable_cores(), runner or EMBEDDED, context.obj or (), start_limit, job_folder)
        options = BuildOptions(corpus, out, *engine)
        card = build_dataset(options, display.built)
    if as_json:
        typer.echo(card.model_dump_json())
        return
    account = card.accounting
    rows = ", ".join(f"{split} {counts.rows:,}" for split, counts in card.splits.items())
    typer.echo(f"{out}: {account.flows:,} flows of {account.captures:,} captures, {account.rejects:,} rejects")
    typer.echo(f"rows: {rows}; content hash {card.content_hash}")
    typer.echo(f"{'get' if '://' in out else 'see'} it with: flowloom {'fetch' if '://' in out else 'describe'} {out}")


@app.command("worker-pool")
def worker_pool(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Where this machine's task manager asks for workers.")],
) -> None:
    """Workers for the task manager of a cluster on this machine, until it is stopped."""
    with quick_start(cloud=False):
        from flowloom.pipelines.engines.worker_pool import serve

    serve(port, ProgressDisplay("worker-pool").line)


@app.command()
def publish(
    dataset: Annotated[Path, typer.Argument(help="The dataset directory.")],
    url: Annotated[str, typer.Argument(help="Where to: s3://bucket/name, gs://..., any URL that fsspec knows.")],
) -> None:
    """A dataset directory to an object store; it is a dataset there when its card is, which comes last."""
    from flowloom.pipelines.publish import publish as publish_dataset

    with ProgressDisplay("publish") as display:
        card = publish_dataset(dataset, url, display.update)
    typer.echo(f"{url}: {len(card.shards):,} shards, content hash {card.content_hash}")


@app.command()
def fetch(
    url: Annotated[str, typer.Argument(help="Where a dataset was built to or published at.")],
    out: Annotated[Path, typer.Argument(help="The dataset directory to make.")],
) -> None:
    """A dataset from an object store to a directory, every shard held against its card."""
    from flowloom.pipelines.publish import fetch as fetch_dataset

    with ProgressDisplay("fetch") as display:
        card = fetch_dataset(url, out, display.update)
    typer.echo(f"{out}: {len(card.shards):,} shards, content hash {card.content_hash}")


@app.command()
def plan(
    corpus: Annotated[Path, typer.Argument(help="The corpus manifest (YAML).")],
    workers: Annotated[int | None, typer.Option(min=1, help="Workers of the build.  [all cores]")] = None,
    rates: Annotated[
        str, typer.Option(help="measured: on samples of the captures, here; stored: none is read.")
    ] = "measured",
    as_json: Json = False,
) -> None:
    """What a build will take: time, memory and disk, from small builds of samples of its captures."""
    with ProgressDisplay("plan") as display:
        display.line(f"{corpus}")
        with quick_start(cloud=False):
            from flowloom.pipelines.engines.embedded import usable_cores
            from flowloom.pipelines.plan import PlanOptions, plan_table
            from flowloom.pipelines.plan import plan as plan_build

        options = PlanOptions(corpus, workers or usable_cores(), rates)  # type: ignore[arg-type]
        found = plan_build(options, display.line)
    if as_json:
        _print_json(dataclasses.asdict(found))
        return
    Console().print(plan_table(found))
    for basis in found.bases:
        typer.echo(f"- {basis}")


@app.command()
def weave(
    datasets: Annotated[list[Path], typer.Argument(help="Dataset directories, in order of precedence.")],
    out: Annotated[Path, typer.Argument(help="The dataset directory to make.")],
    layout: Annotated[str, typer.Option(help="aurora: one row with all labels; rainbow: a stripe for each task.")],
    missing: Annotated[
        str, typer.Option(help="What absent labels become under aurora: unknown, negative.")
    ] = "unknown",
    on_conflict: Annotated[
        str, typer.Option(help="Where two datasets say different words of a flow: first, unknown, error.")
    ] = "first",
    words: Annotated[
        list[str] | None,
        typer.Option("--word", metavar="TASK.WORD=WORD", help="A word that means one of the first dataset's."),
    ] = None,
    shards: Annotated[int | None, typer.Option(min=1, help="Shards per stripe and split.  [as the datasets]")] = None,
    name: Annotated[str | None, typer.Option(help="The new dataset's name.  [of the datasets]")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads.  [all cores]")] = None,
    as_json: Json = False,
) -> None:
    """Datasets to one of another layout: converts one, merges several, from their shards alone."""
    with ProgressDisplay("weave") as display:
        display.line(f"{', '.join(map(str, datasets))} to {out}")
        with quick_start(cloud=False):
            from flowloom.pipelines.engines.embedded import usable_cores
            from flowloom.pipelines.weave import WeaveOptions
            from flowloom.pipelines.weave import weave as weave_datasets
            from flowloom.transforms.weave.weave_plans import WeaveRules

        rules = WeaveRules(layout, missing, on_conflict, _meanings(words or ()), shards, name)  # type: ignore[arg-type]
        options = WeaveOptions(tuple(datasets), out, rules, workers or usable_cores())
        card = weave_datasets(options, display.woven)
    if as_json:
        typer.echo(card.model_dump_json())
        return
    account = card.accounting
    rows = ", ".join(f"{split} {counts.rows:,}" for split, counts in card.splits.items())
    typer.echo(
        f"{out}: {card.layout} of {len(card.sources)} datasets, {account.flows_joined:,} flows joined, "
        f"{account.flows_absent:,} absent, {account.flows_unlabelled:,} without a label"
    )
    typer.echo(f"rows: {rows}; content hash {card.content_hash}")
    typer.echo(f"see it with: flowloom describe {out}")


@app.command()
def describe(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory.")],
    leakage: Annotated[
        bool, typer.Option("--leakage", help="Measure leakage where the card does not have it.")
    ] = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Read the shards, and write statistics.json and report.html.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder for what --statistics writes.  [the dataset]")
    ] = None,
    as_json: Json = False,
) -> None:
    """A dataset's card: tasks, splits, accounting, rejects, shards; on demand its statistics and a page to read."""
    from flowloom.pipelines.describe.card_tables import describe as describe_dataset

    if output and not statistics:
        raise typer.BadParameter("--output is where --statistics writes; add --statistics")
    card = describe_dataset(dataset, None if as_json else Console(), leakage=leakage)
    if as_json:
        typer.echo(card.model_dump_json())
    if statistics:
        with ProgressDisplay("describe") as display:
            display.line(f"reading the shards of {dataset}")
            from flowloom.pipelines.describe.dataset_page import write_page
            from flowloom.pipelines.describe.measure_statistics import measure_statistics

            found = measure_statistics(dataset, output or dataset)
            display.line(f"wrote {write_page(dataset, card, found, output or dataset)}")


@app.command()
def verify(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory.")],
    as_json: Json = False,
) -> None:
    """Check a dataset's files against its card; names the first thing that differs."""
    from flowloom.pipelines.verify import verify as verify_dataset

    with ProgressDisplay("verify") as display:
        found = verify_dataset(dataset, display.update)
    if as_json:
        _print_json(dataclasses.asdict(found))
    else:
        typer.echo(f"{dataset}: {found.shards:,} shards with {found.rows:,} rows are what the card says")
        typer.echo(f"content hash {found.content_hash}")


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory.")],
    run: Annotated[Path, typer.Option("--output", "-o", help="The run directory to make or to continue.")],
    recipe: Annotated[str, typer.Option(help="The recipe to train by.")] = "multa",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Train a model on a dataset by a recipe."""
    with ProgressDisplay("train") as display:
        display.line(f"{dataset} to {run}")
        training = _trainer("flowloom.trainers.training.train")
        options = training.TrainOptions(dataset, run, recipe, tuple(settings or ()))
        summary = training.train(options, display.trained)
    if as_json:
        _print_json(dataclasses.asdict(summary))
        return
    scores = ", ".join(f"{task} {number(auc)}" for task, auc in summary.validation_auc.items())
    typer.echo(f"{run}: epoch {summary.best_epoch} of {summary.epochs} kept; validation AUC: {scores}")
    typer.echo(f"measure it with: flowloom evaluate {run}")


@app.command()
def tune(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory.")],
    run: Annotated[Path, typer.Option("--output", "-o", help="The run directory to make or to continue.")],
    target_auc: Annotated[float, typer.Option(help="Validation AUC of every task with an LSTM of its own.")],
    max_drop: Annotated[float, typer.Option(help="By how much it may be lower with all tasks in one model.")],
    recipe: Annotated[str, typer.Option(help="The recipe to train by.")] = "multa-mean",
    settings: Settings = None,
    start_units: Annotated[int, typer.Option(help="The size to begin with.")] = 8,
    largest_units: Annotated[int, typer.Option(help="The size to end with.")] = 64,
    granularity: Annotated[int, typer.Option(help="Sizes are multiples of it.")] = 4,
    repeats: Annotated[int, typer.Option(help="Trainings of everything, by seeds; the median decides.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="One epoch: shows the road, not the accuracy.")] = False,
    as_json: Json = False,
) -> None:
    """Find the smallest LMMoE that reaches an AUC (MULTA, algorithm 1), and train it."""
    with ProgressDisplay("tune") as display:
        display.line(f"{dataset} to {run}")
        tuning = _trainer("flowloom.trainers.tuning.tune")
        options = tuning.TuneOptions(
            dataset, run, target_auc, max_drop, recipe, tuple(settings or ()),
            start_units, largest_units, granularity, repeats, quick,
        )  # fmt: skip
        found = tuning.tune_sizes(options, display.line)
    if as_json:
        _print_json(found)
        return
    scores = ", ".join(f"{task} {number(auc)}" for task, auc in found["auc"].items())
    typer.echo(f"{run}: {found['experts']} x {found['units']} units, {found['parameters']:,} parameters; {scores}")
    typer.echo(f"target {'met' if found['met'] else 'NOT met'}; {found['trainings']} trainings, {found['saved']} saved")
    typer.echo(run / "tuning" / "report.html")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    split: Annotated[str, typer.Option(help="The split to measure on.")] = "test",
    baselines: Annotated[
        list[str] | None,
        typer.Option("--baseline", help="Compare with: majority, random_forest, boosted_trees.  [first two]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a trained model: metrics.json and report.html in the run directory."""
    with ProgressDisplay("evaluate") as display:
        display.line(f"{run} on split {split}")
        evaluation = _trainer("flowloom.trainers.evaluation.evaluate")
        chosen = {"baselines": tuple(baselines)} if baselines else {}
        metrics = evaluation.evaluate(evaluation.EvaluateOptions(run=run, split=split, **chosen), display.update)
    if as_json:
        _print_json(metrics)
        return
    Console().print(scores_table({run.name: metrics}))
    typer.echo(run / "report.html")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
    format: Annotated[str, typer.Option(help="What to write: savedmodel, litert.")] = "savedmodel",
    int8: Annotated[bool, typer.Option("--int8", help="Weights of a LiteRT model as 8-bit integers.")] = False,
    as_json: Json = False,
) -> None:
    """A trained model for deployment, with its feature contract; checked against the run before it appears."""
    with ProgressDisplay("export") as display:
        display.line(f"{run} to {out}")
        exporting = _trainer("flowloom.trainers.deploy.export")
        report = exporting.export(exporting.ExportOptions(run, out, format, int8))
    if as_json:
        _print_json(dataclasses.asdict(report))
        return
    typer.echo(
        f"{out}: {report.format} of {report.parameters:,} parameters, {report.size_bytes:,} bytes, "
        f"differs by {report.largest_error:.1g} at most; {'can' if report.streaming else 'cannot'} be streamed"
    )


@app.command()
def score(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A run directory, or what `flowloom export` wrote.")],
    inputs: Annotated[
        list[str], typer.Argument(help="Captures or globs, dataset directories, .parquet files of flows.")
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
    split: Annotated[str | None, typer.Option(help="The split of datasets to score.  [all]")] = None,
    identity: Annotated[
        str, typer.Option(help="Addresses of captures: keep, drop, pseudonym (with --key-file).")
    ] = "keep",
    key_file: Annotated[Path | None, typer.Option(help="The 32 bytes of the key of pseudonyms.")] = None,
    shards: Annotated[int, typer.Option(min=1, help="Parquet files to write at most.")] = 8,
    max_skew: Annotated[float | None, typer.Option(help="Bits from which on a feature is skewed.  [0.12]")] = None,
    runner: Annotated[
        str | None, typer.Option(help="The Beam runner; options for it follow after --.  [embedded]")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads of the embedded runner.  [all cores]")] = None,
    as_json: Json = False,
) -> None:
    """What a model says of flows, from captures or datasets: Parquet shards, accounting, and skew against training."""
    with ProgressDisplay("score") as display:
        display.line(f"{', '.join(inputs)} by {model} to {out}")
        with quick_start(cloud=runner is not None):
            from flowloom.pipelines.engines.embedded import EMBEDDED, usable_cores
            from flowloom.pipelines.score import MAX_SKEW, ScoreOptions, skew_table
            from flowloom.pipelines.score import score as score_inputs

            _trainer("flowloom.trainers.deploy.scorer")

        options = ScoreOptions(
            model, tuple(inputs), out, split, identity, key_file, shards,  # type: ignore[arg-type]
            max_skew=MAX_SKEW if max_skew is None else max_skew,
            workers=workers or usable_cores(), runner=runner or EMBEDDED, beam_args=context.obj or (),
        )  # fmt: skip
        card = score_inputs(options, display.scored)
    if as_json:
        typer.echo(card.model_dump_json())
        return
    Console().print(skew_table(card))
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in card.rejected.items()) or "none"
    typer.echo(f"{out}: {card.scored:,} of {card.rows:,} rows scored; rejected: {rejected}")
    if card.captures:
        account = card.captures
        typer.echo(f"{account.records:,} records of {account.captures:,} captures, {account.rejects:,} rejects")
    if card.skew and card.skew.skewed:
        typer.echo(f"unlike the training: {', '.join(card.skew.skewed)}")


@app.command()
def retrain(
    state: Annotated[Path, typer.Argument(help="The folder of what is kept between runs; made by the first.")],
    corpus: Annotated[Path | None, typer.Argument(help="The corpus manifest (YAML).  [none with --rollback]")] = None,
    recipe: Annotated[str, typer.Option(help="The recipe to train by.")] = "multa",
    settings: Settings = None,
    margin: Annotated[
        float, typer.Option(min=0, max=1, help="How far the mean AUC may fall on the frozen test.")
    ] = 0.005,
    max_drop: Annotated[float, typer.Option(min=0, max=1, help="How far that of a single task may.")] = 0.02,
    max_drift: Annotated[float | None, typer.Option(help="Bits from which on a feature has drifted.  [0.12]")] = None,
    registry: Annotated[
        str | None, typer.Option(help="MLflow: sqlite:///FILE, a server's address, or none.  [STATE/registry.db]")
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Bring back the champion before this one.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads.  [all cores]")] = None,
    as_json: Json = False,
) -> None:
    """New captures into the dataset, a challenger trained on it, and a new champion if the rule lets it pass."""
    if rollback == (corpus is not None):
        raise typer.BadParameter("name a corpus manifest to retrain on, or --rollback and none")
    with ProgressDisplay("retrain") as display:
        display.line(f"{corpus or 'the champion before'} to {state}")
        with quick_start(cloud=False):
            from flowloom.pipelines.engines.embedded import usable_cores
            from flowloom.pipelines.retrain import retrain as retraining
            from flowloom.pipelines.score import MAX_SKEW
            from flowloom.schemas.models.retrain_state import PromotionRule

        if rollback:
            champion = retraining.rollback(state, registry).champion
            result: dict[str, Any] = {"champion": champion, "version": None, "report": None}
        else:
            assert corpus is not None
            rule = PromotionRule(margin=margin, max_drop=max_drop)
            limit = MAX_SKEW if max_drift is None else max_drift
            options = retraining.RetrainOptions(
                state, corpus, recipe, tuple(settings or ()), rule, limit, registry, workers or usable_cores()
            )
            found = retraining.retrain(options, display)
            version = found.version.model_dump(mode="json") if found.version else None
            result = {"champion": found.champion, "version": version, "report": found.report}
    if as_json:
        _print_json(result)
        return
    if result["version"]:
        verdict = result["version"]["verdict"]
        typer.echo(f"version {result['version']['number']}: {'; '.join(verdict['reasons'])}")
        typer.echo(result["report"])
    typer.echo(f"champion: version {result['champion']}")


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="The paper: multitask-cnn, multa or mtc.")],
    data: Annotated[Path, typer.Option("--data", help="The folder of its data.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="The folder to make, or to go on in.")],
    seed: Annotated[int, typer.Option(min=0, help="Of splits, labels and weights.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="A small grid: shows the road, not the figures.")] = False,
    as_json: Json = False,
) -> None:
    """A paper's tables and figures, side by side with the paper's own: index.html and results.json."""
    with ProgressDisplay("reproduce") as display:
        _trainer("flowloom.pipelines.reproduce.engine.experiments")
        from flowloom.pipelines.reproduce.command import reproduce as reproduce_paper
        from flowloom.pipelines.reproduce.engine.options import ReproduceOptions

        found = reproduce_paper(ReproduceOptions(paper, data, out, seed, quick), display)
    if as_json:
        _print_json(found)
        return
    for claim in found["claims"]:
        typer.echo(f"{claim['verdict']}: {claim['statement']} ({claim['ours']})")
    typer.echo(out / "index.html")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder to make.")] = Path("demo-output"),
    corpus: Annotated[Path | None, typer.Option(help="The folder of the demo corpus.  [of the source tree]")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One epoch: shows the road, not the accuracy.")] = False,
    as_json: Json = False,
) -> None:
    """The whole road on the demo corpus: build, train, evaluate, report."""
    with ProgressDisplay("demo") as display:
        display.line(f"to {out}")
        _trainer("flowloom.trainers.training.train")
        from flowloom.pipelines.demo import DemoOptions
        from flowloom.pipelines.demo import demo as run_demo

        found = run_demo(DemoOptions(out, corpus, quick), display)
    if as_json:
        _print_json(found)
        return
    Console().print(scores_table(found))
    for layout in found:
        typer.echo(out / "runs" / layout / "report.html")


def _meanings(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return words by task from `TASK.WORD=WORD`; a word may hold any character but `=`."""
    meanings: dict[str, dict[str, str]] = {}
    for each in words:
        place, _, meaning = each.partition("=")
        task, _, word = place.partition(".")
        if not (task and word and meaning):
            raise FlowloomError(f"--word must be TASK.WORD=WORD, as in app.msteams=teams, got {each!r}")
        meanings.setdefault(task, {})[word] = meaning
    return meanings


def _trainer(module: str) -> Any:
    """Import a module that imports TensorFlow.

    Raises:
      FlowloomError: if TensorFlow is not installed.
    """
    try:
        from flowloom.trainers.native_logs import native_stderr_muted

        with native_stderr_muted():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise FlowloomError(f"training needs {error.name}; install it with: pip install 'flowloom[train]'") from None


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, default=os.fspath))
