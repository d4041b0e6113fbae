"""Commands on models: train, tune, evaluate, export, score and retrain."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from flowloom.pipelines.cli.shared import (
    Data,
    EmbeddedThreads,
    Json,
    MaxRatio,
    MaxUncompressed,
    OneEpoch,
    Runner,
    Settings,
    Threads,
    beam_options,
    import_trainer,
)
from flowloom.pipelines.terminal.metrics_table import number, scores_table
from flowloom.pipelines.terminal.progress_display import ProgressDisplay
from flowloom.pipelines.terminal.startup import quick_start
from flowloom.pipelines.terminal.terminal_text import print_json, say, show
from flowloom.pipelines.tracking import tracked


def train(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory.")],
    run: Annotated[Path, typer.Option("--output", "-o", help="The run directory to create or to continue.")],
    recipe: Annotated[str, typer.Option(help="The recipe to train by.")] = "multa",
    settings: Settings = None,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Log every epoch to tensorboard (RUN/tensorboard) or mlflow (MLFLOW_TRACKING_URI)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model on a dataset by a recipe."""
    with ProgressDisplay("train") as display:
        display.line(f"{dataset} to {run}")
        training = import_trainer("flowloom.trainers.training.train")
        options = training.TrainOptions(dataset, run, recipe, tuple(settings or ()))
        summary = training.train(options, tracked(display.show, run, track or ()))
    if as_json:
        print_json(dataclasses.asdict(summary))
        return
    scores = ", ".join(f"{task} {number(auc)}" for task, auc in summary.validation_auc.items())
    say(f"{run}: kept epoch {summary.best_epoch} of {summary.epochs}; validation AUC: {scores}")
    say(f"next: flowloom evaluate {run}")


def tune(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory.")],
    run: Annotated[Path, typer.Option("--output", "-o", help="The run directory to create or to continue.")],
    target_auc: Annotated[float, typer.Option(help="Validation AUC that every task must reach with its own LSTM.")],
    max_drop: Annotated[float, typer.Option(help="Largest loss of AUC when all tasks share one model.")],
    recipe: Annotated[str, typer.Option(help="The recipe to train by.")] = "multa-mean",
    settings: Settings = None,
    start_units: Annotated[int, typer.Option(help="Smallest size to try, in units.")] = 8,
    largest_units: Annotated[int, typer.Option(help="Largest size to try, in units.")] = 64,
    granularity: Annotated[int, typer.Option(help="All sizes are multiples of it.")] = 4,
    repeats: Annotated[int, typer.Option(help="Trainings of each model, by seeds; their median counts.")] = 1,
    patience: Annotated[int, typer.Option(help="Doublings without a higher AUC before the largest size is tried.")] = 2,
    second_look: Annotated[bool, typer.Option(help="Try the largest size before giving up a target.")] = True,
    quick: OneEpoch = False,
    as_json: Json = False,
) -> None:
    """Find the smallest LMMoE that reaches a target AUC (MULTA, algorithm 1), and train it."""
    with ProgressDisplay("tune") as display:
        display.line(f"{dataset} to {run}")
        tuning = import_trainer("flowloom.trainers.tuning.tune")
        options = tuning.TuneOptions(
            dataset, run, target_auc, max_drop, recipe, tuple(settings or ()),
            start_units, largest_units, granularity, repeats, patience, second_look, quick,
        )  # fmt: skip
        found = tuning.tune_sizes(options, display.show)
    if as_json:
        print_json(found)
        return
    scores = ", ".join(f"{task} {number(auc)}" for task, auc in found["auc"].items())
    say(f"{run}: {found['experts']} x {found['units']} units, {found['parameters']:,} parameters; {scores}")
    verdict = "met" if found["met"] else "NOT met"
    say(f"target {verdict}; {found['trainings']} trainings, {found['saved']} fewer than the full grid")
    say(run / "tuning" / "report.html")


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    split: Annotated[str, typer.Option(help="The split to evaluate on.")] = "test",
    baselines: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            help="Baseline: majority, best_classical, nearest_flows, extra_trees, random_forest, boosted_trees, "
            "logistic. Default: the first three.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a trained model; writes metrics.json and report.html into the run directory."""
    with ProgressDisplay("evaluate") as display:
        display.line(f"{run} on split {split}")
        evaluation = import_trainer("flowloom.trainers.evaluation.evaluate")
        chosen = {"baselines": tuple(baselines)} if baselines else {}
        metrics = evaluation.evaluate(evaluation.EvaluateOptions(run=run, split=split, **chosen), display.show)
    if as_json:
        print_json(metrics)
        return
    show(scores_table({run.name: metrics}))
    say(run / "report.html")


