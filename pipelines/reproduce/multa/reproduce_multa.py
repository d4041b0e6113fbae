"""`flowloom reproduce multa`: the experiments of MULTA, on its own captures or on what stands in for them."""

import dataclasses
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flowloom.pipelines.demo_corpus import CORPUS
from flowloom.pipelines.reproduce.engine.datasets import built_once, woven_once
from flowloom.pipelines.reproduce.kitsune.kitsune_baseline import KitsuneOptions, kitsune_baseline
from flowloom.pipelines.terminal.progress_display import ProgressDisplay
from flowloom.schemas.dataset.dataset_card import DatasetCard, read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.weave.weave_plans import WeaveRules

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.engine.experiments import Experiment, Settings
    from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
    from flowloom.pipelines.reproduce.multa.multa_grid import MULTAScale, TaskSet
    from flowloom.pipelines.reproduce.multa.sizes import Sizes
    from flowloom.trainers.evaluation.cost import Form
    from flowloom.trainers.training.train import TrainOptions

ATTACKS = ("syn_flood", "ssdp_flood", "tls_renegotiation")
CERTTA: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]]]] = {
    "CICDOH20": (("benign",), {"tunnel": ("dns2tcp", "dnscat2", "iodine")}),
    "TIISSRC23": (
        ("audio", "video"), {"brute_force": ("bruteforce-http", "bruteforce-telnet"), "mirai": ("mirai",)}
    ),
}  # fmt: skip
"""By set of CertTA its benign words, and its attacks as three binary tasks: each against all benign flows."""
CERTTA_PARTS = ("valid", "test")
KITSUNE = {"SSDP Flood": "ssdp_flood", "SSL Renegotiation": "tls_renegotiation", "SYN DoS": "syn_dos"}
"""Kitsune's sets as their authors name them, and the task of each."""
SPLITS = {"by": "flow", "seed": 7}
QUICK = ("corpus", "packets")
"""Sets of a quick run: flows and packets, both from the source tree."""


@dataclasses.dataclass(frozen=True)
class MULTASource:
    """Three tasks to experiment on.

    Attributes:
      manifests: of the dataset; of several they are woven into one of stripes.
      aurora: whether the same flows with every label are made as well.
      kitsune: how Kitsune learns on it (`KitsuneOptions.benign`); empty where rows are no packets.
      map_rows: packets that Kitsune finds its groups of features on.
    """

    name: str
    title: str
    line: str
    tasks: tuple[str, ...]
    manifests: tuple[dict[str, Any], ...]
    aurora: bool = True
    kitsune: str = ""
    map_rows: int = 5_000


def reproduce_multa(options: "ReproduceOptions", display: ProgressDisplay) -> "Reproduction":
    """Repeat the experiments of Guo et al., MULTA: Enabling Cost-efficient Multi-task Network Traffic Analysis."""
    from flowloom.pipelines.reproduce.engine.experiments import run_experiments
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
    from flowloom.pipelines.reproduce.engine.single_thread import one_thread
    from flowloom.pipelines.reproduce.multa.multa_claims import claims
    from flowloom.pipelines.reproduce.multa.multa_grid import MULTAOutcomes, MULTAScale, grid
    from flowloom.pipelines.reproduce.multa.multa_tables import MULTAResults, sections
    from flowloom.pipelines.reproduce.multa.sizes import best_hand, sizes

    scale = MULTAScale.quick() if options.quick else MULTAScale()
    sources = multa_sources(options.data)
    if options.quick:
        sources = [source for source in sources if source.name in QUICK]
    sets: list[TaskSet] = []
    datasets: dict[str, str] = {}
    for source in sources:
        tasks, directories = _prepared(source, scale, options.out / "datasets", display)
        sets.append(tasks)
        datasets |= directories
    planned = [*_kitsune_experiments(sources, sets, scale), *grid(sets, scale, options.seed)]
    display.line(f"{len(planned):,} experiments in {options.out / 'cells'}")

    results = run_experiments(
        planned, MultaExperiments(datasets), options.out / "cells", options.workers, one_thread, display.experiments
    ).by_name  # fmt: skip
    outcomes = MULTAOutcomes(results, scale, options.seed)
    found = {
        tasks.name: {units: sizes(tasks, outcomes, units) for units in scale.hand} for tasks in sets
    }  # fmt: skip
    chosen = {tasks.name: found[tasks.name][best_hand(tasks, outcomes)] for tasks in sets}
    measured = _measured(sources, sets, found, chosen, datasets, scale, options, display)
    findings = MULTAResults(sets, outcomes, found, chosen, results, processor=processor(), **measured)
    lines = [source.line for source in sources]
    lines.append(
        f"Each figure is a mean over {scale.seeds} seeds of weights and order of rows, on one split, with its 95 % "
        f"interval; sizes, epochs and targets are chosen on the validation split, figures are of the test split. "
        f"LSTMs of one task have {scale.updates} updates, and a MULTA as many for each of its tasks, so that rows are "
        f"seen as often. Costs were measured on: {findings.processor}."
    )
    return Reproduction(
        paper="MULTA: Enabling Cost-efficient Multi-task Network Traffic Analysis (Guo et al.)",
        lines=lines,
        data={
            "sets": {
                tasks.name: {"rows": _rows(Path(datasets[tasks.name])), "content_hash": tasks.content,
                             "tasks": list(tasks.tasks)} for tasks in sets
            },
            "cells": len(planned), "processor": findings.processor,
            **measured,
        },
        claims=claims(findings),
        sections=sections(findings),
        digits=4,
        note="Differences are of mean AUC, paired by seed; intervals are of Student's t over the seeds.",
    )  # fmt: skip


