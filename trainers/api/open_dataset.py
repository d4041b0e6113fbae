"""Datasets in Python: rows as frames and arrays, and batches for TensorFlow, PyTorch and Hugging Face."""

import dataclasses
import os
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from flowloom.schemas.arrow.address_texts import address_texts
from flowloom.schemas.arrow.rows import IDENTITY, View, label_column
from flowloom.schemas.dataset.card_parts import SplitCounts
from flowloom.schemas.dataset.stored_files import shard_file
from flowloom.schemas.dataset.views import StoredViews
from flowloom.schemas.extras import extra_needed
from flowloom.trainers.api.dataset_feeds import RecipeOrSpec, feed_arguments
from flowloom.trainers.feed.array_feed import ArrayFeed
from flowloom.trainers.feed.dataset import Dataset

if TYPE_CHECKING:
    import datasets
    import polars as pl
    import tensorflow as tf

    from flowloom.trainers.api.torch_batches import TorchBatches


@dataclasses.dataclass(frozen=True)
class OpenDataset(Dataset):
    """A finished dataset directory; open one with `fl.open_dataset`.

    Attributes:
      root: the directory.
      card: its card: tasks, splits, accounting, leakage, shards with digests.

    Example:

    >>> import flowloom as fl
    >>> ds = fl.open_dataset("DATASET")
    >>> [task.name for task in ds.tasks]
    ['app', 'tunnel']
    >>> {split: counts.rows > 0 for split, counts in ds.splits.items()}
    {'train': True, 'validation': True, 'test': True}
    """

    @property
    def splits(self) -> dict[str, SplitCounts]:
        """Counts of each split, with rows by class of each task."""
        return self.card.splits

    def scan(
        self, split: str, view: View = "flows", *, text_addresses: bool = False, label_names: bool = False
    ) -> "pl.LazyFrame":
        """Returns the rows of a split as a lazy frame of Polars, which reads only what a query needs.

        Args:
          split: `train`, `validation` or `test`.
          view: `flows`, `packets` or `tables`.
          text_addresses: whether `src_ip` and `dst_ip` are text rather than 16 bytes.
          label_names: whether label columns have label values (`pl.Enum`) rather than their numbers; null is unknown.

        Raises:
          FlowloomError: if the dataset lacks the view or the split, a shard differs from the card, or Polars is not
            installed.

        Example:

        >>> import flowloom as fl
        >>> train = fl.open_dataset("DATASET").scan("train", label_names=True)
        >>> sorted(train.select("label_app").unique().collect()["label_app"].to_list())
        ['ssh', 'web']
        """
        with extra_needed("Dataset.scan needs"):
            import polars as pl

        self.row_groups(split, view=view)  # checks view, split and digests
        stripes: dict[str | None, list[str]] = {}
        for shard in self.card.shards:
            if shard.split == split and shard.view == view:
                stripes.setdefault(shard.task, []).append(str(shard_file(self.root, shard)))
        parts = [pl.scan_parquet(files, hive_partitioning=False) for files in stripes.values()]
        rows = pl.concat(parts, how="diagonal") if parts else self._no_rows(view)
        names = rows.collect_schema().names()
        if text_addresses:
            rows = rows.with_columns(
                pl.col(name).map_batches(_address_texts, return_dtype=pl.String, is_elementwise=True)
                for name in IDENTITY
                if name in names
            )
        if label_names:
            rows = rows.with_columns(
                pl.col(label_column(task.name)).replace_strict(
                    range(len(task.vocabulary)), task.vocabulary, return_dtype=pl.Enum(task.vocabulary)
                )
                for task in self.tasks
                if label_column(task.name) in names
            )
        return rows

    def _no_rows(self, view: View) -> "pl.LazyFrame":
        """Returns the frame of a split without shards."""
        import polars as pl

        columns = StoredViews.of(self.card).schema(view, self.tasks)
        return cast(pl.DataFrame, pl.from_arrow(columns.empty_table())).lazy()

    def tf(
        self,
        split: str,
        recipe: RecipeOrSpec = "multa",
        *,
        batch_size: int = 256,
        seed: int | None = 0,
        epochs: int | None = 1,
        start_step: int = 0,
        **settings: Any,
    ) -> "tf.data.Dataset":
        """Returns the batches of a split as a `tf.data.Dataset`: with a recipe on train, the trainer's own feed.

        Args:
          split: `train`, `validation` or `test`.
          recipe: a recipe by name, or the row spec of a model. On the train split a recipe also chooses rows: its
            balance, its few labels, its minisets of one task on a striped dataset.
          batch_size: rows of a batch at most.
          seed: seed of the order and choice of rows; None for all rows in the order of the shards.
          epochs: number of epochs; None for an endless stream.
          start_step: the first batch, to resume at; batches depend on seed and step alone.
          settings: other values for settings of the recipe, as in `fl.train`.

        Returns:
          Batches (inputs, labels, weights) for `keras.Model.fit`: {name: [B, ...]} as the model needs it, for flows
          `sequence` float32 [B, k, C] and `length` int32 [B]; {task: int32 [B]}, 0 where unknown; {task: float32 [B]},
          1 where the label is known and 0 where it is unknown.

        Raises:
          FlowloomError: if recipe and dataset do not fit each other, the split has no rows, a shard is damaged, or
            TensorFlow is not installed.

        Example:

        >>> import flowloom as fl
        >>> batches = fl.open_dataset("DATASET").tf("train", "multa", batch_size=32, k=10)
        >>> inputs, labels, weights = next(iter(batches))
        >>> inputs["sequence"].shape, sorted(labels)
        (TensorShape([32, 10, 18]), ['app', 'tunnel'])
        """
        with extra_needed("Dataset.tf needs"):
            from flowloom.trainers.native_logs import import_tensorflow

            import_tensorflow()
        from flowloom.trainers.feed.feed import Feed

        feed = Feed(**feed_arguments(self, split, recipe, batch_size, seed, settings))
        return feed.batches(start_step, epochs)

    def torch(
        self,
        split: str,
        recipe: RecipeOrSpec = "multa",
        *,
        batch_size: int = 256,
        seed: int | None = 0,
        epochs: int | None = 1,
        start_step: int = 0,
        **settings: Any,
    ) -> "TorchBatches":
        """Returns the batches of `tf` for PyTorch, without TensorFlow: an `IterableDataset` of batches.

        With `DataLoader(batches, batch_size=None, num_workers=N)` each worker reads windows of row groups of its own.
        Batches and their order depend on seed and N alone, so a loader with the same N and `start_step` continues a
        stopped one.

        Args:
          split, recipe, batch_size, seed, epochs, settings: as of `tf`.
          start_step: number of batches, of all workers together, that were given already.

        Raises:
          FlowloomError: for the reasons of `tf`, or if PyTorch is not installed.

        Example:

        >>> import flowloom as fl
        >>> batches = fl.open_dataset("DATASET").torch("train", batch_size=32)
        >>> inputs, labels, weights = next(iter(batches))
        >>> inputs["sequence"].shape
        torch.Size([32, 20, 18])
        """
        with extra_needed("Dataset.torch needs"):
            from flowloom.trainers.api.torch_batches import TorchBatches

        feed = ArrayFeed(**feed_arguments(self, split, recipe, batch_size, seed, settings))
        return TorchBatches(feed, epochs, start_step)

    def to_numpy(
        self, split: str, recipe: RecipeOrSpec = "multa", **settings: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, npt.NDArray[np.int32]]]:
        """Returns all rows of a split as padded arrays, for scikit-learn and others.

        Args:
          split, recipe, settings: as of `tf`; the rows are all of the split, in the order of the shards.

        Returns:
          Inputs {name: [N, ...]}, for flows `sequence` float32 [N, k, C], padded with zeros, and `length` int32 [N];
          labels {task: int32 [N]}, -1 where unknown.

        Raises:
          FlowloomError: if recipe and dataset do not fit each other, the split has no rows, or a shard is damaged.

        Example:

        >>> import flowloom as fl
        >>> inputs, labels = fl.open_dataset("DATASET").to_numpy("train")
        >>> features = inputs["sequence"].reshape(len(inputs["sequence"]), -1)
        >>> features.shape[1], set(labels["tunnel"].tolist())
        (360, {0, 1})
        """
        feed = ArrayFeed(**feed_arguments(self, split, recipe, 1, None, settings))
        windows = [feed.tensors(0, number) for number in range(len(feed.windows(0)))]
        *inputs, labels = map(np.concatenate, zip(*windows, strict=True))
        tasks = [task.name for task in feed.dataset.tasks]
        return dict(zip(feed.features.inputs, inputs, strict=True)), dict(zip(tasks, labels.T, strict=True))

    def huggingface(self, view: View = "flows") -> "datasets.DatasetDict":
        """Returns the splits that have rows as a `datasets.DatasetDict`, in memory.

        Labels are `ClassLabel` features with the label values as names, null where unknown; addresses are text.

        Args:
          view: `flows`, `packets` or `tables`.

        Raises:
          FlowloomError: if the dataset lacks the view, a shard is damaged, or `datasets` is not installed.

        Example:

        >>> import flowloom as fl
        >>> splits = fl.open_dataset("DATASET").huggingface()
        >>> splits["train"].features["label_app"].names
        ['web', 'ssh']
        """
        with extra_needed("Dataset.huggingface needs"):
            from flowloom.trainers.api.huggingface_splits import huggingface_splits

        return huggingface_splits(self, view)


def open_dataset(path: str | os.PathLike[str]) -> OpenDataset:
    """Opens a dataset directory that `fl.build` or `flowloom build` finished.

    Raises:
      FlowloomError: if the card is missing, of another format version or damaged, or if a shard is missing.

    Example:

    >>> import flowloom as fl
    >>> fl.open_dataset("DATASET").card.layout
    'aurora'
    """
    return OpenDataset.open(os.fspath(path))


def _address_texts(addresses: Any) -> Any:
    """Returns a Polars series of addresses as texts."""
    import polars as pl

    return pl.Series(addresses.name, address_texts(addresses.to_arrow()), pl.String)
