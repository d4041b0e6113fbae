"""The feed against TFRecords of tf.Example, `cache()` in memory, and what else feeds a trainer; synthetic flows.

All of them give batches of 256 flows of 60 packets with 4 channels and the labels of 3 tasks, and take turns in one
process, an epoch each. The feed shuffles; TFRecords are read as they lie, and `cache()` repeats the batches that it was
given first. The feed has decoded what it reads in an epoch before, as in a training; `first_epoch` decodes all of it.
The augmented feed also moves windows, loses packets, scales gaps and mirrors directions.
"""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # before TensorFlow is imported, or it talks on the same stream

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf
from generator import SyntheticCapture
from measure import FLOWLOOM, report, run, workplace

from flowloom.schemas.arrow.rows import label_column
from flowloom.trainers.feed.augmentation import Augmentation
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.flow_spec import CHANNELS, FeatureSpec
from flowloom.trainers.feed.row_group_cache import RowGroups

PACKETS, K, BATCH, ROUNDS = 5_000_000, 60, 256, 5
SELECTED = ("size", "gap", "direction", "payload")
AUGMENT = Augmentation(start=20, packet_loss=0.05, gap_scale=(0.5, 1.5), mirror=0.5)

MANIFEST = """\
name: synthetic
captures:
  - {glob: "c.pcap", labels: {synthetic: true}}
definition: {preset: default, k: 60}
tasks:
  synthetic: {kind: binary}
  bandwidth: {kind: auto, quantity: bandwidth, dividers: {method: quantiles, classes: 5}}
  duration: {kind: auto, quantity: duration, dividers: {method: quantiles, classes: 5}}
splits: {by: flow, train: 0.9, validation: 0.05, test: 0.05}
leakage: skip
"""


def built(folder: Path) -> Dataset:
    """Builds a dataset of some 230,000 flows of 17 packets in mean, in row groups of at most 16,384."""
    SyntheticCapture(PACKETS, packets_per_flow=20, captured_bytes=64).write(folder / "c.pcap")
    (folder / "c.yaml").write_text(MANIFEST)
    run([*FLOWLOOM, "build", folder / "c.yaml", folder / "dataset"], core=None)
    return Dataset.open(folder / "dataset")


