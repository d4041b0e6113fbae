"""New rows of a dataset that was built again, and frozen copies of its test rows."""

import contextlib
import os
import shutil

import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.corpus.manifest import Output
from flowloom.schemas.dataset.dataset_card import DatasetCard, read_card, save_card, shard_place
from flowloom.schemas.dataset.stored_files import shard_file
from flowloom.schemas.parquet_files import read_table
from flowloom.transforms.dataset.card_counts import count_splits, normalisation
from flowloom.transforms.dataset.shards import WrittenShard, shards_hash, write_shard


def write_newest(dataset: str, earlier: str, out: str) -> DatasetCard:
    """Writes the flows that an earlier dataset does not have as a dataset, and returns its card.

    Flows are compared by id. A flow that continues in the next capture keeps its id, so it is not new. The card keeps
    the accounting of the whole dataset.

    Args:
      dataset, earlier: datasets of flows.
      out: the folder to make.
    """
    card = read_card(dataset)
    known = _flow_ids(earlier)
    output = Output()
    written: list[WrittenShard] = []
    for shard in card.shards:
        rows = read_table(shard_file(dataset, shard))
        fresh = rows.filter(pc.invert(pc.is_in(rows["flow_id"], value_set=known))).combine_chunks()
        if fresh.num_rows:
            number, shards = shard_place(shard.path)
            key = (shard.view, shard.task or "", shard.split, number)
            kept = output.model_copy(update={"shards": shards})
            written.append(write_shard(key, fresh.to_batches(), out, card.tasks, kept))
    newest = card.model_copy(
        update={
            "name": f"{card.name} (new rows)",
            "content_hash": shards_hash(written, card.tasks),
            "splits": count_splits(written, card.tasks, card.views[0]),
            "normalisation": normalisation(written),
            "overlap": (),
            "leakage": None,
            "findings": (),
            "files": {},
            "shards": tuple(each.shard for each in written),
        }
    )
    return _store(newest, out)


def freeze_test(dataset: str, tasks: tuple[str, ...], out: str) -> DatasetCard:
    """Copies the test rows of some tasks to a dataset of their own, by hard links where possible.

    Args:
      dataset: the dataset of the rows; it may be removed or built again afterwards.
      out: the folder to make.
    """
    card = read_card(dataset)
    shards = tuple(shard for shard in card.shards if shard.split == "test" and shard.task in (None, *tasks))
    for shard in shards:
        source = shard_file(dataset, shard)
        os.makedirs(os.path.dirname(f"{out}/{shard.path}"), exist_ok=True)
        try:
            os.link(source, f"{out}/{shard.path}")
        except OSError:  # another filesystem, or one without links
            shutil.copyfile(source, f"{out}/{shard.path}")
    frozen = card.model_copy(
        update={
            "name": f"{card.name} (frozen test)",
            "tasks": tuple(task for task in card.tasks if task.name in tasks),
            "splits": {"test": card.splits["test"]},
            "overlap": (),
            "leakage": None,
            "findings": (),
            "files": {},
            "shards": shards,
        }
    )
    return _store(frozen, out)


def judgeable_tasks(card: DatasetCard) -> tuple[str, ...]:
    """Returns the tasks with two or more classes in the test split, as the AUC of the others is undefined."""
    classes = card.splits["test"].classes
    return tuple(task.name for task in card.tasks if sum(count > 0 for count in classes[task.name].values()) > 1)


def drop_shards(dataset: str) -> None:
    """Removes the rows of a dataset; its card and tables stay."""
    for name in os.listdir(dataset) if os.path.isdir(dataset) else []:
        if os.path.isdir(f"{dataset}/{name}"):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(f"{dataset}/{name}")


def _flow_ids(dataset: str) -> pa.Array:
    paths = [shard_file(dataset, shard) for shard in read_card(dataset).shards]
    ids = [read_table(path, ["flow_id"])["flow_id"] for path in paths]
    return pa.concat_tables([pa.table({"flow_id": each}) for each in ids])["flow_id"].combine_chunks().unique()


def _store(card: DatasetCard, out: str) -> DatasetCard:
    os.makedirs(out, exist_ok=True)
    save_card(card, out)
    return card
