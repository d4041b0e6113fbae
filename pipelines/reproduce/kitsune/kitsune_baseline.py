"""Kitsune on a dataset of packet decisions, with the same packets, labels and splits as the models."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import PACKETS, label_column
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.dataset.dataset_card import DatasetCard, read_card
from flowloom.schemas.dataset.stored_files import shard_file
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.parquet_files import read_table
from flowloom.transforms.arrays.columns import column, view, view_or
from flowloom.transforms.packets.afterimage import AfterImage

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.kitsune.kitnet import KitNET

_CHUNK = 1 << 14
"""Packets whose features are in memory at once: 15 MB."""
_TIMED, _WARM_UP = 300, 30
_BENIGN, _ATTACK = 0, 1


@dataclasses.dataclass(frozen=True)
class KitsuneOptions:
    """Data, learning and size of Kitsune.

    Attributes:
      dataset: a dataset built with `decision: packet`, with addresses and with sizes as sent.
      task: the binary task of the attacks; its labels only mark the end of the benign prefix, and train nothing.
      split: the split whose packets are scored.
      map_rows: number of packets on which groups of features are found.
      train_rows: largest number of packets that train the autoencoders; None: the whole benign prefix.
      cluster, hidden_ratio: size of the autoencoders, as in `KitNETOptions`.
      benign: the packets to learn from. `prefix`: packets before the first attack in any split, as in the paper.
        `labelled`: all packets labelled benign, for data with attacks from the start.
    """

    dataset: Path
    task: str
    split: str = "test"
    map_rows: int = 5_000
    train_rows: int | None = 50_000
    cluster: int = 10
    hidden_ratio: float = 0.75
    benign: Literal["prefix", "labelled"] = "prefix"

    def __post_init__(self) -> None:
        if self.map_rows < 2:
            raise FlowloomError(f"map_rows must be at least 2, got {self.map_rows}")
        if self.train_rows is not None and self.train_rows < 1:
            raise FlowloomError(f"train_rows must be at least 1, got {self.train_rows}")
        if self.benign not in get_args(Literal["prefix", "labelled"]):
            raise FlowloomError(f"benign must be prefix or labelled, got {self.benign!r}")


@dataclasses.dataclass(frozen=True)
class KitsuneFindings:
    """Detection of the attacks of one task by Kitsune, and its costs.

    Attributes:
      scores, labels: float64 and int8 [N] of the labelled packets of the split, by capture group and time.
      figures: JSON-ready: `auc` with its 95 % `interval`; `packets` and `attacks` scored; `mapped` and `trained`
        packets; `parameters` and `macs` of KitNET; median microseconds for the features (`features_us`) and the score
        (`inference_us`) of one packet in one thread, and their processor time (`..._cpu_us`).
    """

    scores: np.ndarray
    labels: np.ndarray
    figures: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Packets:
    """Packets by group and time: input of AfterImage, int8 labels (-1 unknown), splits, and starts of groups."""

    rows: pa.RecordBatch
    labels: np.ndarray
    splits: np.ndarray
    starts: list[int]

    def features(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the features of all packets in pieces, each with the position of its first packet."""
        for begin, end in zip(self.starts, [*self.starts[1:], len(self.labels)], strict=True):
            afterimage = AfterImage()
            for at in range(begin, end, _CHUNK):
                yield at, afterimage.update(self.rows.slice(at, min(_CHUNK, end - at)))


def kitsune_baseline(options: KitsuneOptions) -> KitsuneFindings:
    """Trains KitNET on the benign prefix of the train split, and scores the packets of another split.

    By default, the prefix consists of the train packets before the first attack in any split, group by group in the
    order of their first packets. Packets with equal times are in the order of their ids.

    Raises:
      FlowloomError: if the dataset lacks fields that AfterImage needs, or its benign prefix is too short.
    """
    from flowloom.trainers.evaluation.metrics import auc, bootstrap_interval
    from flowloom.trainers.evaluation.predictions import Predictions

    card = read_card(options.dataset)
    _check(card, options)
    packets = _read(card, options)
    attacks = np.flatnonzero(packets.labels == _ATTACK)
    if options.benign == "labelled":
        benign = packets.labels == _BENIGN
    else:
        benign = np.arange(len(packets.labels)) < (attacks[0] if len(attacks) else len(packets.labels))
    learned = np.flatnonzero(benign & (packets.splits == SPLITS.index("train")))
    if options.train_rows is not None:
        learned = learned[: options.map_rows + options.train_rows]
    if len(learned) <= options.map_rows:
        raise FlowloomError(
            f"{options.dataset}: the train split must have more than map_rows={options.map_rows} packets before the "
            f"first attack of task {options.task!r}, got {len(learned)}; lower map_rows, build with splits by time, or "
            "learn from all packets that are labelled benign"
        )
    scored = (packets.splits == SPLITS.index(options.split)) & (packets.labels >= 0)
    kitnet = _learned(packets, learned, options)
    scores = _scored(packets, scored, kitnet)
    labels = packets.labels[scored]
    predictions = Predictions(labels.astype(np.int32), np.stack([-scores, scores], axis=1))
    figures = {
        "auc": auc(predictions),
        "interval": bootstrap_interval(predictions, kitnet.options.seed),
        "packets": len(scores),
        "attacks": int(np.count_nonzero(labels == _ATTACK)),
        "mapped": options.map_rows,
        "trained": kitnet.trained,
        "parameters": kitnet.parameters,
        "macs": kitnet.macs,
        **_timed(packets, kitnet),
    }
    return KitsuneFindings(scores, labels, figures)


