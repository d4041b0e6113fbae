"""Images of the ISCX VPN-nonVPN set by Wang et al. ("End-to-end Encrypted Traffic Classification with 1D CNN", 2017).

An image is the first 784 bytes of a session or flow. `L7` images are payload alone. `AllLayers` images are the first
bytes of a pcap file: its header reveals the tunnel (link type 1 without a VPN, 101 in most captures with one), record
headers reveal the time, and frames reveal hosts. So by default only IP packets stay, one behind the other, with
addresses zeroed; the image's end cuts the last one, and a piece of a record header there is removed. `mask="strict"`
also zeroes all else that identifies a connection or a host, also in quoted packets and in payload of services that name
hosts (`transforms.packets.header_masks.clear_connection`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.arrow.rows import image_schema, with_published_labels
from flowloom.schemas.corpus.published_sources import Header, Mask
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import column, repeated_text, text_column
from flowloom.transforms.arrays.kernels import copy_bytes, u16
from flowloom.transforms.captures.pcap import PCAP_HEADER
from flowloom.transforms.captures.records import MAX_RECORD_BYTES, u32
from flowloom.transforms.packets.header_masks import clear_addresses, clear_connection, clear_within
from flowloom.transforms.packets.link_layer import network_header
from flowloom.transforms.published.published_files import PublishedFile, published_files
from flowloom.transforms.published.published_rejects import Rejects

TRAFFIC = ("chat", "email", "file", "p2p", "streaming", "voip")
"""Labels of the six classes, in the order of their numbers."""
TUNNELS = ("plain", "vpn")
TRAFFIC_TASK, TUNNEL_TASK, BOTH_TASK = "traffic", "tunnel", "tunnel_traffic"

_MASKS: tuple[Mask, ...] = get_args(Mask)

BATCH_ROWS = 4096

_IMAGES, _LABELS = b"\0\0\x08\x03", b"\0\0\x08\x01"
_PCAP = 0xA1B2C3D4
_ADDRESSES, _STRICT = _MASKS.index("addresses"), _MASKS.index("strict")
_ETHERNET = 1
_GOOD, _NO_PCAP, _BROKEN, _NO_PACKET = 0, 1, 2, 3
_WRONG = {
    _NO_PCAP: "expected a pcap file's beginning, as the first image of the file has",
    _BROKEN: f"a record header claims more than {MAX_RECORD_BYTES} captured bytes",
    _NO_PACKET: "none of the records inside is an IP packet",
}


def read_iscx_images(
    images: str,
    labels: str,
    rejects: Rejects,
    *,
    classes: int,
    tunnel: str | None = None,
    header: Header = "strip",
    mask: Mask = "addresses",
) -> Iterator[pa.RecordBatch]:
    """Returns an iterator over the rows of one pair of idx files.

    Args:
      images, labels: idx files of uint8 [rows, 28, 28] and [rows].
      classes: number of classes: 2 (plain, VPN), 6 (`TRAFFIC`), or 12 (`TRAFFIC`, then `TRAFFIC` over VPN).
      tunnel: for 6 classes one of `TUNNELS`, if all rows are of one.
      header: `keep` leaves pcap, record and frame headers of `AllLayers` images in place.
      mask: bytes that are zeroed in `AllLayers` images. `none`: no byte. `addresses`: IP addresses and, where frames
        are kept, Ethernet addresses and all of frames without an IP packet. `strict`: also all else that identifies a
        connection or a host (`header_masks.clear_connection`).

    Returns:
      Batches of `schemas.arrow.rows.image_schema` with published labels of the kinds `traffic`, `tunnel` and
      `tunnel_traffic`.

    Raises:
      FlowloomError: if `classes`, `tunnel`, `header` or `mask` has another value.
    """
    if classes not in (2, 6, 12):
        raise FlowloomError(f"classes must be 2, 6 or 12, got {classes}")
    if tunnel is not None and (classes != 6 or tunnel not in TUNNELS):
        raise FlowloomError(
            f"tunnel must be one of {', '.join(TUNNELS)} and needs classes 6, got {tunnel!r} with classes {classes}"
        )
    if header not in get_args(Header):
        raise FlowloomError(f"header must be {' or '.join(get_args(Header))}, got {header!r}")
    if mask not in _MASKS:
        raise FlowloomError(f"mask must be one of {', '.join(_MASKS)}, got {mask!r}")
    return _rows(images, labels, rejects, classes, tunnel, header == "strip", mask)


def read_iscx_twelve(
    folder: str, variant: str, rejects: Rejects, *, split: Literal["train", "t10k"] = "train",
    header: Header = "strip", mask: Mask = "addresses",
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """Yields the rows of a 12-class set from the two 6-class sets that it was made of.

    The published 12-class images are those of `6class/Novpn<variant>` and `6class/Vpn<variant>` in another order.

    Args:
      folder: the set's folder, with `6class` in it.
      variant: `SessionAllLayers`, `SessionL7`, `FlowAllLayers` or `FlowL7`.
      header, mask: as of `read_iscx_images`.
    """
    for name, tunnel in (("Novpn", "plain"), ("Vpn", "vpn")):
        place = Path(folder) / "6class" / f"{name}{variant}"
        images, labels = (_stored(place / f"{split}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        yield from read_iscx_images(images, labels, rejects, classes=6, tunnel=tunnel, header=header, mask=mask)


def _stored(path: Path) -> str:
    packed = path.with_name(f"{path.name}.gz")
    return str(packed if packed.exists() else path)


def _rows(
    images: str, labels: str, rejects: Rejects, classes: int, tunnel: str | None, strip: bool, mask: Mask
) -> Iterator[pa.RecordBatch]:
    for file in published_files(images, rejects):
        content = _idx(file, _IMAGES, rejects)
        numbers = [_idx(other, _LABELS, rejects) for other in published_files(labels, rejects)]
        if content is None or not numbers or numbers[0] is None:
            continue
        rows, label = content.reshape(len(content), -1), numbers[0]
        if len(rows) != len(label):
            detail = f"expected a label for each of {len(rows)} images, got {len(label)} labels"
            rejects.add(file.uri, [0], RejectReason.OTHER_FORMAT, detail)
            continue
        length = rows.shape[1]
        layers = len(rows) > 0 and length > PCAP_HEADER and _begins_pcap(rows[0], 0)
        for at in range(0, len(rows), BATCH_ROWS):
            positions = np.arange(at, min(at + BATCH_ROWS, len(rows)))
            chosen, state = rows[positions], np.zeros(len(positions), np.uint8)
            if layers:
                published, chosen = chosen, np.zeros_like(chosen)
                _take_apart(published.ravel(), length, strip, _MASKS.index(mask), chosen.ravel(), state)
            for wrong, detail in _WRONG.items():
                rejects.add(file.uri, positions[state == wrong], RejectReason.BAD_ROW, detail)
            unknown = (state == _GOOD) & (label[positions] >= classes)
            detail = f"expected a label below {classes}"
            rejects.add(file.uri, positions[unknown], RejectReason.BAD_ROW, detail)
            good = (state == _GOOD) & ~unknown
            yield _batch(file, positions[good], chosen[good], label[positions[good]], classes, tunnel)


def _batch(
    file: PublishedFile, positions: np.ndarray, images: np.ndarray, label: np.ndarray, classes: int, tunnel: str | None
) -> pa.RecordBatch:
    length = images.shape[1]
    arrays = [file.ids(positions), repeated_text(file.group, len(positions)), column(images, pa.binary(length))]
    labels: dict[str, pa.Array] = {}
    if classes != 2:
        labels[TRAFFIC_TASK] = _named(TRAFFIC, label % 6)
    if classes == 2:
        labels[TUNNEL_TASK] = _named(TUNNELS, label)
    elif classes == 12 or tunnel is not None:
        over = label // 6 if classes == 12 else np.full(len(label), TUNNELS.index(str(tunnel)))
        labels[TUNNEL_TASK] = _named(TUNNELS, over)
        labels[BOTH_TASK] = _named((*TRAFFIC, *(f"vpn-{traffic}" for traffic in TRAFFIC)), over * 6 + label % 6)
    return pa.RecordBatch.from_arrays(
        [*arrays, *labels.values()], schema=with_published_labels(image_schema(length), labels)
    )


def _named(vocabulary: tuple[str, ...], codes: np.ndarray) -> pa.Array:
    return text_column(vocabulary).take(column(codes.astype(np.int64), pa.int64()))


def _idx(file: PublishedFile, magic: bytes, rejects: Rejects) -> np.ndarray | None:
    """Returns the uint8 array of an idx file; missing rows are rejects."""
    content = file.read(rejects)
    if content is None:
        return None
    start = 4 + 4 * magic[3]
    if content[:4] != magic or len(content) < start:
        detail = f"expected an idx file of uint8 with {magic[3]} dimensions, it starts with {content[:4]!r}"
        rejects.add(file.uri, [0], RejectReason.OTHER_FORMAT, detail)
        return None
    rows, *shape = np.frombuffer(content, ">u4", magic[3], 4).tolist()
    width = int(np.prod(shape, dtype=np.int64))
    whole = min((len(content) - start) // width, rows) if width else 0
    if whole < rows:
        detail = f"the file ends inside this row, {rows - whole} of {rows} are missing"
        rejects.add(file.uri, [whole], RejectReason.CUT_OFF, detail)
    return np.frombuffer(content, np.uint8, whole * width, start).reshape(whole, *shape)


@numba.njit(nogil=True, cache=True)
def _begins_pcap(content, at):
    return u32(content, at, True) == _PCAP or u32(content, at, False) == _PCAP


@numba.njit(nogil=True, cache=True)
def _take_apart(content, length, strip, mask, out, state):
    """Writes images into zeroed rows, with or without headers, and the state of each."""
    for row in range(len(state)):
        start = row * length
        limit = start + length
        if not _begins_pcap(content, start):
            state[row] = _NO_PCAP
            continue
        big_endian = u32(content, start, True) == _PCAP
        link_type = u32(content, start + 20, big_endian) & 0xFFFF
        if not strip:
            copy_bytes(out, start, content, start, length)
        written = start
        packets = 0
        at = start + PCAP_HEADER
        while at + 16 <= limit:
            captured = u32(content, at + 8, big_endian)
            if captured > MAX_RECORD_BYTES:
                state[row] = _BROKEN
                break
            if captured == 0 and u32(content, at, big_endian) == 0:  # padding
                break
            frame = at + 16
            end = min(frame + captured, limit)
            network, _ = network_header(content, frame, end, link_type)
            if not strip and mask >= _ADDRESSES and link_type == _ETHERNET:
                clear_within(out, frame, end - frame, 0, 12)
                if not 0 <= network < end:  # ARP holds addresses, too
                    clear_within(out, frame, end - frame, 14, end - frame)
            if 0 <= network < end and content[network] >> 4 in (4, 6):
                packets += 1
                four = content[network] >> 4 == 4
                place, size = network, end - network
                if strip:
                    if size >= 6:  # a short frame is padded behind its packet
                        stated = u16(content, network + 2) if four else u16(content, network + 4) + 40
                        if stated > (0 if four else 40):
                            size = min(size, stated)
                    copy_bytes(out, written, content, network, size)
                    place = written
                    written += size
                if mask >= _ADDRESSES:
                    clear_addresses(out, place, size)
                if mask == _STRICT:
                    clear_connection(out, place, size)
            at = frame + captured
        if state[row] == _GOOD and packets == 0:
            state[row] = _NO_PACKET
