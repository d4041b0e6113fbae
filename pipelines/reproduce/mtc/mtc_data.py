"""Data of MTC's experiments: ISCX as sessions of 784 bytes, a subset of CICIDS2017, and packets of the demo corpus."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flowloom.pipelines.demo_corpus import CORPUS
from flowloom.pipelines.reproduce.engine.datasets import built_once
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress
from flowloom.transforms.published.iscx_images import TRAFFIC, TUNNELS

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
    from flowloom.pipelines.reproduce.mtc.mtc_experiments import RowSet
    from flowloom.pipelines.reproduce.mtc.mtc_grid import MTCScale

TWELVE = [*TRAFFIC, *(f"vpn-{kind}" for kind in TRAFFIC)]
FAMILIES = ["benign", "dos", "portscan", "brute-force", "web-attack", "bot"]
"""Attack labels of the paper after balancing, without Infiltration (section 3.2.3)."""
PAPER_TOTALS = {
    "benign": 1_330_000, "dos": 350_000, "portscan": 75_500, "brute-force": 66_000, "web-attack": 65_500, "bot": 65_000
}  # fmt: skip
"""Rows of table 2: the paper samples benign rows down to it, and adds other rows by SMOTE."""
BENIGN = 36_000
"""Benign train rows here: nearly all that exist."""
SPLITS = {"by": "flow", "seed": 7}


def row_sets(
    options: "ReproduceOptions", scale: "MTCScale", progress: Callable[[Progress], None]
) -> tuple[list["RowSet"], list[str]]:  # fmt: skip
    """Builds the datasets whose data is present; returns them, and sentences about the data for the page.

    Raises:
      FlowloomError: if there are neither sessions nor tables.
    """
    sessions, tables = options.data / "iscx-wang2017", options.data / "cicids2017-subset.tar.xz"
    sources = [
        *(_session_sources(sessions, scale) if sessions.is_dir() else ()),
        *([_table_source(tables, options.quick)] if tables.is_file() else ()),
    ]
    if not sources:
        raise FlowloomError(
            f"{options.data}: the experiments need sessions or tables, got neither; put Wang's images into {sessions}, "
            f"or the tables of CICIDS2017 into {tables}"
        )
    lines = [source.line for source in sources if source.line]
    if (CORPUS / "aurora.yaml").is_file():
        sources.append(_packet_source(scale))
    else:
        lines.append(
            "The effect of splitting by packet instead of by flow is not shown: it needs the embedded corpus, which is "
            "only in the source tree."
        )
    return [_built(source, options.out / "datasets", progress) for source in sources], lines


@dataclasses.dataclass(frozen=True)
class _Source:
    """A dataset to build, a sentence about it, and the fields of its `RowSet` that the dataset does not give."""

    name: str
    title: str
    manifest: dict[str, Any]
    transformer_tasks: tuple[str, ...]
    more: dict[str, Any]
    line: str = ""


def _built(source: _Source, folder: Path, progress: Callable[[Progress], None]) -> "RowSet":
    from flowloom.pipelines.reproduce.mtc.mtc_experiments import RowSet

    directory, card = built_once(source.name, source.manifest, folder, progress)
    return RowSet(
        source.name, os.fspath(directory), source.title, card.content_hash, card.views[0], card.tasks,
        transformer_tasks=source.transformer_tasks, **source.more,
    )  # fmt: skip


def _session_sources(folder: Path, scale: "MTCScale") -> list[_Source]:
    from flowloom.pipelines.reproduce.mtc.mtc_grid import HEADERS, SESSIONS

    line = (
        "ISCX VPN-nonVPN consists of sessions of 784 bytes (Wang et al., 2017), not of packets of 1,500 bytes. Headers "
        "of files, records and frames are stripped; addresses, ports, sequence numbers, IP identification, time to "
        "live, flow labels, checksums and options are zeroed. It has no labels of applications, so VPN or not takes "
        f"the place of App, on the Transformer branch. At most {scale.sessions} sessions of each of the 12 kinds of "
        "traffic are used."
    )
    more: dict[str, Any] = {
        "limit": scale.sessions, "auxiliary": "aux", "auxiliary_classes": (*range(6), *range(6))
    }  # fmt: skip
    stripped, kept = (iscx_manifest(os.path.abspath(folder), header) for header in ("strip", "keep"))
    return [
        _Source(SESSIONS, "ISCX sessions", stripped, ("vpn",), more, line),
        _Source(HEADERS, "ISCX sessions with headers", kept, ("vpn",), more),
    ]


def _table_source(archive: Path, quick: bool) -> _Source:
    from flowloom.pipelines.reproduce.mtc.mtc_grid import TABLES

    line = (
        "CICIDS2017 is a genuine subset of about 69,000 rows with 77 features, collected from several publications. "
        "Exact duplicates are removed before the split. From the train rows alone, 49 features are chosen and scaled, "
        "and rows are resampled to the shares of the paper's table 2 (68 % benign). Validation and test rows are "
        f"{'4,500 of a class at most' if quick else 'unchanged (89 % benign)'}, whereas the paper resamples before it "
        "splits. Classes come from different files, so figures near 100 say little about other networks."
    )
    benign, limit = (BENIGN // 14, 4500) if quick else (BENIGN, 60_000)
    more = {
        "limit": limit, "totals": _totals(benign), "auxiliary": "mal",
        "auxiliary_classes": tuple(int(family != "benign") for family in FAMILIES),
    }  # fmt: skip
    return _Source(TABLES, "CICIDS2017 subset", cicids_manifest(os.path.abspath(archive)), ("attack",), more, line)


def _packet_source(scale: "MTCScale") -> _Source:
    from flowloom.pipelines.reproduce.mtc.mtc_grid import PACKETS

    more = {"limit": scale.packets, "distinct": False}
    return _Source(PACKETS, "packets of the embedded corpus", packets_manifest(CORPUS), ("app",), more)


def iscx_manifest(folder: str, header: str) -> dict[str, Any]:
    """Returns the manifest of the 12-class sessions, with the paper's task names; `header` is `strip` or `keep`."""
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
    """Returns the manifest of the tables of CICIDS2017 with the paper's two tasks."""
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
    """Returns the manifest of the packets of the embedded corpus, of 784 bytes each."""
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
    """Returns train rows of each class in the proportions of table 2."""
    return {family: round(total * benign / PAPER_TOTALS["benign"]) for family, total in PAPER_TOTALS.items()}