def multa_sources(data: Path) -> list[MULTASource]:
    """Return the sets of tasks that the data is enough for; the embedded corpus' are always there.

    Raises:
      FlowloomError: if the corpus of the source tree is not there.
    """
    if not (CORPUS / "rainbow.yaml").is_file():
        raise FlowloomError(
            f"the experiments need the embedded corpus, which is not in {CORPUS}: it comes with Flowloom's source "
            "tree, not with the installed package; run them from there"
        )
    found = []
    captures = data / "kitsune"
    there = all(any((captures / name).glob("*_pcap.pcap*")) for name in KITSUNE)
    if there:
        found.append(
            MULTASource(
                "kitsune", "Kitsune's sets", "Kitsune's SSDP Flood, SSL Renegotiation and SYN DoS: the sets of the "
                "paper, a decision for each packet; of splits with more than 200,000 rows so many were drawn.",
                tuple(KITSUNE.values()),
                tuple(kitsune_manifest(os.path.abspath(captures), name) for name in KITSUNE),
                kitsune="prefix",
            )
        )  # fmt: skip
    missing = (
        "Kitsune's SSDP Flood, SSL Renegotiation and SYN DoS captures, which the paper uses, were not at hand. With "
        "them in DATA/kitsune the whole protocol runs on them, by docs/corpora/kitsune.yaml and its packet by packet "
        "form kitsune-*.yaml, which are tested on the head of the Mirai set. What stands in for them: "
    )
    found.append(
        MULTASource(
            "corpus", "the embedded corpus", ("" if there else missing) + "the three attacks of the embedded corpus "
            "(flows of real programs in a laboratory), a stripe of flows for each, divided by capture.",
            ATTACKS, (_corpus_manifest(),),
        )
    )  # fmt: skip
    found += _certta_sources(data / "certta")
    found.append(
        MULTASource(
            "packets", "packets of the embedded corpus", "The same attacks packet by packet, each with the last 20 "
            "between its two hosts, and only the traffic recorded beside them: here Kitsune runs on the same rows. The "
            "corpus keeps attack and other traffic in files of their own, so Kitsune learns from all train packets "
            "that are labelled benign, and has no stream in which both meet.",
            ATTACKS, (_packets_manifest(),), aurora=False, kitsune="labelled", map_rows=500,
        )
    )  # fmt: skip
    return found


def kitsune_manifest(folder: str, name: str) -> dict[str, Any]:
    """Return the manifest of one of Kitsune's sets, packet by packet, for its captures in a folder."""
    stem = name.replace(" ", "_")
    labels = {
        "path": os.path.join(folder, name, f"{stem}_labels.csv.gz"), "task": KITSUNE[name],
        "words": {"0": "negative", "1": "positive"},
    }  # fmt: skip
    return {
        "name": f"kitsune-{name.lower().replace(' ', '-')}",
        "captures": [{"glob": os.path.join(folder, name, f"{stem}_pcap.pcap*"), "packet_table": labels}],
        "definition": {"preset": "packet-windows"},
        "tasks": {KITSUNE[name]: {"kind": "binary"}},
        "splits": {"by": "time"},
    }


def _corpus_manifest() -> dict[str, Any]:
    """Return the manifest of the embedded corpus' attacks, for any folder."""
    manifest = yaml.safe_load((CORPUS / "rainbow.yaml").read_text(encoding="utf-8"))
    return manifest | {
        "captures": [{**entry, "glob": os.path.join(CORPUS, entry["glob"])} for entry in manifest["captures"]]
    }


