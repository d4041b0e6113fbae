"""Every page of Flowloom from made-up results: long names, many classes, a dataset of 100 million flows."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS
from flowloom.schemas.arrow.rows import FLOW_COLUMNS, FLOWS, SEQUENCES, label_column
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import (
    Accounting,
    ChannelStatistics,
    LabelCoverage,
    Leakage,
    Overlap,
    Shard,
    SplitCounts,
    SplitRule,
    Timeline,
)
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.dataset.dataset_statistics import (
    ClassProfile,
    ColumnStatistics,
    Contingency,
    DatasetStatistics,
    TopValue,
    ValueStatistics,
)
from flowloom.schemas.models.score_card import (
    PROBABILITY_BINS,
    ClassProbability,
    FeatureSkew,
    ModelSkew,
    ScoreCard,
    ScoredModel,
    ScoreShard,
)

FLOWS_OF_ALL = 100_000_000
SPLITS = {"train": 0.64, "validation": 0.16, "test": 0.2}
LONG = "a-class-with-a-name-that-is-much-longer-than-any-column-of-a-table-should-be"
K = 60
CHANNEL = ChannelStatistics(count=9, mean=5e8, std=1e9, log1p_mean=11.2, log1p_std=4.1, minimum=0, maximum=3.6e12)


def tasks(classes: int = 12) -> tuple[Task, ...]:
    """Returns a task of many classes, one with a long name, and a binary one."""
    names = (LONG, *(f"application {number}" for number in range(1, classes)))
    categories = tuple(f"category {number}" for number in range(max(3, classes // 4)))
    return (
        Task(name="application", kind="multiclass", vocabulary=names),
        Task(name="category", kind="multiclass", vocabulary=categories),
        Task(name="attack", kind="binary"),
    )  # fmt: skip


def _overlap(share: float) -> Overlap:
    flows = {split: int(part * FLOWS_OF_ALL) for split, part in SPLITS.items()}
    again = {split: int(share * flows[split]) for split in ("validation", "test")}
    return Overlap(distinct=flows, distinct_in_train=again, flows=flows, flows_repeated=flows, flows_in_train=again)


def dataset_card(classes: int = 12, sources: int = 20, groups: int = 20, leakage: bool = True) -> DatasetCard:
    """Returns the card of a dataset of 100 million flows."""
    given = tasks(classes)
    splits = {}
    for split, share in SPLITS.items():
        rows = int(share * FLOWS_OF_ALL)
        counts = {task.name: {name: rows // (at + 2) ** 2 for at, name in enumerate(task.vocabulary)} for task in given}
        unknown = {name: rows - sum(by_class.values()) for name, by_class in counts.items()}
        splits[split] = SplitCounts(rows=rows, classes=counts, unknown=unknown)
    measured = Leakage(
        sequences=_overlap(0.123), timed_sequences=_overlap(0.0004), conflicts={task.name: 12_345 for task in given},
        host_pairs=_overlap(0.58), hosts=_overlap(0.97),
    )  # fmt: skip
    return DatasetCard(
        tool_version="0.2", name="a corpus of captures from several gateways, one year", content_hash="5a" * 32,
        flow_columns=FLOW_COLUMNS,
        corpus_digest="c" * 64, definition=FlowDefinition(k=K), views=("flows",), tasks=given, layout="aurora",
        missing="unknown", identity="keep", splits=splits, normalisation=dict.fromkeys(SEQUENCES, CHANNEL),
        split_rule=SplitRule(by="host_pair", reason="made up", seed=7, shares=(0.64, 0.16, 0.2)),
        coverage=tuple(
            LabelCoverage(task=task.name, source=f"/captures/of/a/gateway/{LONG}/day-{at:05d}.csv", kind="table",
                          flows=5_000, labelled=4_000, conflicts=at % 7)
            for at in range(sources) for task in given[:2]
        ),
        timelines=tuple(
            Timeline(group=f"{at:016x}", captures=3, seconds=86_400.0 + at, gaps=at % 3, largest_gap_s=61.5,
                     overlaps=at % 2, largest_overlap_s=0.0004)
            for at in range(groups)
        ),
        accounting=Accounting(captures=3 * groups, records=10**10, metered=10**10 - 12, dropped={"not-ip": 12},
                              rejects=120, flows=FLOWS_OF_ALL, flows_short=0, flows_unlabelled=1_000),
        leakage=measured if leakage else None,
        shards=(Shard(path="flows/split=test/part-00000-of-00001.parquet", view="flows", split="test", task=None,
                      rows=20_000_000, row_groups=(20_000_000,), sha256="0" * 64),),
    )  # fmt: skip


def _values(scale: float) -> ValueStatistics:
    levels = tuple(scale * at for at in (0.0, 0.01, 0.1, 0.3, 1.0, 20.0, 400.0))
    return ValueStatistics(mean=scale, std=scale, minimum=0, maximum=int(1_000 * scale), quantiles=levels)


def dataset_statistics(card: DatasetCard) -> DatasetStatistics:
    """Returns the statistics of a dataset: sketches, whose size does not depend on the rows."""
    top = tuple(TopValue(value=f"{at}" * 12, at_least=10**7 // (at + 1), at_most=10**7) for at in range(10))
    columns = {}
    for field in FLOWS:
        scale = 1e9 if field.name.endswith("_ns") else 700.0
        listed = field.name in SEQUENCES
        columns[field.name] = ColumnStatistics(
            count=FLOWS_OF_ALL, nulls=0, distinct=10**6, top=top,
            numbers=None if field.name in ("flow_id", "group", "src_ip", "dst_ip") else _values(scale),
            lengths=_values(K) if listed else None,
        )  # fmt: skip
    falling = tuple(int(10**6 / (at + 1)) for at in range(K))
    profiles = [
        ClassProfile(
            task=task.name, word=name, flows=falling, lower=(-1400.0,) * K, median=(300.0, -900.0) * (K // 2),
            upper=(1500.0,) * K,
        )
        for task in card.tasks for name in task.vocabulary
    ]  # fmt: skip
    one, other, *_ = card.tasks
    shape = (len(one.vocabulary) + 1, len(other.vocabulary) + 1)
    counts = np.arange(shape[0] * shape[1]).reshape(shape) ** 2
    return DatasetStatistics(
        content_hash=card.content_hash, quantile_error=0.001, distinct_exact=100_000,
        rows={split: counts.rows for split, counts in card.splits.items()},
        classes={split: counts.classes for split, counts in card.splits.items()},
        unknown={split: counts.unknown for split, counts in card.splits.items()},
        columns=dict.fromkeys(card.splits, columns), profiles=tuple(profiles),
        contingencies=(Contingency(tasks=(one.name, other.name), counts=tuple(map(tuple, counts.tolist()))),),
    )  # fmt: skip


def captures_table(groups: int) -> pa.Table:
    """Returns a captures table of three captures in each group, with gaps between them."""
    rows = []
    for at in range(3 * groups):
        first = 1_700_000_000 * 10**9 + at * 100 * 10**9
        row = {field.name: [1] if pa.types.is_list(field.type) else 7 for field in CAPTURES}
        row |= {field.name: "" for field in CAPTURES if pa.types.is_string(field.type)}
        rows.append(
            row
            | {"group": f"{at // 3:016x}", "uri": f"/captures/{LONG}/{at:06d}.pcap.gz", "records": 1_234_567}
            | {"first_ns": first, "last_ns": first + 90 * 10**9}
        )
    return pa.Table.from_pylist(rows, CAPTURES)


def rejects_table(rows: int) -> pa.Table:
    """Returns a rejects table."""
    row = {field.name: 12_345 for field in REJECTS if not pa.types.is_string(field.type)}
    row |= {"uri": f"/captures/{LONG}.pcap", "reason": "truncated", "detail": f"a record of {LONG} ends early"}
    row |= {field.name: "x" for field in REJECTS if field.name not in row}
    return pa.Table.from_pylist([row] * rows, REJECTS)


def dataset_page(classes: int = 12, sources: int = 20, groups: int = 20) -> str:
    """Returns the page of `describe --statistics`."""
    from flowloom.pipelines.describe.dataset_page import render

    card = dataset_card(classes, sources, groups)
    return render(card, dataset_statistics(card), captures_table(groups), rejects_table(80))


def _skew() -> ModelSkew:
    features = tuple(
        FeatureSkew(name=name, jensen_shannon=0.5 / (at + 1), l_infinity=0.31, largest_bin="16777216 to 33554431",
                    noise=0.01, unseen=12, values=10_000, skewed=at < 3)
        for at, name in enumerate(SEQUENCES)
    )  # fmt: skip
    classes = tuple(
        FeatureSkew(name=task.name, jensen_shannon=0.04, l_infinity=0.1, largest_bin=task.vocabulary[0], noise=0.01,
                    unseen=0, values=10_000, skewed=False)
        for task in tasks()
    )  # fmt: skip
    return ModelSkew(threshold=0.12, rows=FLOWS_OF_ALL, trained_rows=64_000_000, features=features, classes=classes)


def score_card(classes: int = 12) -> ScoreCard:
    """Returns the card of the scores of 100 million flows."""
    given = tasks(classes)
    bins = tuple(at * at for at in range(PROBABILITY_BINS))
    return ScoreCard(
        tool_version="0.2",
        model=ScoredModel(path=f"/models/{LONG}", kind="run", recipe="multa", dataset="d" * 64,
                          definition=FlowDefinition(k=K), tasks={task.name: task.vocabulary for task in given},
                          view="flows", engine="lanes"),
        inputs=tuple(f"/captures/{LONG}/{at}.pcap" for at in range(40)), identity="keep", rows=FLOWS_OF_ALL,
        scored=FLOWS_OF_ALL - 70_000, rejected={"malformed": 60_000, "repeated": 10_000},
        classes={task.name: {name: 10**7 // (at + 1) for at, name in enumerate(task.vocabulary)} for task in given},
        probabilities={
            task.name: dict.fromkeys(task.vocabulary, ClassProbability(mean=0.1, predicted=0.87, bins=bins))
            for task in given
        },
        captures=Accounting(captures=60_000, records=10**10, metered=10**10 - 12, dropped={"not-ip": 12}, rejects=120,
                            flows=FLOWS_OF_ALL, flows_short=0, flows_unlabelled=0),
        skew=_skew(), shards=(ScoreShard(path="scores/part-00000-of-00001.parquet", rows=1, sha256="0" * 64),),
    )  # fmt: skip


def score_page(classes: int = 12, groups: int = 20) -> str:
    """Returns the page of `score`."""
    from flowloom.pipelines.describe.score_page import render_scores

    return render_scores(score_card(classes), captures_table(groups), rejects_table(80))


def flow_page(packets: int = 70) -> str:
    """Returns the page of `show` of a long flow."""
    from flowloom.pipelines.describe.find_flow import StoredFlow
    from flowloom.pipelines.describe.flow_page import render_flow

    draws = np.random.default_rng(1)
    row = {
        "flow_id": bytes(16), "group": "0" * 16, "start": 1_700_000_000 * 10**9, "duration_ns": 93 * 10**9,
        "protocol": 6, "src_ip": bytes(10) + b"\xff\xff\x0a\x00\x00\x01",
        "dst_ip": bytes.fromhex("20010db8" + "ab" * 12), "src_port": 50_000, "dst_port": 443, "vlan": 7,
        "tunnel_id": 0, "packets_fwd": 300, "packets_bwd": 411, "bytes_fwd": 12_345, "bytes_bwd": 1_234_567,
        "end_reason": 3, "pkt_size": draws.integers(40, 1500, packets).tolist(),
        "pkt_dir": draws.choice([-1, 1], packets).tolist(),
        "pkt_gap_ns": draws.exponential(1e9, packets).astype(int).tolist(),
        "pkt_tcp_flags": draws.choice([0x18, 0x10, 0x12, 0x11, 0xFF], packets).tolist(),
        "pkt_tcp_window": [65_535] * packets, "pkt_ttl": [64] * packets, "pkt_payload": [1_400] * packets,
        label_column("application"): 0,
    }  # fmt: skip
    labels = {"application": LONG, "category": None, "attack": "negative"}
    flow = StoredFlow("0f" * 16, "test", row, labels, ("flows/split=test/part-00000-of-00001.parquet",))
    return render_flow(dataset_card(), flow, captures_table(1).to_pylist())


def tuning_page(tasks_of: int = 10) -> str:
    """Returns the page of `tune`."""
    from flowloom.trainers.tuning.tune import render

    names = [f"task {at}" for at in range(tasks_of)]
    trials = [
        {"tasks": [name], "experts": 1, "units": units, "seed": 7, "epochs": 20, "parameters": 1_000 * units,
         "auc": {name: 0.8 + units / 200 + at / 100}}
        for at, name in enumerate(names) for units in (8, 12, 16)
    ]  # fmt: skip
    model = {"model": "lmmoe", "experts": 2, "units": 12, "seed": 7, "worst_auc": 0.91, "mean_auc": 0.93,
             "parameters": 24_000, "macs": 1_000_000, "frontier": True}  # fmt: skip
    single = {"units": 12, "auc": 0.92, "parameters": 12_000, "macs": 500_000, "met": True}
    found = {
        "split": "validation", "target_auc": 0.92, "max_drop": 0.01, "singles": dict.fromkeys(names, single),
        "auc": dict.fromkeys(names, 0.915), "trials": trials, "trainings": 31, "saved": 12, "met": True, "experts": 2,
        "units": 12, "parameters": 24_000, "macs": 1_000_000,
        "models": [model, {**model, "model": "single LSTMs", "frontier": False, "parameters": 99_000}],
    }  # fmt: skip
    return render(found, dataset_card().name, "multa-mean")


def retrain_page(folder: Path) -> str:
    """Returns the page of `retrain`, which is written into a folder."""
    from flowloom.pipelines.retrain.retrain_page import write_report
    from flowloom.schemas.models.retrain_state import Figures, PromotionRule, Verdict, Version

    rows = {task.name: Figures(rows=12_345, champion=0.91, challenger=0.93, best=0.92) for task in tasks()}
    version = Version(
        number=12, finished="2024-05-06T07:08:09.123456+00:00", content_hash="5a" * 32, captures=60_000,
        new_captures=tuple(f"/captures/{LONG}/{at:05d}.pcap" for at in range(70)), gone_captures=3,
        rows={"train": 64_000_000, "validation": 16_000_000, "test": 20_000_000},
        new_rows={"train": 640_000, "validation": 160_000, "test": 200_000},
        tasks=tuple(rows), new_tasks=("attack",), frozen_tasks=("attack",), recipe="multa", start="warm",
        start_reason="the tasks are those of the champion", champion=11, frozen=rows, newest=rows, drift=_skew(),
        rule=PromotionRule(), verdict=Verdict(promoted=False, reasons=(f"task {LONG} lost 0.03 of ROC AUC",)),
    )  # fmt: skip
    return write_report(version, folder).read_text(encoding="utf-8")


def reproduction_page() -> str:
    """Returns the page of `reproduce`."""
    from flowloom.pipelines.reproduce.engine.claims import Claim
    from flowloom.pipelines.reproduce.engine.reproduction_page import Confusion, Reproduction, Section, Table
    from flowloom.trainers.evaluation import figures
    from flowloom.trainers.evaluation.intervals import Mean

    names = [f"class {at}" for at in range(12)]
    mean = Mean(91.2, 90.1, 92.3, 5, 0.9)
    lines = {f"method {at}": [mean] * 4 for at in range(10)}
    claim = Claim(
        "faster", "The shared model is faster than one model for each task", "2.1 times", "1.8", (1.2, 2.4), True
    )
    columns = {f"c{at}": f"column {at}" for at in range(14)}
    row = {"method": LONG, **dict.fromkeys(columns, mean)}
    table = Table("Accuracy", {"method": "Method", **columns}, [row] * 3, "Means of 5 runs.")
    confusion = Confusion("Errors", names, (np.eye(12, dtype=int) * 900 + 7).tolist())
    drawn = [figures.sweep("Accuracy by labels", "labels", [1, 10, 100, 1000], lines, logarithmic=True)]
    section = Section("Results", ("A sentence.",), {"accuracy": table}, drawn, [confusion])
    claims = [claim, dataclasses.replace(claim, id="unclear", holds=False)]
    return Reproduction(
        "A paper on traffic", ["Data are made up."], {}, claims, [section], "flowloom reproduce x"
    ).page()


def run_report(classes: int = 12, rows: int = 4_000) -> str:
    """Returns the report of a run with many classes."""
    from flowloom.trainers.evaluation.run_report import render

    return render(run_results(classes, rows))


def run_results(classes: int = 12, rows: int = 4_000):
    """Returns made-up results of an evaluation."""
    from flowloom.trainers.evaluation import metrics
    from flowloom.trainers.evaluation.predictions import Predictions
    from flowloom.trainers.evaluation.run_report import RunResults
    from flowloom.trainers.feed.flow_spec import FeatureSpec
    from flowloom.trainers.recipes.recipe import Recipe
    from flowloom.trainers.recipes.run_directory import Run, TrainingData

    card = dataset_card(classes)
    draws = np.random.default_rng(3)
    predictions = {}
    for task in card.tasks:
        labels = draws.integers(0, len(task.vocabulary), rows).astype(np.int32)
        scores = draws.random((rows, len(task.vocabulary))).astype(np.float32)
        scores[np.arange(rows), labels] += 0.7
        predictions[task.name] = Predictions(labels, scores / scores.sum(axis=1, keepdims=True))
    found = {
        task.name: {
            **metrics.report(predictions[task.name], task.vocabulary, 7),
            "baselines": {"majority": metrics.headline(predictions[task.name])},
        }
        for task in card.tasks
    }
    names = [task.name for task in card.tasks]
    history = [
        {"epoch": epoch, "loss": dict.fromkeys(names, 1.0 / epoch),
         "validation_loss": dict.fromkeys(names, 1.2 / epoch),
         "validation_auc": dict.fromkeys(names, 0.8 + epoch / 200), "validation_mean_auc": 0.8 + epoch / 200}
        for epoch in range(1, 21)
    ]  # fmt: skip
    summary = {"epochs": 20, "steps": 12_345, "best_epoch": 17, "paradigm": "multitask", "python": "3.12",
               "versions": {"tensorflow": "2.20"}}  # fmt: skip
    source = TrainingData(path="/x", name=card.name, content_hash=card.content_hash, definition=card.definition,
                          tasks=card.tasks)  # fmt: skip
    run = Run(Path("/no/such/run"), Recipe.named("multa"), FeatureSpec(k=K, channels=("size",), scaling="fixed"),
              source, history, summary)  # fmt: skip
    cost = {"parameters": 12_345, "macs": 1_234_567, "inference_us": 1_234.5, "inference_p10_us": 987.0,
            "inference_cpu_us": 1_500.0, "repeats": 200}  # fmt: skip
    document = {
        "tasks": found,
        "mean_auc": 0.93,
        "cost": cost,
        "split": "test",
        "seed": 7,
        "dataset": card.content_hash,
    }
    gates = {name: [0.1, 0.2, 0.7] for name in names}
    return RunResults(run, card, document, predictions, gates)