def _check(card: DatasetCard, options: KitsuneOptions) -> None:
    """Raises an error if a dataset lacks fields that Kitsune needs."""
    names = {task.name: task for task in card.tasks}
    if options.task not in names:
        raise FlowloomError(
            f"{options.dataset}: task must be one of {', '.join(names)}, got {options.task!r}"
            f"{did_you_mean(options.task, names)}"
        )
    if options.split not in card.splits:
        raise FlowloomError(f"split must be one of {', '.join(card.splits)}, got {options.split!r}")
    wanted = {"decision": (card.definition.decision, "packet"), "size": (card.definition.size, "wire")}
    for name, (got, needed) in wanted.items():
        if got != needed:
            raise FlowloomError(
                f"{options.dataset}: {name} must be {needed} for Kitsune, which scores packets by sizes as sent, got "
                f"{got}; build it with definition: {{preset: packet-windows}}"
            )
    if card.identity == "drop":
        raise FlowloomError(
            f"{options.dataset}: identity must be keep or pseudonym for Kitsune, which finds streams by addresses, "
            "got drop; build the dataset with identity: keep or pseudonym"
        )
    if names[options.task].kind != "binary":
        raise FlowloomError(
            f"task {options.task!r} must be binary for Kitsune, got {names[options.task].kind}; name another task"
        )


def _read(card: DatasetCard, options: KitsuneOptions) -> _Packets:
    """Reads the packets of all groups with labels of the task."""
    label = label_column(options.task)
    names = ["flow_id", "group", "start", "src_ip", "dst_ip", "src_port", "dst_port", "protocol", "packets_fwd",
             "bytes_fwd", "bytes_bwd", label]  # fmt: skip
    shards = [shard for shard in card.shards if shard.view == "flows" and shard.task in (None, options.task)]
    tables = [read_table(shard_file(options.dataset, shard), names) for shard in shards]
    splits = np.repeat([SPLITS.index(shard.split) for shard in shards], [table.num_rows for table in tables])
    rows = pa.concat_tables(tables).combine_chunks().to_batches()[0]
    encoded = rows["group"].dictionary_encode()
    group = view(encoded.indices)
    labels = view_or(rows[label], -1).astype(np.int8)
    start = view(rows["start"])
    first = np.full(len(encoded.dictionary), np.iinfo(np.int64).max)
    np.minimum.at(first, group, start)
    labelled = np.zeros(len(first), bool)
    labelled[group[labels >= 0]] = True
    ids = view(rows["flow_id"])
    order = np.lexsort((ids[:, 1], ids[:, 0], start, group, first[group]))
    order = order[labelled[group[order]]]
    rows = rows.take(column(order, pa.int64()))
    group = group[order]
    return _Packets(_as_sent(rows), labels[order], splits[order], np.flatnonzero(np.diff(group, prepend=-1)).tolist())


def _as_sent(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Returns rows of packets with the columns of AfterImage, source and destination as sent."""
    forward = view(rows["packets_fwd"]) == 1
    values = {"time_ns": view(rows["start"]), "protocol": view(rows["protocol"])}
    values["wire_bytes"] = (view(rows["bytes_fwd"]) + view(rows["bytes_bwd"])).astype(np.uint32)
    for end in ("ip", "port"):
        source, target = view(rows[f"src_{end}"]), view(rows[f"dst_{end}"])
        chosen = forward[:, None] if end == "ip" else forward
        values[f"src_{end}"] = np.where(chosen, source, target)
        values[f"dst_{end}"] = np.where(chosen, target, source)
    schema = pa.schema([field for field in PACKETS if field.name in values])
    return pa.RecordBatch.from_arrays([column(values[field.name], field.type) for field in schema], schema=schema)


def _learned(packets: _Packets, learned: np.ndarray, options: KitsuneOptions) -> "KitNET":
    """Returns a KitNET trained on the packets at ascending positions; the first ones determine its groups."""
    from flowloom.pipelines.reproduce.kitsune.kitnet import KitNET, KitNETOptions, feature_map

    mapping: list[np.ndarray] = []
    kitnet: KitNET | None = None
    for begin, features in packets.features():
        rows = features[learned[(learned >= begin) & (learned < begin + len(features))] - begin]
        if kitnet is None:
            mapping.append(rows)
            if sum(map(len, mapping)) < options.map_rows:
                continue
            found = np.concatenate(mapping)
            sizes = KitNETOptions(cluster=options.cluster, hidden_ratio=options.hidden_ratio)
            kitnet = KitNET(feature_map(found[: options.map_rows], options.cluster), sizes)
            rows = found[options.map_rows :]
        kitnet.train(rows)
        if begin + len(features) > learned[-1]:
            break
    assert kitnet is not None  # there are more than map_rows positions
    return kitnet


def _scored(packets: _Packets, scored: np.ndarray, kitnet: "KitNET") -> np.ndarray:
    """Returns the scores of the packets of a mask, float64 [N]."""
    parts = [kitnet.score(features[scored[at : at + len(features)]]) for at, features in packets.features()]
    return np.concatenate(parts)


def _timed(packets: _Packets, kitnet: "KitNET") -> dict[str, float]:
    """Returns the median times of single packets, alternating, with the streams of a full piece of packets known."""
    from flowloom.trainers.evaluation.cost import time_interleaved

    afterimage = AfterImage()
    features = afterimage.update(packets.rows.slice(0, _CHUNK))[-1:]
    packet = packets.rows.slice(min(_CHUNK, packets.rows.num_rows) - 1, 1)
    calls = [lambda: afterimage.update(packet), lambda: kitnet.score(features)]
    time_interleaved(calls, _WARM_UP)
    taken = np.median(time_interleaved(calls, _TIMED), axis=1) / 1e3
    return {
        f"{what}_{unit}": round(float(taken[row, at]), 1)
        for row, what in enumerate(("features", "inference"))
        for at, unit in enumerate(("us", "cpu_us"))
    }
