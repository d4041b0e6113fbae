"""Data of the IoT Sentinel table: devices with vendor and category, twin devices, and the manifest of a split."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowloom.schemas.errors import FlowloomError

DEVICES: Mapping[str, tuple[str, str]] = {
    "Aria": ("Fitbit", "scale"),
    "D-LinkCam": ("D-Link", "camera"),
    "D-LinkDayCam": ("D-Link", "camera"),
    "D-LinkDoorSensor": ("D-Link", "sensor"),
    "D-LinkHomeHub": ("D-Link", "hub"),
    "D-LinkSensor": ("D-Link", "sensor"),
    "D-LinkSiren": ("D-Link", "sensor"),
    "D-LinkSwitch": ("D-Link", "switch"),
    "D-LinkWaterSensor": ("D-Link", "sensor"),
    "EdimaxCam": ("Edimax", "camera"),
    "EdimaxPlug1101W": ("Edimax", "plug"),
    "EdimaxPlug2101W": ("Edimax", "plug"),
    "EdnetCam": ("Ednet", "camera"),
    "EdnetGateway": ("Ednet", "hub"),
    "HomeMaticPlug": ("HomeMatic", "plug"),
    "HueBridge": ("Philips", "hub"),
    "HueSwitch": ("Philips", "switch"),
    "Lightify": ("Osram", "hub"),
    "MAXGateway": ("MAX!", "hub"),
    "SmarterCoffee": ("Smarter", "kitchen"),
    "TP-LinkPlugHS100": ("TP-Link", "plug"),
    "TP-LinkPlugHS110": ("TP-Link", "plug"),
    "WeMoInsightSwitch": ("Belkin", "switch"),
    "WeMoLink": ("Belkin", "hub"),
    "WeMoSwitch": ("Belkin", "switch"),
    "Withings": ("Withings", "scale"),
    "iKettle2": ("Smarter", "kitchen"),
}
"""Vendor and category of each device, as in docs/corpora/iot-sentinel.yaml."""
SAME_DEVICE = {
    "EdimaxCam1": "EdimaxCam",
    "EdimaxCam2": "EdimaxCam",
    "EdnetCam1": "EdnetCam",
    "EdnetCam2": "EdnetCam",
    "WeMoInsightSwitch2": "WeMoInsightSwitch",
    "WeMoSwitch2": "WeMoSwitch",
}
"""Folders of two devices of one type."""
TWINS: tuple[tuple[str, ...], ...] = (
    ("D-LinkSensor", "D-LinkSiren", "D-LinkSwitch", "D-LinkWaterSensor"),
    ("EdimaxPlug1101W", "EdimaxPlug2101W"),
    ("SmarterCoffee", "iKettle2"),
    ("TP-LinkPlugHS100", "TP-LinkPlugHS110"),
)
"""Devices of one vendor with the same or similar hardware and firmware.

The paper identifies these ten in about half of the cases alone (Miettinen et al., section VI-B and table III).
"""
TASKS = ("device", "vendor", "category")
ALL_CAPTURES, FEW_CAPTURES = "*/*.pcap", "*/*-[1-5]-*.pcap"
"""Captures of the whole table and of a quick run: the first five set-ups by each person."""


def sentinel_manifest(folder: str, split_seed: int, glob: str = ALL_CAPTURES) -> dict[str, Any]:
    """Returns the manifest of the captures in a folder, of flows split by capture.

    Args:
      folder: has a folder of captures for each device.
      split_seed: draws the captures of train, validation and test.
      glob: captures below the folder.
    """
    return {
        "name": "iot-sentinel",
        "captures": [
            {
                "glob": os.path.join(folder, glob),
                "label_from": {"device": "parent-folder"},
                "words": {"device": dict(SAME_DEVICE)},
            }
        ],
        "tasks": {task: {"kind": "multiclass"} for task in TASKS},
        "label_map": {"device": {name: {"vendor": v, "category": c} for name, (v, c) in DEVICES.items()}},
        "views": ["flows"],
        "splits": {"by": "capture", "seed": split_seed},
        "output": {"shards": 2},
    }


def sentinel_folder(data: Path) -> str:
    """Returns the folder of the captures: `data`, or `iot-sentinel` in it.

    Raises:
      FlowloomError: if neither has captures.
    """
    for folder in (data / "iot-sentinel", data):
        if next(folder.glob(ALL_CAPTURES), None):
            return os.path.abspath(folder)
    raise FlowloomError(
        f"{data}: the table needs the captures of IoT Sentinel; get github.com/andypitcher/IoT_Sentinel, and give the "
        "folder that has a folder for each device"
    )


def merged_classes(vocabulary: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Returns the classes with twins merged, and for each device the position of its merged class.

    Example:

    >>> merged_classes(("Aria", "SmarterCoffee", "iKettle2"))
    (('Aria', 'SmarterCoffee + iKettle2'), (0, 1, 1))
    """
    names = {}
    for device in vocabulary:
        twins = next((group for group in TWINS if device in group), (device,))
        names[device] = " + ".join(name for name in twins if name in vocabulary)
    classes = tuple(dict.fromkeys(names.values()))
    return classes, tuple(classes.index(names[device]) for device in vocabulary)