def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="The folder to create.")],
    format: Annotated[
        str, typer.Option(help="Model format: savedmodel, litert, onnx; of trees arrays, c, onnx.")
    ] = "savedmodel",
    int8: Annotated[
        bool, typer.Option("--int8", help="Store 8-bit weights in LiteRT; probabilities change by at most 0.05.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export a trained model for deployment, with its feature contract, after checking it against the run."""
    with ProgressDisplay("export") as display:
        display.line(f"{run} to {out}")
        exporting = import_trainer("flowloom.trainers.deploy.export")
        report = exporting.export(exporting.ExportOptions(run, out, format, int8))
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    say(
        f"{out}: {report.format}, {report.parameters:,} parameters, {report.size_bytes / 1e6:.2f} MB; probabilities "
        f"differ from the run's by at most {report.largest_error:.1g}; {'can' if report.streaming else 'cannot'} score "
        "packet by packet"
    )


def score(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A run directory, or a folder that `flowloom export` wrote.")],
    inputs: Annotated[
        list[str], typer.Argument(help="Captures or globs, dataset directories, or .parquet files of flows.")
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="The folder to create.")],
    split: Annotated[str | None, typer.Option(help="The split of datasets to score. Default: all.")] = None,
    identity: Annotated[
        str, typer.Option(help="Addresses of flows from captures: keep, drop, pseudonym (with --key-file).")
    ] = "keep",
    key_file: Annotated[Path | None, typer.Option(help="File with the 32-byte key for pseudonyms.")] = None,
    shards: Annotated[int, typer.Option(min=1, help="Largest number of Parquet files to write.")] = 8,
    max_skew: Annotated[
        float | None, typer.Option(help="Divergence in bits from which a feature counts as skewed. Default: 0.12.")
    ] = None,
    max_uncompressed: MaxUncompressed = None,
    max_ratio: MaxRatio = None,
    runner: Runner = None,
    workers: EmbeddedThreads = None,
    as_json: Json = False,
) -> None:
    """Score flows from captures or datasets with a trained model, and measure skew against its training data."""
    with ProgressDisplay("score") as display:
        display.line(f"{', '.join(inputs)} to {out}, with model {model}")
        with quick_start(cloud=runner is not None):
            from flowloom.pipelines.engines.embedded import EMBEDDED
            from flowloom.pipelines.score import MAX_SKEW, ScoreOptions, skew_table
            from flowloom.pipelines.score import score as score_inputs
            from flowloom.schemas.cores import usable_cores
            from flowloom.schemas.corpus.capture_limits import CaptureLimits
            from flowloom.schemas.models.score_card import SCORE_PAGE

            import_trainer("flowloom.trainers.deploy.scorer")

        options = ScoreOptions(
            model, tuple(inputs), out, split, identity, key_file, shards,  # type: ignore[arg-type]
            max_skew=MAX_SKEW if max_skew is None else max_skew,
            workers=workers or usable_cores(), runner=runner or EMBEDDED,
            beam_args=beam_options(context, runner or EMBEDDED), limits=CaptureLimits.of(max_uncompressed, max_ratio),
        )  # fmt: skip
        card = score_inputs(options, display.show)
    if as_json:
        print_json(card.model_dump(mode="json"))
        return
    show(skew_table(card))
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in card.rejected.items()) or "none"
    say(f"{out}: {card.scored:,} of {card.rows:,} rows scored; rejected: {rejected}")
    if card.captures:
        account = card.captures
        say(f"{account.records:,} records of {account.captures:,} captures, {account.rejects:,} rejects")
    if card.skew and card.skew.skewed:
        say(f"skewed against the training data: {', '.join(card.skew.skewed)}")
    say(out / SCORE_PAGE)


def retrain(
    state: Annotated[
        Path,
        typer.Argument(help="Folder of dataset, models and verdicts; the first run creates it."),
    ],
    corpus: Annotated[Path | None, typer.Argument(help="The corpus manifest (YAML); none with --rollback.")] = None,
    recipe: Annotated[str, typer.Option(help="The recipe to train by.")] = "multa",
    settings: Settings = None,
    margin: Annotated[
        float, typer.Option(min=0, max=1, help="Largest drop of the mean AUC on the frozen test rows.")
    ] = 0.005,
    max_drop: Annotated[float, typer.Option(min=0, max=1, help="Largest drop of a single task's AUC on them.")] = 0.02,
    max_drift: Annotated[
        float | None, typer.Option(help="Divergence in bits from which a feature counts as drifted. Default: 0.12.")
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="MLflow: sqlite:///FILE, address of a server, or none. Default: STATE/registry.db."),
    ] = None,
    data: Data = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Restore the previous champion.")] = False,
    workers: Threads = None,
    as_json: Json = False,
) -> None:
    """Add new captures to the dataset, train a challenger on it, and promote it if it passes the rule."""
    if rollback == (corpus is not None):
        raise typer.BadParameter("retrain needs a corpus manifest or --rollback, and not both")
    with ProgressDisplay("retrain") as display:
        display.line(f"{corpus} to {state}" if corpus else f"restoring the previous champion of {state}")
        with quick_start(cloud=False):
            from flowloom.pipelines.retrain import retrain as retraining
            from flowloom.pipelines.score import MAX_SKEW
            from flowloom.schemas.cores import usable_cores
            from flowloom.schemas.models.retrain_state import PromotionRule

        if rollback:
            champion = retraining.rollback(state, registry).champion
            result: dict[str, Any] = {"champion": champion, "version": None, "report": None}
        else:
            assert corpus is not None
            rule = PromotionRule(margin=margin, max_drop=max_drop)
            limit = MAX_SKEW if max_drift is None else max_drift
            options = retraining.RetrainOptions(
                state, corpus, recipe, tuple(settings or ()), rule, limit, registry, workers or usable_cores(), data
            )
            found = retraining.retrain(options, display.show)
            version = found.version.model_dump(mode="json") if found.version else None
            result = {"champion": found.champion, "version": version, "report": found.report}
    if as_json:
        print_json(result)
        return
    if result["version"]:
        verdict = result["version"]["verdict"]
        say(f"version {result['version']['number']}: {'; '.join(verdict['reasons'])}")
        say(result["report"])
    say(f"champion: version {result['champion']}")
