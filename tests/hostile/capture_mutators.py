"""Mutations of capture files, each a function of random choices; the same choices give the same file."""

import random
import struct
from collections.abc import Callable

from capture_files import (
    block,
    enhanced,
    ethernet,
    interface,
    ipv4,
    ipv6,
    modified_pcap,
    pcap,
    section,
    simple,
    snoop,
    udp,
)  # fmt: skip
from capture_parts import OTHERS, behind_ip, frame_of, ip_headers, is_pcapng, order_of, record, split_parts
from frame_mutators import FRAMES
from unusual_frames import FRAMES as UNUSUAL

SECONDS = (1, 3, 15, 29, 30, 31, 59, 60, 61, 119, 120, 121, 1000, 86_401)
LENGTHS = (0, 1, 4, 8, 12, 16, 20, 28, 31, 32, 33, 65_535, 262_144, 262_145, 1 << 24, (1 << 24) + 4, 2**31, 2**32 - 1)
RESOLUTIONS = (None, 0, 6, 9, 12, 28, 29, 0x80, 0x8A, 0xA0, 0xA8, 0xB4, 0xBF, 0xC0, 0xFF)
LINK_TYPES = (*sorted({link_type for link_type, _ in UNUSUAL.values()}), 1, 101, 113, 147, 276, 65_535)


class Mutable:
    """A capture file as parts that can be changed."""

    def __init__(self, data: bytes):
        self.order = order_of(data)
        self.pcapng = is_pcapng(data)
        self.frames_known = data[:4] not in OTHERS
        self.parts = split_parts(data)

    def data(self) -> bytes:
        """Returns the file."""
        return b"".join(self.parts)

    def records(self) -> list[int]:
        """Returns the numbers of the parts with a frame."""
        if not self.frames_known:
            return []
        begin = 0 if self.pcapng else 1
        return [
            number
            for number in range(begin, len(self.parts))
            if frame_of(self.parts[number], self.order, pcapng=self.pcapng)[1]
        ]

    def frame(self, number: int) -> bytes:
        """Returns the frame of a part."""
        begin, end = frame_of(self.parts[number], self.order, pcapng=self.pcapng)
        return self.parts[number][begin:end]

    def set_frame(self, number: int, frame: bytes) -> None:
        """Replaces the frame of a part, lengths included."""
        self.parts[number] = record(self.parts[number], frame, self.order, pcapng=self.pcapng)


Mutation = Callable[[random.Random, Mutable], None]


def any_part(draws: random.Random, file: Mutable) -> int:
    """Returns the number of a part."""
    return draws.randrange(len(file.parts))


def bits(draws: random.Random, file: Mutable) -> None:
    """Flips a few bits."""
    number = any_part(draws, file)
    part = bytearray(file.parts[number])
    for _ in range(draws.choice((1, 1, 1, 2, 8))):
        if part:
            part[draws.randrange(len(part))] ^= 1 << draws.randrange(8)
    file.parts[number] = bytes(part)


def head_bytes(draws: random.Random, file: Mutable) -> None:
    """Replaces a byte within the first bytes of a part."""
    number = any_part(draws, file)
    part = bytearray(file.parts[number])
    if part:
        part[draws.randrange(min(len(part), 40))] = draws.choice((0, 1, 4, 6, 0x7F, 0x80, 0xFF, draws.randrange(256)))
    file.parts[number] = bytes(part)


def truncate(draws: random.Random, file: Mutable) -> None:
    """Cuts the file off at any byte, or inserts or removes bytes."""
    number = any_part(draws, file)
    part = file.parts[number]
    at = draws.randrange(len(part) + 1)
    kind = draws.random()
    if kind < 0.5:
        file.parts[number:] = [part[:at]]
    elif kind < 0.75:
        file.parts[number] = part[:at] + draws.randbytes(draws.choice((1, 2, 4, 8))) + part[at:]
    else:
        file.parts[number] = part[:at] + part[at + draws.choice((1, 2, 4, 16)) :]


