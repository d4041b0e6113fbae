"""Data of Rezaei and Liu's experiments: the QUIC flows of UC Davis, and ISCX or CertTA as the second set."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.published.published_rejects import Rejects
from flowloom.transforms.published.ucdavis_quic import ARRAY_CLASSES, read_quic_labels

if TYPE_CHECKING:
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_claims import LabelledTotals

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
CERTTA_CLASSES = [
    "doh", "dns2tcp", "dnscat2", "iodine", "audio", "video", "bruteforce-http", "bruteforce-telnet", "mirai"
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RezaeiLiuSource:
    """A dataset to build for the experiments."""

    name: str
    task: str
    title: str
    line: str
    """A sentence about the data, for the page."""
    manifest: dict[str, Any]
    signed: bool


def flow_sources(data: Path, quick: bool) -> list[RezaeiLiuSource]:
    """Returns the datasets whose data is present.

    Raises:
      FlowloomError: if the flows of the QUIC set are missing.
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
            f"{folder}: the experiments need the QUIC flows of UC Davis; put the text files into "
            f"{folder / 'pretraining'} (a folder or tar archive), or flows-150.tar.xz and the .npy files of the "
            f"published code into {folder}"
        )
    entries = [texts(path) for path in few]
    line = (
        "QUIC (UC Davis): 450 of the paper's 6,589 flows. 150 are whole text files; 300 are the processed validation "
        "and test flows of the published code, with 120 packets each and without directions, so lengths are unsigned "
        "here. No flow is in both parts: no two share their first 20 lengths."
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
        "tasks": {"traffic": {"kind": "multiclass", "vocabulary": CERTTA_CLASSES}},
        "splits": {"by": "flow", "seed": 7}, "output": {"shards": 1},
    }  # fmt: skip
    line = (
        "CertTA replaces ISCX, whose captures are missing: 2,160 flows of nine classes from two other sets, each with "
        "its first 30 to 100 packets, so bandwidth and duration are those of the beginning of the flow."
    )
    return [RezaeiLiuSource("certta", "traffic", "CertTA", line, manifest, True)]


def iscx_manifest(folder: str) -> dict[str, Any]:
    """Returns the manifest of ISCX VPN-nonVPN 2016 with the paper's five categories, for captures in a folder."""
    captures = [
        {"glob": os.path.join(folder, f"{pattern}.pcap*"), "labels": {"traffic": category}}
        for category, patterns in ISCX.items()
        for pattern in patterns
    ]
    return {
        "name": "iscx-vpn-2016", "captures": captures,
        "definition": {"preset": "multitask-cnn", "k": 120, "min_packets": 20},
        "tasks": {"traffic": {"kind": "multiclass", "vocabulary": list(ISCX)}},
        "splits": {"by": "flow", "seed": 7}, "output": {"shards": 1},
    }  # fmt: skip


def labelled_totals(data: Path) -> "LabelledTotals | None":
    """Returns class, bandwidth and duration of all published label rows; None if no label file is present."""
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_claims import LabelledTotals

    paths = [data / "quic-ucdavis" / f"{part}Label.npy" for part in ("train", "val", "test")]
    found = [read_quic_labels(str(path), Rejects()) for path in paths if path.is_file()]
    if not sum(map(len, found)):
        return None
    bandwidth, duration, classes = np.concatenate(found).T
    codes = np.array([-1] + [SERVICES.index(ARRAY_CLASSES[number]) for number in sorted(ARRAY_CLASSES)], np.int32)
    return LabelledTotals(tuple(SERVICES), codes[classes.astype(int)], 8 * bandwidth, duration)
