"""`flowloom reproduce mtc`: the experiments of MTC, on ISCX as sessions of 784 bytes and a subset of CICIDS2017."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flowloom.pipelines.demo_corpus import CORPUS
from flowloom.pipelines.reproduce.engine.datasets import built_once
from flowloom.pipelines.terminal.progress_display import ProgressDisplay
from flowloom.schemas.dataset.dataset_card import ByteRule, read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.published.iscx_images import TRAFFIC, TUNNELS

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
    from flowloom.pipelines.reproduce.mtc.mtc_experiments import RowSet
    from flowloom.pipelines.reproduce.mtc.mtc_grid import MTCScale

TWELVE = [*TRAFFIC, *(f"vpn-{word}" for word in TRAFFIC)]
FAMILIES = ["benign", "dos", "portscan", "brute-force", "web-attack", "bot"]
"""Attack labels as the paper has them after balancing: Infiltration is left out (section 3.2.3)."""
PAPER_TOTALS = {
    "benign": 1_330_000, "dos": 350_000, "portscan": 75_500, "brute-force": 66_000, "web-attack": 65_500, "bot": 65_000
}  # fmt: skip
"""Table 2, to which the paper draws benign rows and makes others by SMOTE."""
BENIGN = 36_000
"""Of the train rows here, which are nearly all that there are."""
SPLITS = {"by": "flow", "seed": 7}


def reproduce_mtc(options: "ReproduceOptions", display: ProgressDisplay) -> "Reproduction":
    """Repeat what Wang, Gao and Lei did: MTC, A Multi-Task Model for Encrypted Network Traffic Classification."""
    from flowloom.pipelines.reproduce.engine.experiments import run_experiments
    from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
    from flowloom.pipelines.reproduce.engine.single_thread import one_thread
    from flowloom.pipelines.reproduce.mtc.mtc_claims import claims
    from flowloom.pipelines.reproduce.mtc.mtc_experiments import MTCExperiments
    from flowloom.pipelines.reproduce.mtc.mtc_grid import HEADERS, MTCOutcomes, MTCScale, grid
    from flowloom.pipelines.reproduce.mtc.mtc_tables import sections

    scale = MTCScale.quick() if options.quick else MTCScale()
    sets, lines = _sets(options, scale, display)
    planned = grid(sets, scale, options.seed)
    display.line(f"{len(planned):,} experiments in {options.out / 'cells'}")
    experiments = MTCExperiments({rows.name: rows for rows in sets})

    results = run_experiments(
        planned, experiments, options.out / "cells", options.workers, one_thread, display.experiments
    )
    outcomes = MTCOutcomes(results.by_name, scale)
    headers = next((rows for rows in sets if rows.name == HEADERS), None)
    rule = None if headers is None else _byte_rule(Path(headers.directory))
    lines.append(
        f"Each figure is a mean over {scale.repeats} stratified splits (64 % train, 16 % validation, 20 % test) with "
        "its 95 % interval; of rows with equal bytes or features one is there, so that none is in two splits. "
        "MTC and its rivals are compared at about equal processor time, not equal updates; both are told below what "
        "they cost."
    )
    return Reproduction(
        paper="MTC: A Multi-Task Model for Encrypted Network Traffic Classification (Wang, Gao and Lei)",
        lines=lines,
        data={
            "sets": {rows.name: {"rows_per_class": rows.limit, "content_hash": rows.content} for rows in sets},
            "cells": len(planned),
            "cpu_s": round(sum(result["cpu_s"] for result in results.by_name.values()), 1),
        },
        claims=claims(sets, outcomes, rule),
        sections=sections(sets, outcomes, rule),
        note="Differences are paired: both methods on the same splits. Intervals are of Student's t over the repeats, "
        "in points of macro F1.",
    )  # fmt: skip


def _sets(
    options: "ReproduceOptions", scale: "MTCScale", display: ProgressDisplay
) -> tuple[list["RowSet"], list[str]]:  # fmt: skip
    """Build the datasets that the data is enough for; return them, and what a reader must know of them.

    Raises:
      FlowloomError: if there are neither sessions nor tables.
    """
    from flowloom.pipelines.reproduce.mtc.mtc_experiments import RowSet
    from flowloom.pipelines.reproduce.mtc.mtc_grid import HEADERS, PACKETS, SESSIONS, TABLES

    data = options.data
    found, lines = [], []

    def add(name: str, title: str, manifest: dict[str, Any], transformer: tuple[str, ...], **more: Any) -> None:
        directory, card = built_once(name, manifest, options.out / "datasets", display)
        found.append(
            RowSet(
                name, os.fspath(directory), title, card.content_hash, card.views[0], card.tasks,
                transformer_tasks=transformer, **more,
            )
        )  # fmt: skip

    sessions, tables = data / "iscx-wang2017", data / "cicids2017-subset.tar.xz"
    if sessions.is_dir():
        lines.append(
            "ISCX VPN-nonVPN comes as sessions of 784 bytes (Wang et al., 2017), not as packets of 1,500: headers of "
            "files, records and frames are stripped; addresses, ports, sequence numbers, IP identification, time to "
            "live, flow labels, checksums and options are zeroed. Labels of applications are not in it, so that "
            f"VPN or not has the place of App, on the Transformer branch. At most {scale.sessions} sessions of each of "
            "the 12 kinds of traffic are used."
        )
        common: dict[str, Any] = {
            "limit": scale.sessions,
            "auxiliary": "aux",
            "auxiliary_classes": (*range(6), *range(6)),
        }
        add(SESSIONS, "ISCX sessions", iscx_manifest(os.path.abspath(sessions), "strip"), ("vpn",), **common)
        add(HEADERS, "ISCX sessions with headers", iscx_manifest(os.path.abspath(sessions), "keep"), ("vpn",), **common)
    if tables.is_file():
        lines.append(
            "CICIDS2017 is a genuine subset of about 69,000 rows in 77 features, put together from several "
            "publications; exact duplicates are removed before rows are divided, 49 features are chosen, scaled and "
            "resampled by the train rows alone, to the shares of the paper's table 2 (68 % benign). Validation and "
            f"test rows are {'4,500 of a class at most' if options.quick else 'as they come (89 % benign)'}, where the "
            "paper resamples before it divides. Classes come from different files, so that figures near 100 say "
            "little of other networks."
        )
        manifest = cicids_manifest(os.path.abspath(tables))
        benign, limit = (BENIGN // 14, 4500) if options.quick else (BENIGN, 60_000)
        of_attack = tuple(int(word != "benign") for word in FAMILIES)
        add(
            TABLES, "CICIDS2017 subset", manifest, ("attack",), limit=limit, totals=_totals(benign),
            auxiliary="mal", auxiliary_classes=of_attack,
        )  # fmt: skip
    if not found:
        raise FlowloomError(
            f"the experiments need sessions or tables: put Wang's images into {sessions}, or the tables of CICIDS2017 "
            f"into {tables}"
        )
    if (CORPUS / "aurora.yaml").is_file():
        add(
            PACKETS, "packets of the embedded corpus", packets_manifest(CORPUS), ("app",), limit=scale.packets,
            distinct=False,
        )  # fmt: skip
    else:
        lines.append(
            "What dividing packets instead of flows does is not shown: it needs the embedded corpus, which is in the "
            "source tree alone."
        )
    return found, lines


def iscx_manifest(folder: str, header: str) -> dict[str, Any]:
    """Return the manifest of the 12-class sessions, with the paper's names of tasks; `header` as `strip` or `keep`."""
    return {
        "name": f"iscx-wang2017-{header}",
        "captures": [
            {
                "published": "iscx-wang2017", "path": folder, "variant": "SessionAllLayers", "header": header,
                "mask": "strict",
                "labels_as": {"tunnel_traffic": ["tra"], "traffic": ["aux"], "tunnel": ["vpn"]},
            }
        ],
        "views": ["packets"],
        "tasks": {
            "tra": {"kind": "multiclass", "vocabulary": TWELVE},
            "aux": {"kind": "multiclass", "vocabulary": list(TRAFFIC)},
            "vpn": {"kind": "multiclass", "vocabulary": list(TUNNELS)},
        },
        "splits": SPLITS, "output": {"shards": 1},
    }  # fmt: skip


