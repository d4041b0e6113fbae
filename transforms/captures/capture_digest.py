"""Capture digests: BLAKE3 over the BLAKE3 digests of leaves of 1 MiB, so that readers of ranges share the work.

A leaf belongs to the range in which its first byte lies. The digest is therefore found in the pass that meters a
capture, and is the same for any ranges. Of a compressed capture it covers the stored bytes.
"""

import collections
import dataclasses
from collections.abc import Iterable

from blake3 import blake3

LEAF_BYTES = 1 << 20
"""Bytes of a leaf; the last of a capture may be shorter."""

_DIGEST_BYTES = 32


@dataclasses.dataclass(frozen=True)
class CaptureLeaves:
    """Digests of consecutive leaves of a capture.

    Attributes:
      first: number of the first leaf in the capture.
      digests: 32 bytes for each leaf.
    """

    uri: str
    first: int
    digests: bytes


class LeafHasher:
    """Digests the leaves of one range of a capture, while its bytes pass by in order.

    Args:
      start: byte at which the bytes begin.
      stop: byte at or behind which no leaf of the range begins; None = the capture's end.
    """

    def __init__(self, start: int = 0, stop: int | None = None):
        self.first = leaves_before(start)
        self._skip = self.first * LEAF_BYTES - start
        self._leaves = None if stop is None else max(leaves_before(stop) - self.first, 0)
        self._leaf = blake3()
        self._filled = 0
        self._digests = bytearray()

    @property
    def complete(self) -> bool:
        """True if no further byte is wanted; never of a range without `stop`, which ends with the capture."""
        return self._leaves is not None and len(self._digests) >= self._leaves * _DIGEST_BYTES

    def update(self, stored: memoryview) -> None:
        """Adds the next bytes."""
        skipped = min(self._skip, len(stored))
        self._skip -= skipped
        stored = stored[skipped:]
        while len(stored) and not self.complete:
            piece = stored[: LEAF_BYTES - self._filled]
            self._leaf.update(piece)
            self._filled += len(piece)
            if self._filled == LEAF_BYTES:
                self._end_leaf()
            stored = stored[len(piece) :]

    def leaves(self, uri: str) -> CaptureLeaves:
        """Returns the leaves up to the last byte, which must be the capture's last if they are not `complete`."""
        if self._filled:
            self._end_leaf()
        return CaptureLeaves(uri, self.first, bytes(self._digests))

    def _end_leaf(self) -> None:
        self._digests += self._leaf.digest()
        self._leaf.reset()
        self._filled = 0


def leaves_before(place: int) -> int:
    """Returns the number of leaves that begin before a byte of a capture."""
    return -(-place // LEAF_BYTES)


def join_leaves(parts: Iterable[CaptureLeaves], sizes: dict[str, int]) -> dict[str, str]:
    """Returns the hexadecimal digest of each capture, by uri; none of a capture that lacks a leaf.

    Args:
      parts: the leaves of all ranges, in any order.
      sizes: bytes of each capture as stored, by uri.
    """
    by_uri: dict[str, list[CaptureLeaves]] = collections.defaultdict(list)
    for part in parts:
        by_uri[part.uri].append(part)
    joined = {uri: _in_order(found) for uri, found in by_uri.items()}
    return {
        uri: blake3(leaves).hexdigest()
        for uri, leaves in joined.items()
        if leaves is not None and len(leaves) == leaves_before(sizes[uri]) * _DIGEST_BYTES
    }


def _in_order(parts: Iterable[CaptureLeaves]) -> bytes | None:
    """Returns the digests of consecutive leaves, None if one is missing or there twice."""
    digests = bytearray()
    for part in sorted(parts, key=lambda part: (part.first, len(part.digests))):
        if part.digests and part.first * _DIGEST_BYTES != len(digests):
            return None
        digests += part.digests
    return bytes(digests)