def write_records(feed: Feed, path: Path) -> None:
    """Writes the flows of a feed as TFRecords of tf.Example, a list of integers per channel."""
    columns = {channel: CHANNELS[channel].column for channel in SELECTED}
    labels = [label_column(task.name) for task in feed.dataset.tasks]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for group in feed.dataset.row_groups(feed.split):
            rows = RowGroups([*columns.values(), *labels], 0).read([group])
            lists = {channel: rows[column].to_pylist() for channel, column in columns.items()}
            codes = {column: [[code] for code in rows[column].fill_null(-1).to_pylist()] for column in labels}
            for n in range(rows.num_rows):
                features = {
                    name: tf.train.Feature(int64_list=tf.train.Int64List(value=values[n]))
                    for name, values in {**lists, **codes}.items()
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def records(feed: Feed, path: Path) -> tf.data.Dataset:
    """Returns batches out of TFRecords: parsed a batch at a time, scaled before they are padded."""
    moments = feed.features.moments  # type: ignore[attr-defined]
    tasks = [task.name for task in feed.dataset.tasks]
    wanted = {channel: tf.io.RaggedFeature(tf.int64) for channel in SELECTED}
    wanted |= {label_column(task): tf.io.FixedLenFeature((), tf.int64) for task in tasks}

    def parse(serialised: tf.Tensor) -> tuple:
        parsed = tf.io.parse_example(serialised, wanted)
        channels = []
        for channel in SELECTED:
            values = tf.cast(parsed[channel].flat_values, tf.float32)
            if channel in moments:
                mean, deviation = moments[channel]
                values = (tf.math.log1p(values) - mean) / deviation
            channels.append(parsed[channel].with_flat_values(values).to_tensor(shape=(None, K)))
        codes = {task: tf.cast(parsed[label_column(task)], tf.int32) for task in tasks}
        weights = {task: tf.cast(code >= 0, tf.float32) for task, code in codes.items()}
        length = tf.cast(parsed["size"].row_lengths(), tf.int32)
        known = {task: tf.maximum(code, 0) for task, code in codes.items()}
        return {"sequence": tf.stack(channels, axis=2), "length": length}, known, weights

    return (tf.data.TFRecordDataset(str(path)).batch(BATCH).map(parse, num_parallel_calls=tf.data.AUTOTUNE)).prefetch(
        tf.data.AUTOTUNE
    )


def chunks(feed: Feed) -> tf.data.Dataset:
    """Returns batches out of a generator of rendered row groups."""

    def rendered() -> Iterator[tuple[np.ndarray, ...]]:
        for number in range(len(feed.windows(0))):
            yield feed.tensors(0, number)

    inputs, labels, _ = feed.signature
    signature = (*inputs.values(), tf.TensorSpec((None, len(labels)), tf.int32))
    return tf.data.Dataset.from_generator(rendered, output_signature=signature).rebatch(BATCH).prefetch(2)


def measured(epochs: dict[str, Callable[[], object]], rows: int) -> dict[str, tuple[float, float]]:
    """Runs epochs in turn after a warm-up, and returns median rows per CPU second and per second of each."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in epochs}
    for _ in range(ROUNDS + 1):
        for name, epoch in epochs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            epoch()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: (
            rows / statistics.median(cpu for cpu, _ in times[1:]),
            rows / statistics.median(wall for _, wall in times[1:]),
        )
        for name, times in taken.items()
    }


def main() -> None:
    """Prints thousand examples per CPU second and per second of each, and the ratios of the feed to the others."""
    with workplace() as folder:
        dataset = built(folder)
        features = FeatureSpec.of(dataset.card, K, SELECTED, "standard")
        feed = Feed(dataset, "train", features, BATCH, seed=7)
        forgetful = Feed(dataset, "train", features, BATCH, seed=7, memory_bytes=0)
        units = FeatureSpec.of(dataset.card, K, SELECTED, "none")
        augmented = Feed(dataset, "train", units, BATCH, seed=7, augment=AUGMENT)
        one_group = Feed(dataset, "train", features, BATCH, window_rows=1, memory_bytes=0)
        rows = dataset.card.splits["train"].rows
        write_records(feed, folder / "flows.tfrecord")
        columns = [*features.columns, *(label_column(task.name) for task in dataset.tasks)]
        groups = dataset.row_groups("train")
        rendered = feed.tensors(0, 0)[0]
        starts = [start % (len(rendered) - BATCH) for start in range(0, rows, BATCH)]
        streams = {
            "feed": feed.batches(epochs=1),
            "feed_augmented": augmented.batches(epochs=1),
            "feed_first_epoch": forgetful.batches(epochs=1),
            "cache": feed.batches(epochs=1).cache(),
            "tfrecord": records(feed, folder / "flows.tfrecord"),
            "generator_of_chunks": chunks(one_group),
        }
        rates = measured(
            {
                "memory_slices": lambda: [rendered[start : start + BATCH].copy() for start in starts],
                "decode": lambda: [_decode(group.path, group.index, columns) for group in groups],
                "gather": lambda: [feed.tensors(1, number) for number in range(len(feed.windows(1)))],
                "gather_augmented": lambda: [
                    augmented.tensors(1, number) for number in range(len(augmented.windows(1)))
                ],
                **{name: lambda stream=stream: [None for _ in stream] for name, stream in streams.items()},
            },
            rows,
        )
    report(
        "feed",
        dataset="synthetic",
        rows=rows,
        mean_packets=dataset.card.normalisation["pkt_size"].count / rows,
        ratio_to_tfrecord=rates["feed"][0] / rates["tfrecord"][0],
        ratio_to_tfrecord_first_epoch=rates["feed_first_epoch"][0] / rates["tfrecord"][0],
        ratio_augmented_to_plain=rates["feed_augmented"][0] / rates["feed"][0],
        ratio_to_cache=rates["feed"][0] / rates["cache"][0],
        ratio_to_cache_first_epoch=rates["feed_first_epoch"][0] / rates["cache"][0],
        **{f"{name}_k_per_cpu_s": cpu / 1e3 for name, (cpu, _) in rates.items()},
        **{f"{name}_k_per_s": wall / 1e3 for name, (_, wall) in rates.items()},
    )


def _decode(path: str, index: int, columns: list[str]) -> None:
    with pq.ParquetFile(path, pre_buffer=True) as file:
        file.read_row_group(index, columns=columns)


if __name__ == "__main__":
    main()
