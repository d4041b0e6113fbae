"""`flowloom demo`: builds, trains and evaluates on the corpus of the source tree, under both layouts."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.demo_corpus import CORPUS
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress, ignore_progress

LAYOUTS = ("rainbow", "aurora")
RECIPE = "multa"


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """Options of `flowloom demo`: the output folder, the corpus, and whether to train one epoch only."""

    out: Path
    corpus: Path | None = None
    """A folder with `rainbow.yaml` and `aurora.yaml`; None: that of the source tree."""
    quick: bool = False
    """Train one epoch."""


def demo(options: DemoOptions, progress: Callable[[Progress], None] = ignore_progress) -> dict[str, dict[str, Any]]:
    """Builds, trains and evaluates under each layout, and returns the metrics by layout.

    Leaves `OUT/<layout>` (datasets) and `OUT/runs/<layout>` (runs with metrics.json and report.html).

    Raises:
      FlowloomError: if the corpus is not there, or a step fails.
    """
    corpus = options.corpus or CORPUS
    missing = [f"{layout}.yaml" for layout in LAYOUTS if not (corpus / f"{layout}.yaml").is_file()]
    if missing:
        raise FlowloomError(
            f"the demo corpus needs {' and '.join(missing)} in {corpus}; it comes with Flowloom's source tree, not "
            "with the installed package: get the source and say --corpus SOURCE/tests/corpus"
        )
    from flowloom.trainers.evaluation.evaluate import EvaluateOptions, evaluate
    from flowloom.trainers.training.train import TrainOptions, train

    overrides = ("epochs=1",) if options.quick else ()
    found = {}
    for layout in LAYOUTS:
        dataset, run = options.out / layout, options.out / "runs" / layout
        progress(Progress(f"building {dataset}", stays=True))
        build(BuildOptions(corpus / f"{layout}.yaml", dataset), progress)
        progress(Progress(f"training {run}", stays=True))
        train(TrainOptions(dataset, run, RECIPE, overrides), progress)
        progress(Progress(f"evaluating {run}", stays=True))
        found[layout] = evaluate(EvaluateOptions(run), progress)
    return found
