"""Data of MULTA's experiments: its own captures if present, and sets of three tasks in their place."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flowloom.pipelines.demo_corpus import CORPUS
from flowloom.pipelines.reproduce.engine.datasets import built_once, merged_once, test_per_train, with_split_seed
from flowloom.pipelines.reproduce.engine.options import DEVELOPMENT_SEED, Repeat
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress
from flowloom.transforms.weave.weave_plans import WeaveRules

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.multa.multa_grid import MULTAScale, TaskSet

ATTACKS = ("syn_flood", "ssdp_flood", "tls_renegotiation")
CERTTA: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]]]] = {
    "CICDOH20": (("benign",), {"tunnel": ("dns2tcp", "dnscat2", "iodine")}),
    "TIISSRC23": (
        ("audio", "video"), {"brute_force": ("bruteforce-http", "bruteforce-telnet"), "mirai": ("mirai",)}
    ),
}  # fmt: skip
"""Benign label values of each CertTA set, and its attacks as three binary tasks, each against all benign flows."""
CERTTA_PARTS = ("valid", "test")
KITSUNE = {"SSDP Flood": "ssdp_flood", "SSL Renegotiation": "tls_renegotiation", "SYN DoS": "syn_dos"}
"""Kitsune's sets, as their authors name them, and the task of each."""
SPLITS = {"by": "flow", "seed": DEVELOPMENT_SEED}


@dataclasses.dataclass(frozen=True)
class MULTASource:
    """Data with three tasks.

    Attributes:
      line: a sentence about the data, for the page.
      manifests: manifests of the datasets; several datasets are merged into one of stripes.
      aurora: whether a dataset of the same flows with every label is made as well.
      kitsune: the packets that Kitsune learns from (`KitsuneOptions.benign`); empty where rows are not packets.
      map_rows: number of packets on which Kitsune finds its groups of features.
    """

    name: str
    title: str
    line: str
    tasks: tuple[str, ...]
    manifests: tuple[dict[str, Any], ...]
    aurora: bool = True
    kitsune: str = ""
    map_rows: int = 5_000


def multa_sources(data: Path) -> list[MULTASource]:
    """Returns the sets of tasks whose data is present; those of the embedded corpus always are.

    Raises:
      FlowloomError: if the corpus of the source tree is missing.
    """
    if not (CORPUS / "rainbow.yaml").is_file():
        raise FlowloomError(
            f"{CORPUS}: the experiments need the embedded corpus, which is part of Flowloom's source tree but not of "
            "the installed package; run them from the source tree"
        )
    found = []
    captures = data / "kitsune"
    there = all(any((captures / name).glob("*_pcap.pcap*")) for name in KITSUNE)
    if there:
        found.append(
            MULTASource(
                "kitsune", "Kitsune's sets", "Kitsune's SSDP Flood, SSL Renegotiation and SYN DoS: the sets of the "
                "paper, with one decision for each packet; splits with more rows were sampled to 200,000 rows.",
                tuple(KITSUNE.values()),
                tuple(kitsune_manifest(os.path.abspath(captures), name) for name in KITSUNE),
                kitsune="prefix",
            )
        )  # fmt: skip
    missing = (
        "Kitsune's SSDP Flood, SSL Renegotiation and SYN DoS captures, which the paper uses, were not available. With "
        "these captures in DATA/kitsune, the whole protocol runs on them: by docs/corpora/kitsune.yaml and, packet by "
        "packet, by kitsune-*.yaml, which are tested on the head of the Mirai set. In their place: "
    )
    found.append(
        MULTASource(
            "corpus", "the embedded corpus", ("" if there else missing) + "the three attacks of the embedded corpus "
            "(flows of real programs in a laboratory), one stripe of flows for each, split by capture.",
            ATTACKS, (_corpus_manifest(),),
        )
    )  # fmt: skip
    found += _certta_sources(data / "certta")
    found.append(
        MULTASource(
            "packets", "packets of the embedded corpus", "The same attacks packet by packet, each packet with the "
            "last 20 between its two hosts, and only the traffic recorded beside them: here Kitsune runs on the same "
            "rows. The corpus keeps attacks and other traffic in separate files, so Kitsune learns from all train "
            "packets that are labelled benign, and no stream contains both.",
            ATTACKS, (_packets_manifest(),), aurora=False, kitsune="labelled", map_rows=500,
        )
    )  # fmt: skip
    return found


