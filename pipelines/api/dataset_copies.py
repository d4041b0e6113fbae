"""Jobs in Python on finished datasets without Beam: `publish`, `fetch` and `verify`."""

import os
from collections.abc import Callable

from flowloom.pipelines import publish as publishing
from flowloom.pipelines import verify as verifying
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.trainers.api.open_dataset import OpenDataset, open_dataset
from flowloom.trainers.feed.dataset import Dataset


def publish(
    dataset: Dataset | str | os.PathLike[str],
    url: str,
    *,
    progress: Callable[[Progress], None] = ignore_progress,
) -> None:
    """Copies a dataset directory to an object store; the card is copied last, and makes it a dataset.

    Args:
      dataset: an opened dataset, or its directory.
      url: the place, such as `s3://bucket/name` or `gs://bucket/name`; other stores need the extra `storage`.
      progress: called with the name of each copied file.

    Raises:
      FlowloomError: if `url` has a dataset already, or a file differs from the card or cannot be written.

    Example:

    >>> import flowloom as fl
    >>> from pathlib import Path
    >>> fl.publish("DATASET", Path("STORE").absolute().as_uri())
    """
    publishing.publish(_folder(dataset), url, progress)


def fetch(
    url: str, output: str | os.PathLike[str], *, progress: Callable[[Progress], None] = ignore_progress
) -> OpenDataset:
    """Copies a dataset from an object store to a directory, and checks every file against the card.

    Args:
      url: the URL that a dataset was built for or published at.
      output: the dataset directory to create.
      progress: called with the name of each copied file.

    Raises:
      FlowloomError: if there is no dataset, a file is missing or differs from the card, or the output exists.

    Example:

    >>> import flowloom as fl
    >>> from pathlib import Path
    >>> fl.publish("DATASET", Path("STORE-TO-FETCH").absolute().as_uri())
    >>> fl.fetch(Path("STORE-TO-FETCH").absolute().as_uri(), "FETCHED").card.name
    'small'
    """
    publishing.fetch(url, output, progress)
    return open_dataset(output)


def verify(
    dataset: Dataset | str | os.PathLike[str], *, progress: Callable[[Progress], None] = ignore_progress
) -> verifying.Verification:
    """Checks a dataset's files against its card.

    Args:
      dataset: an opened dataset, or its directory.
      progress: called before each shard.

    Returns:
      Numbers of verified shards, rows and captures, and the content hash.

    Raises:
      FlowloomError: naming the first difference.

    Example:

    >>> import flowloom as fl
    >>> fl.verify("DATASET").captures
    8
    """
    return verifying.verify(_folder(dataset), progress)


def _folder(dataset: Dataset | str | os.PathLike[str]) -> str | os.PathLike[str]:
    return dataset.root if isinstance(dataset, Dataset) else dataset
