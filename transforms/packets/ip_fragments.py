"""IP fragments, joined by source, destination, identification and, in IPv4, protocol.

Times are by the clock of the capture group, so that packets out of order do not matter. Sources: RFC 791, section 3.2;
RFC 8200, section 4.5.
"""

from collections.abc import Callable
from typing import Self

import numba
import numpy as np

from flowloom.transforms.arrays.hash_table import HASH_KEY, keyed_hash

LIFETIME_NS = 30 * 1_000_000_000
"""Time that a first fragment waits for the others, 30 s as in Linux (ipfrag_time); RFC 8200 allows 60 s."""

_ENTRY = np.dtype(
    [
        ("used", np.uint8),
        ("src_0", np.uint64),
        ("src_1", np.uint64),
        ("dst_0", np.uint64),
        ("dst_1", np.uint64),
        ("key_protocol", np.uint8),
        ("ip_id", np.uint32),
        ("protocol", np.uint8),
        ("src_port", np.uint16),
        ("dst_port", np.uint16),
        ("icmp", np.uint32),
        ("clock_ns", np.int64),
    ]
)
_FIRST_SLOTS = 64


class IpFragmentTable:
    """Table of first fragments within `LIFETIME_NS`, whose number bounds the memory.

    Args:
      earlier: returns the table as it was before the first packet; None if nothing lies before. It is called at most
        once, when the first fragment of a later one is missing.
      clock_known: whether the clock of the first packet counts all records before it. If it does not, `earlier` tells
        what it lacks, and first fragments are kept until then.

    Attributes:
      clock_ns: the latest time before the first packet, as far as it is known.
    """

    def __init__(self, earlier: Callable[[], Self] | None = None, *, clock_known: bool = True) -> None:
        self.clock_ns = np.iinfo(np.int64).min
        self._earlier = earlier
        self._keeps_all = earlier is not None and not clock_known
        self._entries = np.zeros(_FIRST_SLOTS, _ENTRY)
        self._used = 0

    def join(self, columns: dict[str, np.ndarray], first: np.ndarray, later: np.ndarray) -> np.ndarray:
        """Writes the protocol, ports and ICMP message of first fragments into their later ones.

        Args:
          columns: a chunk of packets by `schemas.arrow.rows.PACKETS`; protocol, ports and `icmp` are written.
          first, later: bool masks over its rows.

        Returns:
          bool mask of the later fragments whose first fragment is known.
        """
        key_protocol = np.where(columns["ip_version"] == 4, columns["protocol"], np.uint8(0))
        coming = int(np.count_nonzero(first))
        # room first: what waited too long by the end of this chunk may still be waited for at its beginning
        self._make_room(coming, int(columns["clock_ns"][0]))
        saved = self._entries.copy() if self._earlier is not None and later.any() else None
        joined = self._joined(columns, key_protocol, first, later)
        if saved is not None and (later & ~joined).any():
            self._entries = saved
            self._look_back(coming)
            joined = self._joined(columns, key_protocol, first, later)
        return joined

    def _joined(
        self, columns: dict[str, np.ndarray], key_protocol: np.ndarray, first: np.ndarray, later: np.ndarray
    ) -> np.ndarray:
        joined, added = _join(
            self._entries, first, later, columns["src_ip"], columns["dst_ip"], key_protocol, columns["ip_id"],
            np.maximum(columns["clock_ns"], self.clock_ns), columns["protocol"], columns["src_port"],
            columns["dst_port"], columns["icmp"], HASH_KEY,
        )  # fmt: skip
        self._used += added
        return joined

    def _look_back(self, coming: int) -> None:
        """Adds the first fragments that were there before the first packet, and the clock of that time."""
        assert self._earlier is not None
        before = self._earlier()
        self._earlier, self._keeps_all = None, False
        self.clock_ns = before.clock_ns
        self._entries["clock_ns"] = np.maximum(self._entries["clock_ns"], self.clock_ns)
        self._used = int(np.count_nonzero(self._entries["used"]))
        self._make_room(before._used + coming, self.clock_ns)
        _insert_new(self._entries, before._entries[before._entries["used"] == 1], HASH_KEY)
        self._used = int(np.count_nonzero(self._entries["used"]))

    def _make_room(self, coming: int, clock_ns: int) -> None:
        """Makes room for `coming` more entries in a table at most half full, without those that waited too long."""
        if (self._used + coming) * 2 <= len(self._entries):
            return
        kept = self._entries[self._entries["used"] == 1]
        if not self._keeps_all:
            kept = kept[kept["clock_ns"] >= max(clock_ns, self.clock_ns) - LIFETIME_NS]
        capacity = len(self._entries)
        while (len(kept) + coming) * 2 > capacity:
            capacity *= 2
        self._entries = np.zeros(capacity, _ENTRY)
        _insert_new(self._entries, kept, HASH_KEY)
        self._used = len(kept)


@numba.njit(nogil=True, cache=True)
def _slot(entries, src_0, src_1, dst_0, dst_1, key_protocol, ip_id, hash_key):
    """Returns the slot that holds a datagram's first fragment, or the free slot where it belongs."""
    mask = np.uint64(len(entries) - 1)
    slot = keyed_hash(hash_key, src_0, src_1, dst_0, dst_1, np.uint64(ip_id), np.uint64(key_protocol)) & mask
    while True:
        entry = entries[slot]
        if entry.used == 0 or (
            entry.src_0 == src_0
            and entry.src_1 == src_1
            and entry.dst_0 == dst_0
            and entry.dst_1 == dst_1
            and entry.key_protocol == key_protocol
            and entry.ip_id == ip_id
        ):
            return slot
        slot = (slot + np.uint64(1)) & mask


@numba.njit(nogil=True, cache=True)
def _insert_new(entries, kept, hash_key):
    """Adds entries whose datagram is not there yet."""
    for i in range(len(kept)):
        e = kept[i]
        slot = _slot(entries, e.src_0, e.src_1, e.dst_0, e.dst_1, e.key_protocol, e.ip_id, hash_key)
        if entries[slot].used == 0:
            entries[slot] = e


@numba.njit(nogil=True, cache=True)
def _join(
    entries, first, later, src, dst, key_protocol, ip_id, clock_ns, protocol, src_port, dst_port, icmp, hash_key
):  # fmt: skip
    joined = np.zeros(len(first), np.bool_)
    added = 0
    for i in range(len(first)):
        if not (first[i] or later[i]):
            continue
        slot = _slot(entries, src[i, 0], src[i, 1], dst[i, 0], dst[i, 1], key_protocol[i], ip_id[i], hash_key)
        entry = entries[slot]
        if first[i]:
            added += 1 - entry.used
            entry.used = 1
            entry.src_0, entry.src_1 = src[i, 0], src[i, 1]
            entry.dst_0, entry.dst_1 = dst[i, 0], dst[i, 1]
            entry.key_protocol, entry.ip_id = key_protocol[i], ip_id[i]
            entry.protocol, entry.src_port, entry.dst_port = protocol[i], src_port[i], dst_port[i]
            entry.icmp, entry.clock_ns = icmp[i], clock_ns[i]
        elif entry.used and clock_ns[i] - entry.clock_ns <= LIFETIME_NS:
            protocol[i] = entry.protocol
            src_port[i] = entry.src_port
            dst_port[i] = entry.dst_port
            icmp[i] = entry.icmp
            joined[i] = True
    return joined, added