def cicids_manifest(archive: str) -> dict[str, Any]:
    """Return the manifest of the tables of CICIDS2017 with the paper's two tasks."""
    malicious = dict.fromkeys((*FAMILIES[1:], "infiltration"), "positive")
    return {
        "name": "cicids2017",
        "captures": [
            {
                "published": "cicids2017", "path": archive, "labels_as": {"family": ["attack", "mal"]},
                "words": {"attack": {"infiltration": None}, "mal": {"benign": "negative", **malicious}},
            }
        ],
        "views": ["tables"],
        "tasks": {"attack": {"kind": "multiclass", "vocabulary": FAMILIES}, "mal": {"kind": "binary"}},
        "splits": SPLITS, "output": {"shards": 1},
    }  # fmt: skip


def packets_manifest(corpus: Path) -> dict[str, Any]:
    """Return the manifest of the packets of the embedded corpus, of 784 bytes each."""
    known = yaml.safe_load((corpus / "aurora.yaml").read_text(encoding="utf-8"))
    kept = ("app", "tunnel")
    captures = [
        {"glob": os.path.join(corpus, entry["glob"]), "labels": {task: entry["labels"][task] for task in kept}}
        for entry in known["captures"]
        if all(task in entry.get("labels", {}) for task in kept)
    ]
    return {
        "name": "embedded-packets", "captures": captures, "views": ["packets"],
        "packets": {"preset": "paper", "length": 784},
        "tasks": {task: known["tasks"][task] for task in kept},
        "splits": SPLITS, "output": {"shards": 1},
    }  # fmt: skip


def _totals(benign: int) -> dict[str, int]:
    """Return train rows of each class in the proportions of table 2."""
    return {word: round(total * benign / PAPER_TOTALS["benign"]) for word, total in PAPER_TOTALS.items()}


def _byte_rule(directory: Path) -> ByteRule | None:
    return next((rule for rule in read_card(directory).byte_rules if rule.task == "vpn"), None)
