"""Start of a process that computes experiments beside other processes, the same on every machine of one kind."""

import importlib.metadata
import platform
from pathlib import Path

from flowloom.trainers.native_logs import native_stderr_muted

_CPUINFO = Path("/proc/cpuinfo")
_KNOWN = _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.is_file() else ""

PINNED = {"ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"} if "avx2" in _KNOWN.split() else {}
"""Environment of the processes: the vector units of matrix products in oneDNN and OpenBLAS, as newer ones round
differently. A processor without AVX2 could not run them.

Exponential functions of the C library and Eigen's products still depend on the processor, so that equal seeds give
equal numbers on one kind of machine alone."""


def one_thread() -> None:
    """Restricts TensorFlow to one thread, so that trials in several processes do not wait for each other.

    Must be called before TensorFlow computes anything. Sums of several threads may differ in the last digit.
    """
    with native_stderr_muted():
        import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def machine() -> dict[str, str]:
    """Returns the processor and the versions of libraries, on which last digits of results depend."""
    names = ("flowloom", "tensorflow", "keras", "numpy", "scikit-learn")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {"processor": processor(), "python": platform.python_version(), **versions}


def processor() -> str:
    """Returns the name of this machine's processor."""
    for line in _KNOWN.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