def _packets_manifest() -> dict[str, Any]:
    """Return the manifest of the attacks packet by packet, with only what was recorded beside them."""
    captures = [
        {"glob": os.path.join(CORPUS, "captures", "attack", task, f"{kind}-*"), "labels": {task: word}}
        for task in ATTACKS
        for kind, word in (("attack", "positive"), ("benign", "negative"))
    ]
    return {
        "name": "embedded-packets", "captures": captures, "definition": {"preset": "packet-windows"},
        "tasks": {task: {"kind": "binary"} for task in ATTACKS}, "layout": "rainbow",
        "splits": {"by": "capture", "seed": 7}, "output": {"shards": 1},
    }  # fmt: skip


def _certta_sources(folder: Path) -> list[MULTASource]:
    """Return CertTA's three tasks, if all of its files are there."""
    tasks = {task: words for _, attacks in CERTTA.values() for task, words in attacks.items()}
    captures: list[dict[str, Any]] = [
        {
            "published": "certta", "path": os.path.abspath(folder / name / f"{part}.json"),
            "labels_as": {"class": list(tasks)}, "unknown_words": "unknown",
            "words": {
                task: dict.fromkeys(benign, "negative") | dict.fromkeys(attacks.get(task, ()), "positive")
                for task in tasks
            },
        }
        for name, (benign, attacks) in CERTTA.items()
        for part in CERTTA_PARTS
    ]  # fmt: skip
    if not all(Path(entry["path"]).is_file() for entry in captures):
        return []
    manifest = {
        "name": "certta-attacks", "captures": captures, "definition": {"preset": "default", "k": 20},
        "tasks": {task: {"kind": "binary"} for task in tasks}, "layout": "rainbow", "splits": SPLITS,
        "output": {"shards": 1},
    }  # fmt: skip
    line = (
        "CertTA: 2,160 flows of nine classes as three tasks: DNS tunnels, brute force and Mirai, each against the same "
        "benign flows (DNS over HTTPS, audio, video), divided by flow. Benign flows count in all three stripes. Its "
        "files have no addresses and no packets' bytes, so that Kitsune cannot be run on it."
    )
    return [MULTASource("certta", "CertTA", line, tuple(tasks), (manifest,))]


def _prepared(
    source: MULTASource, scale: "MULTAScale", folder: Path, display: ProgressDisplay
) -> tuple["TaskSet", dict[str, str]]:
    """Build the datasets of a set of tasks; return it and where they are."""
    from flowloom.pipelines.reproduce.multa.multa_grid import TaskSet

    built = [built_once(manifest["name"], manifest, folder, display) for manifest in source.manifests]
    directory, card = built[0]
    if len(built) > 1:
        directory = folder / source.name
        card = woven_once(tuple(part for part, _ in built), WeaveRules("rainbow"), directory, display)
    directories = {source.name: os.fspath(directory)}
    filled: DatasetCard | None = None
    if source.aurora:
        aurora = directory.with_name(f"{source.name}-aurora")
        filled = woven_once((directory,), WeaveRules("aurora", missing="negative"), aurora, display)
        directories[f"{source.name}-aurora"] = os.fspath(aurora)
    units = scale.packet_units if source.kitsune else scale.units
    tasks = TaskSet(
        source.name, source.title, card.content_hash, source.tasks, units,
        filled.content_hash if filled else "", bool(source.kitsune),
    )  # fmt: skip
    return tasks, directories


@dataclasses.dataclass(frozen=True)
class MultaExperiments:
    """Computes all cells on datasets, Kitsune's and those of `trainers.multa`: {name: directory}."""

    datasets: Mapping[str, str]

    def __call__(self, settings: "Settings") -> dict[str, Any]:
        """Return what a cell comes to; what it costs is no part of it."""
        if "cluster" not in settings:
            from flowloom.pipelines.reproduce.multa.multa_experiments import MULTAExperiments

            return MULTAExperiments(self.datasets)(settings)
        figures = kitsune_baseline(_kitsune_options(settings, self.datasets)).figures
        return {name: value for name, value in figures.items() if not name.endswith("_us")}


def _kitsune_options(settings: "Settings", datasets: Mapping[str, str]) -> KitsuneOptions:
    return KitsuneOptions(
        Path(datasets[settings["dataset"]]), settings["task"], map_rows=settings["map_rows"],
        cluster=settings["cluster"], benign=settings["benign"],
    )  # fmt: skip


def _kitsune_experiments(sources: list[MULTASource], sets: list["TaskSet"], scale: "MULTAScale") -> list["Experiment"]:
    """Return a cell for each task of sets of packets and each size of Kitsune, which no seed changes."""
    from flowloom.pipelines.reproduce.engine.experiments import Experiment
    from flowloom.pipelines.reproduce.multa.multa_grid import kitsune_name

    return [
        Experiment(kitsune_name(tasks, task, cluster), _kitsune_settings(source, tasks.content, task, cluster))
        for source, tasks in zip(sources, sets, strict=True) if source.kitsune
        for task in tasks.tasks
        for cluster in scale.clusters
    ]  # fmt: skip


