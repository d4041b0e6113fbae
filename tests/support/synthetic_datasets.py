"""Small dataset directories made by the contract alone, so that the trainers are tested without the Beam half."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flowloom.schemas.arrow.rows import FLOW_COLUMNS, FLOWS, SEQUENCES, label_column, labelled
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import Accounting, ChannelStatistics, Shard, SplitCounts, SplitRule
from flowloom.schemas.dataset.dataset_card import CARD, DatasetCard, shard_path

TASKS = (
    Task(name="app", kind="multiclass", vocabulary=("chat", "voip", "web")),
    Task(name="attack", kind="binary"),
    Task(name="bulk", kind="binary", vocabulary=("small", "large")),
)


def _automatic(name: str, *at: float) -> Task:
    return Task(name=name, kind="auto", quantity=name, dividers={"method": "given", "at": at})


AUTO_TASKS = (TASKS[0], _automatic("bandwidth", 1e4, 1e6), _automatic("duration", 10.0))


def flows(rows: int, k: int, seed: int, tasks: tuple[Task, ...] = TASKS) -> tuple[pa.RecordBatch, np.ndarray]:
    """Returns flows whose packets depend on three hidden labels, and those labels, int32 [rows, 3]."""
    generator = np.random.default_rng(seed)
    labels = np.stack([generator.integers(0, len(task.vocabulary), rows) for task in tasks], axis=1).astype(np.int32)
    app, attack, bulk = labels.T
    lengths = generator.integers(1, k + 1, rows)
    total = int(lengths.sum())
    per_packet = np.repeat(np.arange(rows), lengths)
    values = {
        "pkt_size": 60 + 300 * app[per_packet] + 700 * bulk[per_packet] + generator.integers(0, 200, total),
        "pkt_dir": generator.choice([-1, 1], total),
        "pkt_gap_ns": generator.exponential(1e6, total) * np.array([1.0, 0.05, 400.0])[attack[per_packet]],
        "pkt_tcp_flags": generator.integers(0, 256, total),
        "pkt_tcp_window": generator.integers(0, 65_536, total),
        "pkt_ttl": generator.choice([57, 64, 128], total),
        "pkt_payload": generator.integers(0, 1461, total),
    }
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    sequences = {
        name: pa.ListArray.from_arrays(
            offsets, pa.array(values[name].astype(item.to_pandas_dtype())), type=FLOWS.field(name).type
        )
        for name, item in SEQUENCES.items()
    }
    scalars = {
        "flow_id": [hashlib.sha256(f"{seed}/{row}".encode()).digest()[:16] for row in range(rows)],
        "group": [f"capture-{row % 5}" for row in range(rows)],
        "protocol": generator.choice([6, 17, 1, 58, 132], rows).astype(np.uint8),
    }
    arrays = []
    for field in FLOWS:
        if field.name in sequences:
            arrays.append(sequences[field.name])
        elif field.name in scalars:
            arrays.append(pa.array(scalars[field.name], field.type))
        elif pa.types.is_fixed_size_binary(field.type):
            arrays.append(pa.array([bytes(16)] * rows, field.type))
        else:
            arrays.append(pa.array(np.zeros(rows, np.int64)).cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=FLOWS), labels


def statistics(batches: list[pa.RecordBatch]) -> dict[str, ChannelStatistics]:
    """Returns the moments of every sequence column over all packets."""
    found = {}
    for name in SEQUENCES:
        values = np.concatenate([batch[name].flatten().to_numpy() for batch in batches]).astype(float)
        logs = np.log1p(np.maximum(values, 0))
        found[name] = ChannelStatistics(
            count=len(values), mean=values.mean(), std=values.std(), log1p_mean=logs.mean(), log1p_std=logs.std(),
            minimum=values.min(), maximum=values.max(),
        )  # fmt: skip
    return found


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """A dataset directory to be written, and how many rows its splits have."""

    layout: str = "aurora"
    rows: tuple[int, int, int] = (600, 160, 200)
    k: int = 12
    shards: int = 2
    row_group_rows: int = 64
    unknown: float = 0.2
    """Share of the labels that are null (Aurora)."""
    seed: int = 1
    automatic: bool = False
    """Whether the tasks are `AUTO_TASKS`: one multiclass and two automatic ones."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the card."""
        return AUTO_TASKS if self.automatic else TASKS

    def write(self, root: Path) -> Path:
        """Writes shards and card, as `flowloom build` would."""
        shards, splits, train = [], {}, []
        for number, split in enumerate(SPLITS):
            batch, labels = flows(self.rows[number], self.k, 100 * self.seed + number, self.tasks)
            train += [batch] if split == "train" else []
            hidden = np.random.default_rng(number).random(labels.shape) < self.unknown
            if self.layout == "rainbow":  # the stripes have unequal lengths: 3/6, 2/6 and 1/6 of the rows
                stripe = np.searchsorted([3, 5], np.arange(len(labels)) % 6, side="right")
                hidden = stripe[:, None] != np.arange(len(self.tasks))
            known = np.where(hidden, -1, labels)
            stripes = {None: self.tasks} if self.layout == "aurora" else {task.name: (task,) for task in self.tasks}
            for task, carried in stripes.items():
                rows = np.arange(len(labels)) if task is None else np.flatnonzero(known[:, self._column(task)] >= 0)
                table = pa.Table.from_batches([batch]).take(pa.array(rows))
                for each in carried:
                    column = known[rows, self._column(each.name)]
                    table = table.append_column(
                        pa.field(label_column(each.name), pa.int32()), pa.array(column, pa.int32(), mask=column < 0)
                    )
                assert table.schema == labelled(FLOWS, [each.name for each in carried])
                shards += self._write_shards(root, table, task, split)
            splits[split] = SplitCounts(
                rows=sum(shard.rows for shard in shards if shard.split == split),
                classes={
                    task.name: {
                        word: int((known[:, column] == index).sum()) for index, word in enumerate(task.vocabulary)
                    }
                    for column, task in enumerate(self.tasks)
                },
                unknown={task.name: int((known[:, column] < 0).sum()) for column, task in enumerate(self.tasks)},
            )
        metered = sum(self.rows)
        card = DatasetCard(
            tool_version="0", flow_columns=FLOW_COLUMNS, name=f"synthetic {self.layout}", corpus_digest="0" * 64,
            content_hash=hashlib.sha256(repr(self).encode()).hexdigest(), definition=FlowDefinition(k=self.k),
            views=("flows",), tasks=self.tasks, layout=self.layout, missing="unknown", identity="keep",
            split_rule=SplitRule(by="flow", reason="synthetic", seed=self.seed, shares=(0.64, 0.16, 0.2)),
            splits=splits, coverage=(),
            accounting=Accounting(
                captures=1, records=metered + 12, metered=metered, dropped={"not-ip": 12}, rejects=0, flows=metered,
                flows_short=0, flows_unlabelled=0,
            ),
            normalisation=statistics(train), shards=tuple(shards),
        )  # fmt: skip
        (root / CARD).write_text(card.model_dump_json())
        return root

    def _write_shards(self, root: Path, table: pa.Table, task: str | None, split: str) -> list[Shard]:
        written = []
        for shard in range(self.shards):
            part = table.take(pa.array(np.arange(shard, table.num_rows, self.shards)))
            path = shard_path("flows", task, split, shard, self.shards)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(part, root / path, compression="zstd", row_group_size=self.row_group_rows)
            footer = pq.read_metadata(root / path)
            groups = tuple(footer.row_group(index).num_rows for index in range(footer.num_row_groups))
            digest = hashlib.sha256((root / path).read_bytes()).hexdigest()
            written.append(
                Shard(
                    path=path,
                    view="flows",
                    split=split,
                    task=task,
                    rows=part.num_rows,
                    row_groups=groups,
                    sha256=digest,
                )
            )
        return written

    def _column(self, task: str) -> int:
        return [each.name for each in self.tasks].index(task)
