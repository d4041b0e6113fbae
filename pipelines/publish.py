"""`flowloom publish` and `flowloom fetch`: datasets to and from other filesystems, whole or not at all.

Object stores rename nothing, and their listings may lag. So the card is what makes a dataset: it is written last, when
the store has confirmed every file that it names, and read first; nobody ever looks at what else lies there.
"""

import concurrent.futures
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from flowloom.schemas.dataset.dataset_card import CARD, DatasetCard, read_card
from flowloom.schemas.dataset.dataset_paths import path_within
from flowloom.schemas.dataset.dataset_statistics import REPORT, STATISTICS
from flowloom.schemas.dataset.stored_files import RESTORE
from flowloom.schemas.dataset.views import dataset_files
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import check_digest, file_sha256
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.io.filesystems import download, exists, is_url, upload
from flowloom.transforms.io.staging import staged_folder

SIDE_BY_SIDE = 8
"""Files on their way at a time."""
_LOCAL = ("file://", "local://")


def require_vacant(url: str) -> None:
    """Checks that no dataset is at a URL.

    Raises:
      FlowloomError: if one is, or the store cannot be asked.
    """
    try:
        taken = exists(_at(url, CARD))
    except OSError as error:
        raise FlowloomError(
            f"{url} cannot be looked at ({error}); check its name, the network and your rights"
        ) from None
    if taken:
        raise FlowloomError(f"output {url} exists already; remove it, or name another one")


def publish(
    dataset: str | os.PathLike[str], url: str, progress: Callable[[Progress], None] = ignore_progress
) -> DatasetCard:
    """Copies a dataset directory to a URL; it is one there as soon as its card is, which comes last.

    Args:
      progress: called with the name of each copied file.

    Raises:
      FlowloomError: if there is no dataset, `url` is none or has one already, a file differs from the card, lies
        outside of the dataset or cannot be written.
    """
    if not is_url(url):
        raise FlowloomError(f"publish needs a URL such as s3://bucket/name, got {url!r}; copy the folder instead")
    url = url.rstrip("/")
    root = Path(dataset)
    card = read_card(root)
    require_vacant(url)
    *files, last = dataset_files(card)
    files += [name for name in (STATISTICS, REPORT) if (root / name).is_file()]

    digests = _digests(card)

    def send(name: str) -> None:
        source = path_within(root, name)
        check_digest(source, digests.get(name), RESTORE)
        if url.startswith(_LOCAL):
            path_within(url.partition("://")[2], name)
        try:
            upload(str(source), _at(url, name))
        except OSError as error:
            raise FlowloomError(
                f"{name} could not be written to {url} ({error}); there is no dataset there yet: publish {root} again"
            ) from None

    total = len(files) + 1
    _side_by_side(send, files, progress, total)
    require_vacant(url)
    send(last)
    progress(Progress(last, total, total))
    return card


def fetch(url: str, out: str | os.PathLike[str], progress: Callable[[Progress], None] = ignore_progress) -> DatasetCard:
    """Copies the dataset at a URL to a new directory, checks every file against the card, and returns the card.

    Args:
      progress: called with the name of each copied file.

    Raises:
      FlowloomError: if there is no dataset, one of its files is missing or another than the card says, or `out` exists.
    """
    with staged_folder(os.fspath(out)) as staging:
        root = Path(staging)
        _receive(url, CARD, root)
        card = read_card(root)
        digests = _digests(card)

        def receive(name: str) -> None:
            _receive(url, name, root)
            if digests.get(name) and file_sha256(root / name) != digests[name]:
                raise FlowloomError(f"{name} at {url} is not the file that the card lists; publish the dataset again")

        files = [*dataset_files(card)[:-1], *(name for name in (STATISTICS, REPORT) if exists(_at(url, name)))]
        _side_by_side(receive, files, progress, len(files))
        return card


def _digests(card: DatasetCard) -> dict[str, str]:
    return {**{shard.path: shard.sha256 for shard in card.shards}, **card.files}


def _receive(url: str, name: str, root: Path) -> None:
    place = path_within(root, name)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        download(_at(url, name), str(place))
    except OSError as error:
        what = f"{url} is no dataset: {CARD}" if name == CARD else f"the dataset at {url} is not whole: {name}"
        raise FlowloomError(f"{what} cannot be read ({error}); check the URL and your rights") from None


def _side_by_side(
    copy: Callable[[str], None], names: Iterable[str], progress: Callable[[Progress], None], total: int
) -> None:
    """Copies files in several threads; the first failure ends it."""
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        pending = {pool.submit(copy, name): name for name in names}
        try:
            for done, future in enumerate(concurrent.futures.as_completed(pending), start=1):
                future.result()
                progress(Progress(pending[future], done, total))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _at(url: str, name: str) -> str:
    return f"{url.rstrip('/')}/{name}"
