"""Session bytes: the first bytes of a flow's packets, one behind the other, as one row of a stated length.

The form of Wang et al. ("End-to-end Encrypted Traffic Classification with 1D CNN", 2017: 784 bytes), as
`published_iscx.py` gives it: IP packets as they were captured, without anything below IP, addresses zeroed.
"""

from collections.abc import Sequence

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.rows import SESSION_PIECES, image_schema
from flowloom.transforms.columns import column, repeated_text, view
from flowloom.transforms.kernels import clear_bytes, copy_bytes
from flowloom.transforms.packet_flows import RangeFlows
from flowloom.transforms.packets import PacketPlaces

SESSION_BYTES = 784


class SessionCutter:
    """Cuts pieces of session images out of the packets of one range.

    Memory is 8 bytes per flow of the range. A flow that an earlier range began has its own pieces here, too many where
    the earlier ones fill the image; `join_sessions` decides.

    Args:
      length: bytes of an image.
    """

    def __init__(self, length: int = SESSION_BYTES):
        if length < 1:
            raise FlowloomError(f"the length of a session image must be at least 1, got {length}")
        self._length = length
        self._filled = np.zeros(1 << 10, np.int64)

    def cut(self, packets: pa.RecordBatch, places: PacketPlaces, serials: np.ndarray) -> pa.RecordBatch:
        """Return what packets add to the images of their flows (`schemas.rows.SESSION_PIECES`).

        Args:
          packets, places: what `PacketDecoder.decode_located` gives, in captured order.
          serials: int64 number of each packet's flow in its range, from `FlowMeter.update`.
        """
        most = int(serials.max(initial=-1)) + 1
        if most > len(self._filled):
            self._filled = np.concatenate([self._filled, np.zeros(2 * most - len(self._filled), np.int64)])
        size = np.empty(packets.num_rows, np.int32)
        _measure(places.network, places.end, view(packets["ip_bytes"]), serials, self._filled, self._length, size)
        rows = np.flatnonzero(size)
        offsets = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(size[rows], out=offsets[1:])
        content = np.empty(int(offsets[-1]), np.uint8)
        _copy(places.window, places.network, rows, offsets, content)
        return pa.RecordBatch.from_arrays(
            [column(serials[rows], pa.int64()), _binary(offsets, content)], schema=SESSION_PIECES
        )


def join_sessions(
    pieces: Sequence[pa.RecordBatch], flows: Sequence[RangeFlows], group: str, length: int = SESSION_BYTES
) -> pa.RecordBatch:
    """Return one image per flow, padded with zeros, in the order of flow ids (`schemas.rows.image_schema`).

    Args:
      pieces: those of each range of a group in its order, or those of whole flows among them.
      flows: the flows of each range; pieces of others, which were too short for the dataset, are left out.
      group: the group's name.
      length: bytes of an image, as they were cut to.
    """
    ids, contents = [np.empty((0, 2), np.uint64)], [SESSION_PIECES.empty_table()["content"].combine_chunks()]
    for part, of_range in zip(pieces, flows, strict=True):
        at = of_range.find(view(part["serial"]))
        kept = np.flatnonzero(at >= 0)
        ids.append(view(of_range.flow_ids)[at[kept]])
        contents.append(part["content"].take(column(kept, pa.int64())))
    words, content = np.concatenate(ids), pa.concat_arrays(contents)
    order = np.lexsort((words[:, 1].byteswap(), words[:, 0].byteswap()))  # stable: pieces of a flow stay in order
    words = words[order]
    first = np.ones(len(words), np.bool_)
    first[1:] = (words[1:] != words[:-1]).any(axis=1)
    images = np.zeros((int(first.sum()), length), np.uint8)
    offsets = np.frombuffer(content.buffers()[1], np.int32)[content.offset : content.offset + len(content) + 1]
    _join(order, first, offsets, np.frombuffer(content.buffers()[2] or b"", np.uint8), images)
    arrays = [column(words[first], pa.binary(16)), repeated_text(group, len(images)), column(images, pa.binary(length))]
    return pa.RecordBatch.from_arrays(arrays, schema=image_schema(length))


def _binary(offsets: np.ndarray, content: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(content)])


@numba.njit(nogil=True, cache=True)
def _measure(network, end, ip_bytes, serials, filled, length, size):
    """Write how many bytes each packet adds to the image of its flow."""
    for i in range(len(network)):
        flow = serials[i]
        packet = min(end[i] - network[i], np.int64(ip_bytes[i]))  # a short frame is padded behind its packet
        size[i] = min(packet, length - filled[flow])
        filled[flow] += size[i]


@numba.njit(nogil=True, cache=True)
def _copy(window, network, rows, offsets, content):
    """Copy the beginnings of packets, with zeros for their addresses."""
    for i in range(len(rows)):
        source, at = network[rows[i]], offsets[i]
        size = offsets[i + 1] - at
        copy_bytes(content, at, window, source, size)
        first, last = (12, 20) if window[source] >> 4 == 4 else (8, 40)
        clear_bytes(content, at + min(first, size), min(last, size) - min(first, size))


@numba.njit(nogil=True, cache=True)
def _join(order, first, offsets, content, images):
    """Write the pieces of each flow behind one another, as far as its image reaches."""
    image = -1
    filled = 0
    for rank in range(len(order)):
        if first[rank]:
            image += 1
            filled = 0
        at = offsets[order[rank]]
        size = min(np.int64(offsets[order[rank] + 1] - at), images.shape[1] - filled)
        for byte in range(size):
            images[image, filled + byte] = content[at + byte]
        filled += size
