"""Jobs in Python that make datasets on Beam: `build` and `weave`."""

import os
from collections.abc import Callable, Mapping, Sequence

from flowloom.pipelines import build as building
from flowloom.pipelines import weave as weaving
from flowloom.pipelines.engines.embedded import EMBEDDED
from flowloom.schemas.cores import usable_cores
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.trainers.api.open_dataset import OpenDataset, open_dataset
from flowloom.trainers.feed.dataset import Dataset
from flowloom.transforms.io.filesystems import is_url
from flowloom.transforms.weave.weave_plans import WeaveRules


def build(
    manifest: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    workers: int | None = None,
    runner: str = "embedded",
    beam_args: Sequence[str] = (),
    data: str | os.PathLike[str] | None = None,
    allow_empty: bool = False,
    sha256: bool = False,
    progress: Callable[[Progress], None] = ignore_progress,
) -> OpenDataset:
    """Builds a dataset from the captures of a corpus manifest, as `flowloom build` does.

    Args:
      manifest: the corpus manifest, a YAML file (docs/manifest.md).
      output: the dataset directory to create; `fl.publish` copies it to a URL.
      workers: threads of the embedded runner; None for all cores.
      runner: `embedded`, or a Beam runner.
      beam_args: options of that runner, as on its command line.
      data: the folder of the manifest's relative paths; None for the folder of the manifest.
      allow_empty: whether a dataset is built that lacks a split or a class; its card states what it lacks.
      sha256: whether captures are read again for the SHA-256 of their stored bytes.
      progress: called about twice a second, from another thread.

    Raises:
      FlowloomError: if the manifest is invalid, the output exists, no flow could be built, or the engine fails.

    Example:

    >>> import flowloom as fl
    >>> ds = fl.build("corpus.yaml", "DATASET-OF-BUILD", workers=1)
    >>> ds.card.accounting.captures
    8
    """
    if is_url(os.fspath(output)):
        raise FlowloomError(
            f"output must be a directory, got {os.fspath(output)}; build a directory, and copy it with fl.publish"
        )
    engine = EMBEDDED if runner == "embedded" else runner
    options = building.BuildOptions(
        manifest, output, workers or usable_cores(), engine, tuple(beam_args),
        data=data, allow_empty=allow_empty, sha256=sha256,
    )  # fmt: skip
    building.build(options, progress)
    return open_dataset(output)


def weave(
    datasets: Sequence[Dataset | str | os.PathLike[str]],
    output: str | os.PathLike[str],
    layout: str,
    *,
    missing: str = "unknown",
    on_conflict: str = "first",
    values: Mapping[str, Mapping[str, str]] | None = None,
    shards: int | None = None,
    name: str | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] = ignore_progress,
) -> OpenDataset:
    """Converts a dataset to another layout, or merges several, from their shards alone, as `flowloom weave` does.

    Args:
      datasets: opened datasets or their directories, in order of precedence.
      output: the dataset directory to create.
      layout: `aurora` (fused): one row with all labels; `rainbow` (striped): one stripe of shards for each task.
      missing: value of absent labels under `aurora`: `unknown` or `negative`.
      on_conflict: label of a flow on which two datasets disagree: `first`, `unknown` or `error`.
      values: by task, label values of later datasets and the values of the first dataset that replace them.
      shards: shards of each stripe and split; None as in the datasets.
      name: name of the new dataset; None for the datasets' names.
      workers: threads; None for all cores.
      progress: called about twice a second, from another thread.

    Raises:
      FlowloomError: if the datasets do not fit together, a file is damaged, or the output exists.

    Example:

    >>> import flowloom as fl
    >>> striped = fl.weave(["DATASET"], "STRIPES", "rainbow", workers=1)
    >>> striped.card.layout, sorted({shard.task for shard in striped.card.shards})
    ('rainbow', ['app', 'tunnel'])
    """
    replaced = {task: dict(each) for task, each in (values or {}).items()}
    rules = WeaveRules(layout, missing, on_conflict, replaced, shards, name)  # type: ignore[arg-type] # checked there
    folders = tuple(each.root if isinstance(each, Dataset) else each for each in datasets)
    weaving.weave(weaving.WeaveOptions(folders, output, rules, workers or usable_cores()), progress)
    return open_dataset(output)