def kitsune_manifest(folder: str, name: str) -> dict[str, Any]:
    """Returns the manifest of one of Kitsune's sets, packet by packet, for its captures in a folder."""
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
    """Returns the manifest of the embedded corpus' attacks, with absolute paths."""
    manifest = yaml.safe_load((CORPUS / "rainbow.yaml").read_text(encoding="utf-8"))
    return manifest | {
        "captures": [{**entry, "glob": os.path.join(CORPUS, entry["glob"])} for entry in manifest["captures"]]
    }


def _packets_manifest() -> dict[str, Any]:
    """Returns the manifest of the attacks packet by packet, with only the traffic recorded beside them."""
    captures = [
        {"glob": os.path.join(CORPUS, "captures", "attack", task, f"{kind}-*"), "labels": {task: value}}
        for task in ATTACKS
        for kind, value in (("attack", "positive"), ("benign", "negative"))
    ]
    return {
        "name": "embedded-packets", "captures": captures, "definition": {"preset": "packet-windows"},
        "tasks": {task: {"kind": "binary"} for task in ATTACKS}, "layout": "rainbow",
        "splits": {"by": "capture", "seed": DEVELOPMENT_SEED}, "output": {"shards": 1},
    }  # fmt: skip


def _certta_sources(folder: Path) -> list[MULTASource]:
    """Returns CertTA's three tasks if all of its files are present."""
    tasks = [task for _, attacks in CERTTA.values() for task in attacks]
    captures: list[dict[str, Any]] = [
        {
            "published": "certta", "path": os.path.abspath(folder / name / f"{part}.json"),
            "labels_as": {"class": tasks}, "unknown_words": "unknown",
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
        "benign flows (DNS over HTTPS, audio, video), split by flow. Benign flows count in all three stripes. Its "
        "files have neither addresses nor bytes of packets, so Kitsune cannot be run on it."
    )
    return [MULTASource("certta", "CertTA", line, tuple(tasks), (manifest,))]


def prepare_tasks(
    source: MULTASource,
    scale: "MULTAScale",
    repeats: Sequence[Repeat],
    folder: Path,
    progress: Callable[[Progress], None],
) -> tuple["TaskSet", dict[str, str]]:
    """Builds the datasets of a source, one for each seed of splits.

    Returns:
      its set of tasks, and the directories of the datasets by name (`multa_grid.dataset_of`).
    """
    from flowloom.pipelines.reproduce.multa.multa_grid import TaskSet, dataset_of

    directories: dict[str, str] = {}
    cards: dict[int, DatasetCard] = {}
    filled: dict[int, str] = {}
    for repeat in {repeat.seed: Repeat(repeat.seed) for repeat in repeats}.values():
        manifests = [with_split_seed(manifest, repeat.seed) for manifest in source.manifests]
        built = [built_once(manifest["name"], manifest, folder, progress) for manifest in manifests]
        directory, card = built[0]
        name = dataset_of(source.name, "", repeat)
        if len(built) > 1:
            directory = folder / name
            card = merged_once(tuple(part for part, _ in built), WeaveRules("rainbow"), directory, progress)
        directories[name], cards[repeat.seed] = os.fspath(directory), card
        if source.aurora:
            aurora = dataset_of(source.name, "paradigm aurora", repeat)
            rules = WeaveRules("aurora", missing="negative")
            filled[repeat.seed] = merged_once((directory,), rules, folder / aurora, progress).content_hash
            directories[aurora] = os.fspath(folder / aurora)
    tasks = TaskSet(
        source.name, source.title, {seed: card.content_hash for seed, card in cards.items()}, source.tasks,
        scale.packet_units if source.kitsune else scale.units, filled, bool(source.kitsune),
        test_per_train(list(cards.values())) if len({card.content_hash for card in cards.values()}) > 1 else 0.0,
    )  # fmt: skip
    return tasks, directories
