"""CPU cycles of this process: counted where the machine permits, otherwise estimated from CPU time."""

import ctypes
import os
import platform
import re
import struct
import time
from pathlib import Path

PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
"""Number of the system call perf_event_open(2) by architecture."""
PERF_ATTRIBUTES = struct.pack("IIQQQQQ", 0, 112, 0, 0, 0, 0, 1 << 1 | 1 << 5 | 1 << 6) + bytes(64)
"""struct perf_event_attr: hardware cycles, 112 bytes, inherited by later threads, without the kernel's cycles."""


class CycleCounter:
    """Counter of the cycles of this process and the threads that it starts later; make it before them."""

    source: str | None
    """`perf_event`: counted in user space. `nominal <GHz> GHz`: CPU time at that rate. None: unknown."""

    def __init__(self) -> None:
        self._file = _open_counter()
        self._rate = nominal_ghz()
        nominal = f"nominal {self._rate:.3g} GHz" if self._rate else None
        self.source = nominal if self._file is None else "perf_event"

    def read(self) -> int:
        """Returns the cycles so far; 0 if they are unknown."""
        if self._file is not None:
            return int.from_bytes(os.read(self._file, 8), "little")
        return int(time.process_time_ns() * (self._rate or 0.0))


def nominal_ghz(root: Path = Path("/")) -> float | None:
    """Returns the nominal rate of the processor, or its current rate; None if neither is known.

    Args:
      root: folder of `proc` and `sys`.
    """
    base = root / "sys/devices/system/cpu/cpu0/cpufreq/base_frequency"
    if base.is_file():
        return int(base.read_text()) / 1e6
    described = (root / "proc/cpuinfo").read_text() if (root / "proc/cpuinfo").is_file() else ""
    if named := re.search(r"^model name.*@ ([\d.]+)GHz", described, re.MULTILINE):
        return float(named[1])
    running = re.search(r"^cpu MHz\s*: ([\d.]+)", described, re.MULTILINE)
    return float(running[1]) / 1e3 if running else None


def _open_counter() -> int | None:
    """Returns the file descriptor of a cycle counter; None if the kernel or the machine has none."""
    number = PERF_EVENT_OPEN.get(platform.machine())
    if number is None or platform.system() != "Linux":
        return None
    attributes = ctypes.create_string_buffer(PERF_ATTRIBUTES, len(PERF_ATTRIBUTES))
    file = ctypes.CDLL(None, use_errno=True).syscall(number, attributes, 0, -1, -1, 0)
    return file if file >= 0 else None
