"""Commands that run from data to report: the demo and the papers' experiments."""

from pathlib import Path
from typing import Annotated

import typer

from flowloom.pipelines.cli.shared import Json, OneEpoch, import_trainer
from flowloom.pipelines.terminal.metrics_table import scores_table
from flowloom.pipelines.terminal.progress_display import ProgressDisplay
from flowloom.pipelines.terminal.terminal_text import print_json, say, show


def demo(
    out: Annotated[Path, typer.Option(help="The folder to create.")] = Path("demo-output"),
    corpus: Annotated[Path | None, typer.Option(help="Folder of the demo corpus. Default: tests/corpus.")] = None,
    quick: OneEpoch = False,
    as_json: Json = False,
) -> None:
    """Build, train, evaluate and report on the demo corpus, in both layouts."""
    with ProgressDisplay("demo") as display:
        display.line(f"writing to {out}")
        import_trainer("flowloom.trainers.training.train")
        from flowloom.pipelines.demo import DemoOptions
        from flowloom.pipelines.demo import demo as run_demo

        found = run_demo(DemoOptions(out, corpus, quick), display.show)
    if as_json:
        print_json(found)
        return
    show(scores_table(found))
    for layout in found:
        say(out / "runs" / layout / "report.html")


def reproduce(
    paper: Annotated[str, typer.Argument(help="The paper: multitask-cnn, multa, mtc or iot-sentinel.")],
    data: Annotated[Path, typer.Option("--data", help="The folder with the paper's data.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="The folder to create, or to continue in.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of splits, labels and weights.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="Run a small grid; figures mean little.")] = False,
    final: Annotated[bool, typer.Option("--final", help="Show the final figures, of other splits, once.")] = False,
    as_json: Json = False,
) -> None:
    """Reproduce a paper's tables and figures beside its own; writes index.html and results.json."""
    with ProgressDisplay("reproduce") as display:
        import_trainer("flowloom.pipelines.reproduce.engine.experiments")
        from flowloom.pipelines.reproduce.command import reproduce as reproduce_paper
        from flowloom.pipelines.reproduce.engine.options import ReproduceOptions

        options = ReproduceOptions(paper, data, out, seed, quick, final=final)
        found = reproduce_paper(options, display.show)
    if as_json:
        print_json(found)
        return
    for claim in found["claims"]:
        say(f"{claim['verdict']}: {claim['statement']} ({claim['ours']})")
    say(options.folder / "index.html")
