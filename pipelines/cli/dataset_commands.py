"""Commands on captures and datasets: flows, plan, build, describe, verify, weave, publish, fetch and others."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowloom.pipelines.cli.shared import (
    HASH_DIGITS,
    Data,
    EmbeddedThreads,
    Json,
    MaxRatio,
    MaxUncompressed,
    Runner,
    Sha256,
    Threads,
    beam_options,
    print_rows,
)
from flowloom.pipelines.terminal.progress_display import ProgressDisplay
from flowloom.pipelines.terminal.startup import quick_start
from flowloom.pipelines.terminal.terminal_text import TerminalConsole, print_json, say, show
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress

if TYPE_CHECKING:
    from flowloom.schemas.dataset.dataset_card import DatasetCard


def flows(
    captures: Annotated[
        list[str],
        typer.Argument(help="Capture files, globs, folders, or - for standard input; each file is metered by itself."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The file to write: .parquet, .csv, .csv.gz, .arrow or .jsonl; - for lines of JSON on stdout.",
        ),
    ],
    preset: Annotated[str, typer.Option(help="Preset of the flow definition.")] = "default",
    k: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Packets in a flow's sequences. Default: the preset's.")
    ] = None,
    text_addresses: Annotated[
        bool | None,
        typer.Option(
            "--text-addresses/--no-text-addresses",
            help="Write addresses as text. Default: in CSV and JSON lines only.",
            show_default=False,
        ),
    ] = None,
    capture_column: Annotated[
        bool, typer.Option("--capture-column", help="Add the column capture, the path of each flow's capture.")
    ] = False,
    captures_table: Annotated[
        Path | None, typer.Option("--captures", metavar="FILE", help="Also write one row of accounting per capture.")
    ] = None,
    max_uncompressed: MaxUncompressed = None,
    max_ratio: MaxRatio = None,
    sha256: Sha256 = False,
    workers: Threads = None,
    as_json: Json = False,
) -> None:
    """Write the flows of captures to one table, without labels."""
    with quick_start():
        from flowloom.pipelines.flow_tables.table_writers import STANDARD_OUTPUT
        from flowloom.pipelines.flows import FlowsOptions, meter_captures
        from flowloom.schemas.corpus.capture_limits import CaptureLimits
        from flowloom.schemas.corpus.flow_definition import FlowDefinition

    if as_json and output == STANDARD_OUTPUT:
        raise FlowloomError("--json must not be given with -o -, got both; name a file for the flows")
    definition = FlowDefinition.of(preset) if k is None else FlowDefinition.of(preset, k=k)
    limits = CaptureLimits.of(max_uncompressed, max_ratio)
    with ProgressDisplay("flows") as display:
        options = FlowsOptions(
            tuple(captures), output, definition, limits, sha256, text_addresses, capture_column, captures_table, workers
        )  # fmt: skip
        report = meter_captures(options, display.show)
    if as_json:
        print_json(dataclasses.asdict(report))
    elif output != STANDARD_OUTPUT:
        say(f"{output}: {report.flows:,} flows of {report.packets:,} packets in {report.seconds['total']:.1f} s")


def compare_definitions(
    capture: Annotated[str, typer.Argument(help="A capture file.")],
    a: Annotated[str, typer.Argument(help="A preset of the flow definition.")],
    b: Annotated[str, typer.Argument(help="Another preset.")],
    k: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Packets in the sequences of both. Default: the presets'.")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Example flows to show for each cause.")] = 3,
    workers: Threads = None,
    as_json: Json = False,
) -> None:
    """Compare the flows of one capture under two definitions, and name the option behind each difference."""
    with quick_start():
        from flowloom.pipelines.flow_tables.compare import CompareOptions, comparison_table
        from flowloom.pipelines.flow_tables.compare import compare_definitions as compare
        from flowloom.schemas.corpus.flow_definition import FlowDefinition

    one, other = (FlowDefinition.of(preset) if k is None else FlowDefinition.of(preset, k=k) for preset in (a, b))
    with ProgressDisplay("compare-definitions") as display:
        report = compare(CompareOptions(capture, one, other, examples, workers), display.show)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        show(comparison_table(report, a, b))


def init(
    folder: Annotated[Path, typer.Argument(help="A folder of captures.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write.")] = Path("corpus.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the manifest if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Draft a manifest from a folder of captures, and print what a build of it would give."""
    if output.exists() and not force:
        raise FlowloomError(f"{output} exists already; choose another name with -o, or replace it with --force")
    with ProgressDisplay("init") as display:
        display.line(f"{folder} to {output}")
        with quick_start(cloud=False):
            from flowloom.pipelines.draft.draft_manifest import class_table, draft_manifest
            from flowloom.schemas.atomic_files import write_text

        draft = draft_manifest(folder)
        write_text(output, draft.text)
        for finding in draft.findings:
            display.show(Progress(f"warning: {finding}", stays=True, event="warning"))
    if as_json:
        print_json(dataclasses.asdict(draft))
        return
    say(f"{output}: {draft.captures:,} captures, {draft.bytes / 1e6:,.1f} MB")
    if draft.classes:
        show(class_table(draft))
    beside = output.absolute().parent == folder.absolute()
    say(f"next: read {output}, then flowloom build {output} DATASET{'' if beside else f' --data {folder}'}")


