"""NumPy archives of weights, read whole so that the CRC-32 of every array is verified."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flowloom.schemas.errors import FlowloomError


def read_arrays(path: Path, remedy: str) -> Mapping[str, np.ndarray]:
    """Returns the arrays of an `.npz` file by name.

    NumPy verifies a CRC-32 only if an array's header asks for all bytes of the array. Compressed archives, which NumPy
    writes only on demand and which may expand to any size, are refused.

    Args:
      remedy: what a user does about a damaged file.

    Raises:
      FlowloomError: if the file is missing or damaged.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"array {entry.filename} must be stored without compression")
                content = io.BytesIO(archive.read(entry))
                arrays[entry.filename.removesuffix(".npy")] = np.lib.format.read_array(content, allow_pickle=False)
                if content.read(1):
                    raise ValueError(f"array {entry.filename} must end with its last value")
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise FlowloomError(f"{path} is damaged or cannot be read ({error}); {remedy}") from None
    return arrays