def lengths(draws: random.Random, file: Mutable) -> None:
    """Changes a length field of a record or block."""
    number = any_part(draws, file)
    part = bytearray(file.parts[number])
    places = (4, 8, 20, 24, len(part) - 4) if file.pcapng else (8, 12)
    at = draws.choice(places)
    if 0 <= at <= len(part) - 4:
        (value,) = struct.unpack_from(file.order + "I", part, at)
        value = draws.choice((*LENGTHS, value + 1, value + 4, max(value - 1, 0), max(value - 4, 0), value // 2))
        struct.pack_into(file.order + "I", part, at, value & 0xFFFFFFFF)
        if file.pcapng and at == 4 and draws.random() < 0.7:
            struct.pack_into(file.order + "I", part, len(part) - 4, value & 0xFFFFFFFF)
    file.parts[number] = bytes(part)


def captured(draws: random.Random, file: Mutable) -> None:
    """Cuts a frame off, with consistent lengths and the original wire length."""
    chosen = file.records()
    if not chosen:
        return
    number = draws.choice(chosen)
    frame = file.frame(number)
    headers = ip_headers(frame)
    inside = behind_ip(frame, draws.choice(headers)) + draws.randrange(21) if headers else 14
    keep = draws.choice((draws.randrange(len(frame) + 1), draws.choice((13, 14, 33, 34, 35, 38)), inside))
    before = file.parts[number]
    file.set_frame(number, frame[:keep])
    if not file.pcapng:
        part = file.parts[number]
        file.parts[number] = part[:12] + before[12:16] + part[16:]
    elif frame_of(before, file.order, pcapng=True)[0] == 28:
        part = file.parts[number]
        file.parts[number] = part[:24] + before[24:28] + part[28:]


def times(draws: random.Random, file: Mutable) -> None:
    """Moves the time of a record, or of all records behind it, forwards or backwards."""
    chosen = file.records()
    if not chosen:
        return
    number = draws.choice(chosen)
    many = draws.random() < 0.3
    moved = draws.choice(SECONDS) * draws.choice((1, -1))
    extreme = draws.choice((0, 0xFFFFFFFF, None, None, None, None, None))
    for at in [each for each in chosen if each >= number] if many else [number]:
        part = bytearray(file.parts[at])
        if file.pcapng:
            if frame_of(bytes(part), file.order, pcapng=True)[0] != 28:
                continue
            high, low = struct.unpack_from(file.order + "II", part, 12)
            ticks = ((high << 32) + low + moved * draws.choice((10**6, 10**9))) & (2**64 - 1)
            if extreme is not None and not many:
                ticks = extreme * (2**32 + 1)
            struct.pack_into(file.order + "II", part, 12, ticks >> 32, ticks & 0xFFFFFFFF)
        else:
            (seconds,) = struct.unpack_from(file.order + "I", part)
            seconds = extreme if extreme is not None and not many else (seconds + moved) & 0xFFFFFFFF
            struct.pack_into(file.order + "I", part, 0, seconds)
            if draws.random() < 0.1:
                struct.pack_into(file.order + "I", part, 4, draws.choice((0, 999_999_999, 10**9, 2**32 - 1)))
        file.parts[at] = bytes(part)


def order_records(draws: random.Random, file: Mutable) -> None:
    """Repeats, removes, swaps or moves records."""
    number, other = any_part(draws, file), any_part(draws, file)
    kind = draws.randrange(5)
    if kind == 0:
        file.parts.insert(number, file.parts[other])
    elif kind == 1 and len(file.parts) > 1:
        del file.parts[number]
    elif kind == 2:
        file.parts[number], file.parts[other] = file.parts[other], file.parts[number]
    elif kind == 3:
        file.parts.insert(number, file.parts.pop(other))
    else:
        file.parts[number:number] = file.parts[number : number + 3] * draws.choice((1, 2, 9))


def header_fields(draws: random.Random, file: Mutable) -> None:
    """Changes link type, byte order, resolution or version in the file's header, or adds a pcapng block."""
    if file.pcapng:
        number = draws.randrange(len(file.parts) + 1)
        file.parts.insert(number, _extra_block(draws, file.order))
        return
    header = bytearray(file.parts[0].ljust(24, b"\0"))
    kind = draws.randrange(3)
    if kind == 0:
        struct.pack_into(file.order + "I", header, 20, draws.choice(LINK_TYPES) | draws.choice((0, 0, 0x54000000)))
    elif kind == 1:
        header[:4] = draws.choice((header[3::-1], b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x0a\x0d\x0d\x0a"))
    else:
        header[draws.randrange(24)] ^= 1 << draws.randrange(8)
    file.parts[0] = bytes(header)


def sections(draws: random.Random, file: Mutable) -> None:
    """Begins another section or interface in front of a record of a pcapng file, mostly one like the first."""
    chosen = file.records()
    if not file.pcapng or not chosen:
        header_fields(draws, file)
        return
    number = draws.choice(chosen)
    new = interface(draws.choice((1, 1, 101, 113)), resolution=draws.choice((6, 9, 9)), order=file.order)
    if draws.random() < 0.6:
        new = section(file.order) + new
        if draws.random() < 0.7:
            new += interface(1, offset_s=-5, order=file.order)
    else:  # packets behind it name the interface
        for at in [each for each in chosen if each >= number][: draws.choice((1, 9))]:
            part = bytearray(file.parts[at])
            if frame_of(bytes(part), file.order, pcapng=True)[0] == 28:
                struct.pack_into(file.order + "H", part, 8 if file.order == "<" else 10, draws.choice((1, 2)))
            file.parts[at] = bytes(part)
    file.parts.insert(number, new)


def _extra_block(draws: random.Random, order: str) -> bytes:
    kind = draws.randrange(6)
    if kind == 0:
        other = draws.choice("<>")
        return section(other) + interface(draws.choice(LINK_TYPES), resolution=draws.choice((6, 9, 0x9E)), order=other)
    if kind == 1:
        return interface(
            draws.choice(LINK_TYPES), resolution=draws.choice(RESOLUTIONS),
            offset_s=draws.choice((None, 0, 1, -1, -(2**40), 2**62, -(2**63))),
            snap=draws.choice((0, 0, 1, 20, 34, 60, 2**31)), order=order,
        )  # fmt: skip
    if kind == 2:  # unknown blocks, name resolution, statistics, custom
        return block(
            draws.choice((4, 5, 9, 0xBAD, 0x40000BAD, 0x0A0D0D0B)), draws.randbytes(draws.randrange(40)), order
        )
    packet = ethernet(ipv4(udp(bytes(draws.randrange(20))), protocol=17))
    if kind == 3:
        return simple(packet + bytes(-len(packet) % 4), draws.choice((len(packet), 0, 20, 1 << 20)), order)
    if kind == 4:
        ticks = draws.choice((0, 1, 2**32 - 1, 2**63, 2**64 - 1, draws.getrandbits(64)))
        return enhanced(packet, ticks, interface_id=draws.choice((0, 0, 1, 2, 2**32 - 1)), order=order)
    options = struct.pack(order + "HH", draws.choice((9, 14, 0, 2, 9)), draws.choice((0, 1, 2, 8, 9, 40, 65_535)))
    return block(
        1, struct.pack(order + "HHI", 1, 0, 0) + options + draws.randbytes(draws.choice((0, 1, 4, 8, 12))), order
    )


def frames(draws: random.Random, file: Mutable) -> None:
    """Changes fields of an Ethernet, IP, TCP, UDP or tunnel header."""
    chosen = file.records()
    if not chosen:
        return
    number = draws.choice(chosen)
    frame = bytearray(file.frame(number))
    for _ in range(draws.choice((1, 1, 2, 3))):
        if frame:
            draws.choice(FRAMES)(draws, frame)
    file.set_frame(number, bytes(frame))


def connection(draws: random.Random, file: Mutable) -> None:
    """Repeats a TCP packet behind itself as others of its five-tuple: with other flags and sequence numbers."""
    chosen = [number for number in file.records() if _tcp_header(file.frame(number)) is not None]
    if not chosen:
        return
    number = draws.choice(chosen)
    template, frame = file.parts[number], file.frame(number)
    at = _tcp_header(frame)
    for _ in range(draws.choice((2, 3, 5))):
        copy = bytearray(frame)
        copy[at + 4 : at + 8] = struct.pack(">I", draws.choice((1, 1, 2)))
        copy[at + 13] = draws.choice((0x02, 0x02, 0x02, 0x12, 0x10, 0x11, 0x04))
        repeated = record(template, bytes(copy), file.order, pcapng=file.pcapng)
        file.parts.insert(draws.randrange(number, min(number + 8, len(file.parts))) + 1, repeated)


def _tcp_header(frame: bytes) -> int | None:
    """Returns where the TCP header of the outermost IPv4 packet begins; None for other frames."""
    found = ip_headers(frame)
    if not found or frame[found[0]] >> 4 != 4 or frame[found[0] + 9] != 6:
        return None
    at = behind_ip(frame, found[0])
    return at if at + 14 <= len(frame) else None


def fragment(draws: random.Random, file: Mutable) -> None:
    """Replaces an IP datagram by two or three fragments, in any order, sometimes one missing or twice."""
    chosen = [number for number in file.records() if ip_headers(file.frame(number))]
    if not chosen:
        return
    number = draws.choice(chosen)
    frame = file.frame(number)
    at = draws.choice(ip_headers(frame))
    behind, version = behind_ip(frame, at), frame[at] >> 4
    content, cut = frame[behind:], draws.choice((8, 16, 24))
    pieces = []
    for begin in range(0, max(min(len(content), 3 * cut), 1), cut):
        more, piece = begin + cut < len(content), content[begin : begin + cut]
        header = bytearray(frame[at:behind])
        if version == 4:
            struct.pack_into(
                ">HHH", header, 2, len(header) + len(piece), draws.choice((7, 7, 8)), begin // 8 | more << 13
            )
            packet = bytes(header) + piece
        else:
            head = struct.pack(">BBHI", header[6], 0, begin | more, draws.choice((7, 7, 8)))
            packet = ipv6(head + piece, next_header=44)[:8] + bytes(header[8:40]) + head + piece
        pieces.append(record(file.parts[number], frame[:at] + packet, file.order, pcapng=file.pcapng))
    if draws.random() < 0.4:
        draws.shuffle(pieces)
    if draws.random() < 0.3:
        pieces[draws.randrange(len(pieces))] = draws.choice(pieces)
    file.parts[number : number + 1] = pieces[:1]
    for piece in pieces[1:]:  # the others a little later
        number = min(number + draws.choice((1, 1, 1, 2, 5)), len(file.parts))
        file.parts.insert(number, piece)


def another_form(draws: random.Random, file: Mutable) -> None:
    """Writes the frames as a file of another format or byte order, a second apart."""
    found = [file.frame(number) for number in file.records()]
    order, step = draws.choice("<>"), draws.choice((0, 1, 10**9, 31 * 10**9))
    timed = [(1_700_000_000 * 10**9 + number * step, frame) for number, frame in enumerate(found)]
    link_type = draws.choice((1, 1, 1, 101))
    kind = draws.random()
    if kind < 0.1:
        data = snoop(timed)
    elif kind < 0.2:
        data = modified_pcap(timed, link_type=link_type, order=order, usual_magic=draws.random() < 0.5)
    elif kind < 0.5:
        data = pcap(timed, link_type=link_type, nanoseconds=draws.random() < 0.5, order=order)
    else:
        resolution = draws.choice((6, 9, 9, 12, 0x9E, 0xA8, 0xBF))
        data = section(order) + interface(link_type, resolution=resolution, order=order)
        data += b"".join(enhanced(frame, time_ns, order=order) for time_ns, frame in timed)
    file.__init__(data)  # type: ignore[misc]


MUTATIONS: tuple[Mutation, ...] = (
    bits, bits, head_bytes, truncate, lengths, captured, captured, times, times, times, order_records, order_records,
    header_fields, sections, frames, frames, frames, frames, frames, frames, connection, fragment, fragment,
    another_form,
)  # fmt: skip


def mutated(draws: random.Random, files: tuple[bytes, ...], others: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Returns files after one to six mutations, sometimes spliced with another capture of the corpus."""
    found = [Mutable(file) for file in files]
    for _ in range(draws.choice((1, 1, 2, 2, 3, 4, 6))):
        file = draws.choice(found)
        if not file.parts:
            continue
        draws.choice(MUTATIONS)(draws, file)
        if not file.parts:
            file.parts = [b""]
    if others and draws.random() < 0.15:
        _splice(draws, found, Mutable(draws.choice(others)))
    if len(found) > 1 and draws.random() < 0.05:
        draws.shuffle(found)
    return tuple(file.data() for file in found)


def _splice(draws: random.Random, files: list[Mutable], other: Mutable) -> None:
    """Adds records of another capture to a file, or adds that capture."""
    file = draws.choice(files)
    if draws.random() < 0.4 and len(files) < 3:
        files.append(other)
        return
    at = draws.randrange(len(file.parts) + 1)
    if draws.random() < 0.3:  # the bytes as they are, whatever their format
        file.parts[at:at] = other.parts[1:6]
        return
    for number in other.records()[: draws.choice((1, 3, 8))]:
        chosen = file.records()
        if chosen:
            template = file.parts[draws.choice(chosen)]
            file.parts.insert(at, record(template, other.frame(number), file.order, pcapng=file.pcapng))
            at += 1