def plan(
    corpus: Annotated[Path, typer.Argument(help="The corpus manifest (YAML).")],
    workers: Annotated[int | None, typer.Option(min=1, help="Workers of the build. Default: all cores.")] = None,
    rates: Annotated[
        str, typer.Option(help="measured: build samples of the captures here; stored: use rates of another machine.")
    ] = "measured",
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Estimate time, memory and disk of a build, from small builds of samples of its captures."""
    with ProgressDisplay("plan") as display:
        display.line(f"{corpus}")
        with quick_start(cloud=False):
            from flowloom.pipelines.plan import PlanOptions, plan_table
            from flowloom.pipelines.plan import plan as plan_build
            from flowloom.schemas.cores import usable_cores

        options = PlanOptions(corpus, workers or usable_cores(), rates, data)  # type: ignore[arg-type] # checked there
        found = plan_build(options, display.show)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    show(plan_table(found))
    for basis in found.bases:
        say(f"- {basis}")


def build(
    context: typer.Context,
    corpus: Annotated[Path, typer.Argument(help="The corpus manifest (YAML).")],
    out: Annotated[str, typer.Argument(help="The dataset directory to create, or the URL to publish the dataset at.")],
    data: Data = None,
    allow_empty: Annotated[
        bool,
        typer.Option("--allow-empty", help="Build although a split, a class or an entry of the manifest is empty."),
    ] = False,
    runner: Runner = None,
    workers: EmbeddedThreads = None,
    start_limit: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Time limit for the workers of another runner to start.")
    ] = 180,
    job_folder: Annotated[
        Path | None,
        typer.Option(help="Folder that all workers share while building for a URL. Default: a temporary one."),
    ] = None,
    sha256: Sha256 = False,
    as_json: Json = False,
) -> None:
    """Build a dataset from the captures of a corpus manifest."""
    with ProgressDisplay("build") as display:
        display.line(f"{corpus} to {out}")
        with quick_start(cloud=runner is not None):
            from flowloom.pipelines.build import BuildOptions
            from flowloom.pipelines.build import build as build_dataset
            from flowloom.pipelines.engines.embedded import EMBEDDED
            from flowloom.schemas.cores import usable_cores

        given = beam_options(context, runner or EMBEDDED)
        engine = (workers or usable_cores(), runner or EMBEDDED, given, start_limit, job_folder)
        options = BuildOptions(corpus, out, *engine, sha256, data, allow_empty)
        card = build_dataset(options, display.show)
    if as_json:
        print_json(card.model_dump(mode="json"))
        return
    account = card.accounting
    say(f"{out}: {account.flows:,} flows of {account.captures:,} captures, {account.rejects:,} rejects")
    print_rows(card)
    say(f"next: flowloom {'fetch' if '://' in out else 'describe'} {out}")


def describe(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory.")],
    leakage: Annotated[
        bool, typer.Option("--leakage", help="Measure leakage if the card does not contain it.")
    ] = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Read the shards, and write statistics.json and report.html.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the files of --statistics. Default: the dataset.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a dataset's card (tasks, splits, accounting, rejects, shards); optionally write statistics and a page."""
    from flowloom.pipelines.describe.card_tables import describe as describe_dataset

    if output and not statistics:
        raise typer.BadParameter("--output needs --statistics, whose files it places; add --statistics")
    card = describe_dataset(dataset, None if as_json else TerminalConsole(), leakage=leakage)
    if as_json:
        print_json(card.model_dump(mode="json"))
    if statistics:
        with ProgressDisplay("describe") as display:
            display.line(f"reading the shards of {dataset}")
            from flowloom.pipelines.describe.dataset_page import write_page
            from flowloom.pipelines.describe.measure_statistics import measure_statistics

            found = measure_statistics(dataset, output or dataset)
            display.line(f"wrote {write_page(dataset, card, found, output or dataset)}")


def show_flow(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory.")],
    flow_id: Annotated[str, typer.Argument(help="The flow's id in hexadecimal, or a beginning that is unique.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page to write. Default: flow-<id>.html.")
    ] = None,
) -> None:
    """Write a page of one flow: its packets as a drawing, its key, its labels, and where it comes from."""
    from flowloom.pipelines.describe.flow_page import show_flow as write_flow_page

    path, flow = write_flow_page(dataset, flow_id, output)
    labels = ", ".join(f"{task} {label or 'unknown'}" for task, label in flow.labels.items())
    say(f"flow {flow.flow_id}, {flow.split} split: {labels}")
    say(path)


def verify(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory.")],
    as_json: Json = False,
) -> None:
    """Check a dataset's files against its card, and report the first difference."""
    from flowloom.pipelines.verify import verify as verify_dataset

    with ProgressDisplay("verify") as display:
        found = verify_dataset(dataset, display.show)
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        say(f"{dataset}: {found.shards:,} shards with {found.rows:,} rows match the card")
        say(f"content hash {found.content_hash[:HASH_DIGITS]}")


def weave(
    datasets: Annotated[list[Path], typer.Argument(help="Dataset directories, in order of precedence.")],
    out: Annotated[Path, typer.Argument(help="The dataset directory to create.")],
    layout: Annotated[
        str, typer.Option(help="aurora (fused): one row with all labels; rainbow (striped): one stripe for each task.")
    ],
    missing: Annotated[str, typer.Option(help="Value of absent labels under aurora: unknown, negative.")] = "unknown",
    on_conflict: Annotated[
        str, typer.Option(help="Label of a flow on which two datasets disagree: first, unknown, error.")
    ] = "first",
    words: Annotated[
        list[str] | None,
        typer.Option(
            "--word", metavar="TASK.VALUE=VALUE", help="Replace a label value by one of the first dataset's values."
        ),
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Shards of each stripe and split. Default: as in the datasets.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new dataset. Default: the datasets' names.")] = None,
    workers: Threads = None,
    as_json: Json = False,
) -> None:
    """Convert a dataset to another layout, or merge several datasets, from their shards alone."""
    with ProgressDisplay("weave") as display:
        display.line(f"{', '.join(map(str, datasets))} to {out}")
        with quick_start(cloud=False):
            from flowloom.pipelines.weave import WeaveOptions
            from flowloom.pipelines.weave import weave as weave_datasets
            from flowloom.schemas.cores import usable_cores
            from flowloom.transforms.weave.weave_plans import WeaveRules

        values = _replaced_values(words or ())
        rules = WeaveRules(layout, missing, on_conflict, values, shards, name)  # type: ignore[arg-type] # checked there
        options = WeaveOptions(tuple(datasets), out, rules, workers or usable_cores())
        card = weave_datasets(options, display.show)
    if as_json:
        print_json(card.model_dump(mode="json"))
        return
    account = card.accounting
    say(
        f"{out}: {card.layout} of {len(card.sources)} datasets, {account.flows_joined:,} flows joined, "
        f"{account.flows_absent:,} absent, {account.flows_unlabelled:,} without a label"
    )
    print_rows(card)
    say(f"next: flowloom describe {out}")


def publish(
    dataset: Annotated[Path, typer.Argument(help="The dataset directory.")],
    url: Annotated[str, typer.Argument(help="The URL to copy it to: s3://bucket/name, gs://... or one of fsspec's.")],
) -> None:
    """Copy a dataset directory to an object store; the card is copied last, and makes it a dataset."""
    from flowloom.pipelines.publish import publish as publish_dataset

    _copy_dataset("publish", url, lambda progress: publish_dataset(dataset, url, progress))


def fetch(
    url: Annotated[str, typer.Argument(help="The URL that a dataset was built for or published at.")],
    out: Annotated[Path, typer.Argument(help="The dataset directory to create.")],
) -> None:
    """Copy a dataset from an object store to a directory, and check every shard against the card."""
    from flowloom.pipelines.publish import fetch as fetch_dataset

    _copy_dataset("fetch", out, lambda progress: fetch_dataset(url, out, progress))


def worker_pool(
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="The port where this machine's task manager asks for workers.")
    ],
) -> None:
    """Start Beam workers for the task manager of a cluster on this machine, until stopped."""
    with quick_start(cloud=False):
        from flowloom.pipelines.engines.worker_pool import serve

    serve(port, ProgressDisplay("worker-pool").line)


def _copy_dataset(job: str, target: str | Path, copy: Callable[[Callable[[Progress], None]], "DatasetCard"]) -> None:
    """Copies a dataset with a progress display, and prints what arrived."""
    with ProgressDisplay(job) as display:
        card = copy(display.show)
    say(f"{target}: {len(card.shards):,} shards, content hash {card.content_hash[:HASH_DIGITS]}")


def _replaced_values(replacements: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns label values by task from `TASK.VALUE=VALUE`; a value may contain any character but `=`."""
    by_task: dict[str, dict[str, str]] = {}
    for replacement in replacements:
        place, _, new = replacement.partition("=")
        task, _, old = place.partition(".")
        if not (task and old and new):
            raise FlowloomError(f"--word must be TASK.VALUE=VALUE, as in app.msteams=teams, got {replacement!r}")
        by_task.setdefault(task, {})[old] = new
    return by_task
