"""Rotated captures: names of files that continue each other."""

import os
import re

_COMPRESSED = re.compile(r"\.(gz|zst|xz|bz2|lz4)$")
_ENDING = r"(?P<ending>\.(?:pcapng|pcap|cap|dmp|ntar))"
_ROTATIONS = (
    # Wireshark's ring buffer: trace_00001_20260131235959.pcapng
    re.compile(rf"_\d{{5}}_\d{{14}}{_ENDING}?$"),
    # tcpdump -C, with or without -W: trace.pcap, trace.pcap1, trace.pcap02
    re.compile(rf"{_ENDING}\d+$"),
    # tcpdump -G with a time in the name, as strftime writes it, and a counter where -C or -W came with it
    re.compile(
        rf"[-_.]?(?:19|20)\d\d([-_.]?)\d\d\1\d\d(?:[-_.T ]?\d\d(?:[-:._h]?\d\d(?:[-:._m]?\d\d)?)?)?{_ENDING}?\d*$"
    ),
    re.compile(rf"[-_.]?\d{{10}}{_ENDING}?\d*$"),
)
_COUNTER = re.compile(rf"[-_.]?\d+{_ENDING}?$")
"""A plain counter: trace-001.pcap, trace1."""


def rotation_stem(uri: str) -> str:
    """Returns the common part of the names of rotated files: the path without counter and time.

    It knows the names of tcpdump's -C, -G and -W, of Wireshark's ring buffer, and a plain counter at the end.
    """
    folder, name = os.path.split(_COMPRESSED.sub("", uri))
    stem = name
    for rotation in _ROTATIONS:
        stem = rotation.sub(_ending, stem, count=1)
    return os.path.join(folder, _COUNTER.sub(_ending, name, count=1) if stem == name else stem)


def _ending(match: re.Match[str]) -> str:
    return match.group("ending") or ""