def _kitsune_settings(source: MULTASource, content: str, task: str, cluster: int) -> dict[str, Any]:
    return {
        "dataset": source.name, "content": content, "task": task, "cluster": cluster, "map_rows": source.map_rows,
        "benign": source.kitsune, "protocol": 1,
    }  # fmt: skip


def _measured(
    sources: list[MULTASource], sets: list["TaskSet"], found: Mapping[str, Mapping[int, "Sizes"]],
    chosen: Mapping[str, "Sizes"], datasets: Mapping[str, str], scale: "MULTAScale", options: "ReproduceOptions",
    display: ProgressDisplay,
) -> dict[str, Any]:  # fmt: skip
    """Return what things cost: `costs`, `streaming` and `kitsune_times` of `Findings`.

    Times are not equal twice, so they are no cells; they are measured when all training is done, and kept.
    """
    from flowloom.pipelines.reproduce.multa.costs import action_costs
    from flowloom.pipelines.reproduce.multa.multa_experiments import words
    from flowloom.pipelines.reproduce.multa.multa_tables import actions, chosen_actions
    from flowloom.schemas.atomic_files import write_json
    from flowloom.trainers.training.train import TrainOptions

    wanted = actions(sets, found, scale)
    tuned = {tasks.name: _tuned_name(tasks, chosen[tasks.name], scale, options.seed) for tasks in sets}
    path, basis = options.out / "costs.json", {"actions": wanted, "tuned": tuned, "processor": processor()}
    if path.is_file() and (stored := json.loads(path.read_bytes()))["basis"] == basis:
        return stored["measured"]
    runs = {}
    for tasks in sets:
        size, data = chosen[tasks.name].tuning, datasets[tasks.name]
        overrides = words(data, size.experts, size.units, scale.shared_updates(tasks), options.seed)
        training = TrainOptions(Path(data), options.out / "tuned" / tuned[tasks.name], "multa", overrides)
        runs[tasks.name] = _exported(training, display)
    display.line(f"measuring {len(wanted)} actions in two runtimes")
    forms: dict[Form, list[str]] = {"trained": list(wanted)}
    if not options.quick:
        forms["fused"] = chosen_actions(sets, chosen)
    measured = {
        "costs": action_costs(wanted, forms),
        "streaming": {name: _streamed(*run, datasets[name]) for name, run in runs.items()},
        "kitsune_times": {source.name: _packet_times(source, datasets, scale) for source in sources if source.kitsune},
    }
    write_json(path, {"basis": basis, "measured": measured})
    return measured


def _packet_times(source: MULTASource, datasets: Mapping[str, str], scale: "MULTAScale") -> dict[str, Any]:
    """Return the time of Kitsune for one packet and one task, by the size of its autoencoders."""
    found = {}
    for cluster in scale.clusters:
        settings = _kitsune_settings(source, "", source.tasks[0], cluster)
        figures = kitsune_baseline(_kitsune_options(settings, datasets)).figures
        found[str(cluster)] = {name: value for name, value in figures.items() if name.endswith("_us")}
    return found


def _tuned_name(tasks: "TaskSet", size: "Sizes", scale: "MULTAScale", seed: int) -> str:
    """Return a name for the run of a tuned MULTA by all that it depends on."""
    found, updates = size.tuning, scale.shared_updates(tasks)
    return f"{tasks.name}-{found.experts}x{found.units}-{tasks.content[:8]}-{updates}-seed-{seed}"


def _exported(training: "TrainOptions", display: ProgressDisplay) -> tuple[Path, Path]:
    """Train and export a tuned MULTA as a user does, what is there already not again; return both places."""
    from flowloom.trainers.deploy.export import ExportOptions, export
    from flowloom.trainers.recipes.run_directory import FINISHED
    from flowloom.trainers.training.train import train

    run = training.run
    exported = run.with_name(f"{run.name}-litert")
    if not (run / FINISHED).exists():
        display.line(f"training {run}")
        train(training, display.trained)
    if not exported.exists():
        export(ExportOptions(run, exported, "litert"))
    return run, exported


def _streamed(run: Path, exported: Path, dataset: str) -> dict[str, Any]:
    """Return what the streaming scorer of a tuned MULTA does with test rows."""
    from flowloom.pipelines.reproduce.multa.costs import streaming_figures
    from flowloom.pipelines.reproduce.multa.multa_experiments import examples

    test = examples(dataset)[2]
    return streaming_figures(run, exported, test.sequence, test.length)


def processor() -> str:
    """Return the name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _rows(directory: Path) -> int:
    return sum(counts.rows for counts in read_card(directory).splits.values())
