"""Where every record of a capture went: drop reasons, the captures table and the rejects table.

For every capture `records == metered + sum(dropped)`; what could not even be read as a record is a reject row.
"""

import enum

import pyarrow as pa


class DropReason(enum.IntEnum):
    """Why one captured record did not reach a flow. A closed set; the value is the code that kernels write."""

    NOT_IP = 1
    """The frame carries no IPv4 or IPv6 packet (ARP, LLDP, spanning tree, ...)."""
    UNSUPPORTED_LINKTYPE = 2
    """The link-layer header type has no decoder."""
    TRUNCATED = 3
    """The captured bytes end before the headers that the flow key needs."""
    MALFORMED = 4
    """Header fields contradict each other or the captured length."""
    FRAGMENT_WITHOUT_FIRST = 5
    """A later IP fragment whose first fragment was not seen."""
    FRAGMENT_DROPPED = 6
    """A later IP fragment, and the flow definition says `fragments: drop`."""
    TIME_OUT_OF_RANGE = 7
    """The record is whole, but its time is before 1970 or behind 2262, which int64 nanoseconds cannot tell."""

    @property
    def label(self) -> str:
        """The reason as users read it, for example `not-ip`."""
        return self.name.lower().replace("_", "-")

    @property
    def column(self) -> str:
        """The reason's column in the captures table, for example `dropped_not_ip`."""
        return f"dropped_{self.name.lower()}"


class PacketDrop(enum.IntEnum):
    """Why a metered packet is no row of the packets view. A closed set; the value is the code that kernels write."""

    IPV6 = 1
    """An IPv6 packet; the view's header layout is IPv4's."""
    OTHER_PROTOCOL = 2
    """Neither TCP nor UDP."""
    LATER_FRAGMENT = 3
    """A later IP fragment, which has no transport header."""
    NAME_SERVICE = 4
    """To or from a port of name resolution (DNS)."""
    EMPTY_SEGMENT = 5
    """A TCP segment without payload: SYN, ACK, FIN, RST."""
    SHORT_FLOW = 6
    """Of a flow that has fewer packets than the flow definition's `min_packets`."""

    @property
    def label(self) -> str:
        """The reason as users read it, for example `empty-segment`."""
        return self.name.lower().replace("_", "-")


class RejectReason(enum.StrEnum):
    """Why a file or a part of it was not read: bytes of a capture, rows of a table. A closed set."""

    NO_MATCH = "no-match"
    """The manifest's glob matches no file."""
    DUPLICATE = "duplicate"
    """The file has the same bytes as another one, which is read once."""
    UNREADABLE = "unreadable"
    """The file is missing or may not be opened."""
    EMPTY = "empty"
    """The file has no bytes."""
    NOT_A_CAPTURE = "not-a-capture"
    """The content starts like no capture format that is known."""
    CUT_OFF = "cut-off"
    """The file ends inside a record."""
    MALFORMED = "malformed"
    """A record or block header is impossible; reading stopped there."""
    DECOMPRESSION = "decompression"
    """The compressed stream is damaged; reading stopped there."""
    LABEL_ROWS = "label-rows"
    """Rows of a label table say no time, address or label; the offset is the number of the first, the header not
    counted."""
    LABEL_COUNT = "label-count"
    """A packet table has other rows than its capture has records; the offset is the first without a partner."""
    DPI = "dpi"
    """NFStream cannot read the capture, so that none of its flows has a label of it."""
    OTHER_FORMAT = "other-format"
    """A published file is not of the format it was given as; none of it was read."""
    BAD_ROW = "bad-row"
    """A row of a published file cannot be read or contradicts itself; the rows around it were read."""
    NOT_FINITE = "not-finite"
    """A row of a published table has infinity, or no number, where a finite one is needed."""
    NO_FLOW_KEY = "no-flow-key"
    """A packet row of a published table does not tell a five-tuple, so no flow has it."""


DROPPED_COLUMNS = tuple(reason.column for reason in DropReason)

CAPTURES = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("bytes", pa.uint64(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("compression", pa.string(), nullable=False),
        pa.field("link_types", pa.list_(pa.field("item", pa.uint16(), nullable=False)), nullable=False),
        pa.field("records", pa.uint64(), nullable=False),
        pa.field("metered", pa.uint64(), nullable=False),
        *(pa.field(column, pa.uint64(), nullable=False) for column in DROPPED_COLUMNS),
        pa.field("rejects", pa.uint64(), nullable=False),
        pa.field("first_ns", pa.int64()),
        pa.field("last_ns", pa.int64()),
    ]
)
"""One row per capture that could be opened and is one; times are ns since the epoch, null without records."""

REJECTS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""One row per place where reading stopped, or per row that was set aside: closed reason and a sentence.

`offset` is a byte of the uncompressed capture; in a published file it is the position of a row, from 0."""
