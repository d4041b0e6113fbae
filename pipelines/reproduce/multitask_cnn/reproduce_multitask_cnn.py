"""`flowloom reproduce multitask-cnn`: the experiments of Rezaei and Liu, on what there is of their data."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowloom.pipelines.reproduce.engine.datasets import built_once
from flowloom.pipelines.terminal.progress_display import ProgressDisplay
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.published.published_rejects import Rejects
from flowloom.transforms.published.ucdavis_quic import ARRAY_CLASSES, read_quic_labels

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction

SERVICES = ["googledrive", "youtube", "googledoc", "googlesearch", "googlemusic"]
ISCX = {
    "chat": (
        "*AIMchat*", "*aim_chat*", "*facebook*chat*", "*gmail*chat*", "*hangout*chat*", "*ICQchat*", "*icq_chat*",
        "*skype_chat*",
    ),
    "email": ("*email*",),
    "file": ("*ftps*", "*scp*", "*sftp*", "*skype_file*"),
    "streaming": ("*netflix*", "*spotify*", "*vimeo*", "*youtube*"),
    "voip": ("*facebook_audio*", "*hangouts_audio*", "*skype_audio*", "*voipbuster*"),
}  # fmt: skip
"""Captures of ISCX VPN-nonVPN 2016 by the traffic types of Rezaei and Liu; see docs/corpora/iscx-vpn-2016.yaml."""
CERTTA = ("CICDOH20/valid.json", "CICDOH20/test.json", "TIISSRC23/valid.json", "TIISSRC23/test.json")
CERTTA_WORDS = [
    "doh", "dns2tcp", "dnscat2", "iodine", "audio", "video", "bruteforce-http", "bruteforce-telnet", "mirai"
]  # fmt: skip


def reproduce_multitask_cnn(options: "ReproduceOptions", display: ProgressDisplay) -> "Reproduction":
    """Repeat the experiments of Rezaei and Liu, Multitask Learning for Network Traffic Classification.

    Raises:
      FlowloomError: if the flows of the first set are not there.
    """
    from flowloom.pipelines.reproduce.engine.experiments import run_experiments
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
    from flowloom.pipelines.reproduce.engine.single_thread import one_thread
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_claims import claims
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_experiments import RezaeiLiuExperiments
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_grid import (
        FlowSet,
        RezaeiLiuOutcomes,
        RezaeiLiuScale,
        grid,
    )
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_tables import sections

    sources = _sources(options.data, options.quick)
    sets = []
    for source in sources:
        directory, card = built_once(source.name, source.manifest, options.out / "datasets", display)
        words = next(task.vocabulary for task in card.tasks if task.name == source.task)
        sets.append(
            FlowSet(
                source.name, os.fspath(directory), source.task, words, source.title, card.content_hash, source.signed,
                card.definition.k, source.name.startswith("quic"), source.name == "quic-texts",
            )
        )  # fmt: skip
    scale = RezaeiLiuScale.quick() if options.quick else RezaeiLiuScale()
    planned = grid(sets, scale, options.seed)
    display.line(f"{len(planned):,} experiments in {options.out / 'cells'}")
    experiments = RezaeiLiuExperiments({flows.name: (flows.directory, flows.task) for flows in sets})

    results = run_experiments(
        planned, experiments, options.out / "cells", options.workers, one_thread, display.experiments
    )
    outcomes = RezaeiLiuOutcomes(results.by_name, scale)
    totals = _totals(options.data)
    lines = [source.line for source in sources]
    lines.append(
        f"Each figure is a mean over {scale.repeats} stratified splits by flow (64 % train, 16 % validation, 20 % "
        f"test), with its 95 % interval. {scale.updates} updates of a network on all train flows."
    )
    return Reproduction(
        paper="Multitask Learning for Network Traffic Classification (Rezaei and Liu)",
        lines=lines,
        data={
            "sets": {flows.name: {"flows": _flows(flows.directory), "content_hash": flows.content} for flows in sets},
            "cells": len(planned),
        },
        claims=claims(sets, outcomes, totals),
        sections=sections(sets, outcomes, totals),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RezaeiLiuSource:
    """A dataset to build for the experiments."""

    name: str
    task: str
    title: str
    line: str
    """What a reader must know of its data."""
    manifest: dict[str, Any]
    signed: bool


def _sources(data: Path, quick: bool) -> list[RezaeiLiuSource]:
    """Return the datasets that the data is enough for.

    Raises:
      FlowloomError: if there are no flows of the QUIC set.
    """
    return [*_quic_sources(data / "quic-ucdavis", quick), *_second_source(data)]


def _quic_sources(folder: Path, quick: bool) -> list[RezaeiLiuSource]:
    automatic = {
        name: {"kind": "auto", "quantity": name, "dividers": {"method": "class-means", "reference": "service"}}
        for name in ("bandwidth", "duration")
    }
    tasks = {"service": {"kind": "multiclass", "vocabulary": SERVICES}, **automatic}

    def manifest(name: str, captures: list[dict[str, str]], k: int) -> dict[str, Any]:
        return {
            "name": name, "captures": captures, "definition": {"preset": "multitask-cnn", "k": k}, "tasks": tasks,
            "splits": {"by": "flow", "seed": 7}, "output": {"shards": 1},
        }  # fmt: skip

    def texts(path: Path) -> dict[str, str]:
        return {"published": "quic-ucdavis", "path": os.path.abspath(path)}

    whole = sorted(path for path in folder.glob("pretraining*"))
    if whole:
        line = "QUIC (UC Davis): the text files of the pretraining part, with directions; the paper's protocol in full."
        captures = [texts(path) for path in (*whole, *sorted(folder.glob("retraining*")))]
        return [
            RezaeiLiuSource(
                "quic", "service", "QUIC (UC Davis)", line, manifest("quic-ucdavis", captures, 65_535), True
            )
        ]
    few = sorted(folder.glob("flows-150*"))
    arrays = [
        {"published": "quic-ucdavis-arrays", "path": os.path.abspath(folder / f"{part}Data.npy"),
         "label_path": os.path.abspath(folder / f"{part}Label.npy")}
        for part in ("val", "test") if (folder / f"{part}Data.npy").is_file()
    ]  # fmt: skip
    if not few:
        raise FlowloomError(
            f"the experiments need the QUIC flows of UC Davis: put the text files into {folder / 'pretraining'} (a "
            "folder or tar archive), or flows-150.tar.xz and the .npy files of the published code into " + str(folder)
        )
    entries = [texts(path) for path in few]
    line = (
        "QUIC (UC Davis): 450 of the paper's 6,589 flows. 150 are whole text files; 300 are the processed validation "
        "and test flows of the published code, 120 packets each and without directions, so that lengths are unsigned "
        "here. No flow is in both: no two share their first 20 lengths."
    )
    both = manifest("quic-ucdavis-450", [*entries, *arrays], 120)
    found = [RezaeiLiuSource("quic", "service", "QUIC (450 flows)", line, both, False)]
    if not quick:
        also = "The 150 text flows alone show what directions and whole flows add."
        alone = manifest("quic-ucdavis-150", entries, 65_535)
        found.append(RezaeiLiuSource("quic-texts", "service", "QUIC (150 text flows)", also, alone, True))
    return found


def _second_source(data: Path) -> list[RezaeiLiuSource]:
    folder = data / "iscx-vpn-nonvpn-2016"
    if folder.is_dir() and any(folder.glob("*.pcap*")):
        line = "ISCX VPN-nonVPN 2016: the captures, as in the paper; TCP flows end with FIN, UDP flows after 15 s."
        return [
            RezaeiLiuSource("iscx", "traffic", "ISCX VPN-nonVPN", line, iscx_manifest(os.path.abspath(folder)), True)
        ]
    files = [data / "certta" / name for name in CERTTA if (data / "certta" / name).is_file()]
    if not files:
        return []
    captures = [
        {
            "published": "certta", "path": os.path.abspath(path), "labels_as": {"class": ["traffic"]},
            **({"words": {"traffic": {"benign": "doh"}}} if "CICDOH20" in path.parts else {}),
        }
        for path in files
    ]  # fmt: skip
    manifest = {
        "name": "certta", "captures": captures, "definition": {"preset": "multitask-cnn", "k": 100},
        "tasks": {"traffic": {"kind": "multiclass", "vocabulary": CERTTA_WORDS}},
        "splits": {"by": "flow", "seed": 7}, "output": {"shards": 1},
    }  # fmt: skip
    line = (
        "CertTA stands in for ISCX, whose captures are not here: 2,160 flows of nine classes out of two other sets, "
        "each with its first 30 to 100 packets, so that bandwidth and duration are those of its beginning."
    )
    return [RezaeiLiuSource("certta", "traffic", "CertTA", line, manifest, True)]


def iscx_manifest(folder: str) -> dict[str, Any]:
    """Return the manifest of ISCX VPN-nonVPN 2016 by the paper's five categories, for captures in a folder."""
    captures = [
        {"glob": os.path.join(folder, f"{pattern}.pcap*"), "labels": {"traffic": word}}
        for word, patterns in ISCX.items()
        for pattern in patterns
    ]
    return {
        "name": "iscx-vpn-2016", "captures": captures,
        "definition": {"preset": "multitask-cnn", "k": 120, "min_packets": 20},
        "tasks": {"traffic": {"kind": "multiclass", "vocabulary": list(ISCX)}},
        "splits": {"by": "flow", "seed": 7}, "output": {"shards": 1},
    }  # fmt: skip


def _flows(directory: str) -> int:
    return sum(counts.rows for counts in read_card(Path(directory)).splits.values())


def _totals(data: Path) -> Any:
    """Return class, bandwidth and duration of all published label rows, None where there are none."""
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_claims import LabelledTotals

    paths = [data / "quic-ucdavis" / f"{part}Label.npy" for part in ("train", "val", "test")]
    found = [read_quic_labels(str(path), Rejects()) for path in paths if path.is_file()]
    if not sum(map(len, found)):
        return None
    bandwidth, duration, classes = np.concatenate(found).T
    codes = np.array([-1] + [SERVICES.index(ARRAY_CLASSES[number]) for number in sorted(ARRAY_CLASSES)], np.int32)
    return LabelledTotals(tuple(SERVICES), codes[classes.astype(int)], 8 * bandwidth, duration)
