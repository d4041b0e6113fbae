"""Accounting of captured records: drop reasons, the captures table and the rejects table.

For every capture `records == metered + sum(dropped)`. Bytes that cannot be read as a record are a row of the rejects
table.
"""

import enum

import pyarrow as pa


class DropReason(enum.IntEnum):
    """Reasons for dropping a captured record. A closed set; the value is the code that kernels write."""

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
    """A later IP fragment, with `fragments: drop` in the flow definition."""
    TIME_OUT_OF_RANGE = 7
    """The record is whole, but its time is before 1970 or after 2262, outside of int64 nanoseconds."""
    ICMP_ERROR = 8
    """An ICMP error about a packet, with `icmp_errors: count` in the flow definition: it belongs to no flow."""

    @property
    def label(self) -> str:
        """The reason in tables and output, for example `not-ip`."""
        return self.name.lower().replace("_", "-")

    @property
    def column(self) -> str:
        """The reason's column in the captures table, for example `dropped_not_ip`."""
        return f"dropped_{self.name.lower()}"


class PacketDrop(enum.IntEnum):
    """Reasons for dropping a metered packet from the packets view. A closed set; the value is the code of kernels."""

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
    """A packet of a flow with fewer packets than the flow definition's `min_packets`."""

    @property
    def label(self) -> str:
        """The reason in tables and output, for example `empty-segment`."""
        return self.name.lower().replace("_", "-")


class RejectReason(enum.StrEnum):
    """Reasons for rejecting a file or a part of it: bytes of a capture, rows of a table. A closed set."""

    NO_MATCH = "no-match"
    """The manifest's glob matches no file."""
    DUPLICATE = "duplicate"
    """The file has the same bytes as another one; the bytes are read once."""
    UNREADABLE = "unreadable"
    """The file is missing or its permissions forbid reading."""
    EMPTY = "empty"
    """The file has no bytes."""
    NOT_A_CAPTURE = "not-a-capture"
    """The content does not start like a known capture format."""
    CUT_OFF = "cut-off"
    """The file ends inside a record."""
    MALFORMED = "malformed"
    """A record or block header is impossible; reading stopped there."""
    CHANGED = "changed-while-read"
    """The file was written to, cut or replaced after it was planned; what was read before that counts."""
    DECOMPRESSION = "decompression"
    """The compressed stream is damaged; reading stopped there."""
    OVER_LIMIT = "over-limit"
    """The compressed stream is larger than the limits allow; reading stopped there."""
    LABEL_ROWS = "label-rows"
    """Rows of a label table lack a valid time, address or label; the offset is the number of the first such row,
    without the header."""
    LABEL_COUNT = "label-count"
    """A packet table and its capture differ in length; the offset is the first row or record without a partner."""
    DPI = "dpi"
    """NFStream cannot read the capture, so its flows have no label by DPI."""
    OTHER_FORMAT = "other-format"
    """A published file does not have the format that the manifest names; none of it was read."""
    BAD_ROW = "bad-row"
    """A row of a published file cannot be read or contradicts itself; the rows around it were read."""
    NOT_FINITE = "not-finite"
    """A row of a published table has infinity or NaN in a feature that must be finite."""
    NO_FLOW_KEY = "no-flow-key"
    """A packet row of a published table has no five-tuple, so it belongs to no flow."""


DROPPED_COLUMNS = tuple(reason.column for reason in DropReason)
CLOCK_COLUMNS = ("clock_jumps", "steps_back")
"""Columns of the captures table about times that are not in order."""

CAPTURES = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("group", pa.string(), nullable=False),
        pa.field("bytes", pa.uint64(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("compression", pa.string(), nullable=False),
        pa.field("link_types", pa.list_(pa.field("item", pa.uint16(), nullable=False)), nullable=False),
        pa.field("records", pa.uint64(), nullable=False),
        pa.field("metered", pa.uint64(), nullable=False),
        pa.field("metered_cut", pa.uint64(), nullable=False),
        *(pa.field(column, pa.uint64(), nullable=False) for column in DROPPED_COLUMNS),
        pa.field("rejects", pa.uint64(), nullable=False),
        pa.field("first_ns", pa.int64()),
        pa.field("last_ns", pa.int64()),
        *(pa.field(column, pa.uint64(), nullable=False) for column in CLOCK_COLUMNS),
    ]
)
"""One row per file that could be opened and is a capture; times are ns since the epoch, null without records.

`metered_cut` counts the metered packets whose TCP header is cut off behind the ports, so that flags, window or payload
length may be missing; it is 0 in a dataset of version 0.2 or older, where such packets were dropped as truncated.
`clock_jumps` counts records whose time the records behind them contradict (`transforms/captures/record_clock.py`), and
`steps_back` those whose time lies more than the idle timeout before that of the record in front; 0 in older datasets.
`dropped_icmp_error` is 0 in a dataset of version 0.2 or older.
`digest` is BLAKE3 over the BLAKE3 digests of each MiB of the stored file (`transforms/captures/capture_digest.py`),
empty if the file changed while it was read, or in a dataset of version 0.1. `sha256` is null unless asked for."""

REJECTS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""One row per place where reading stopped, or per rejected row: a `RejectReason` and a sentence.

`offset` is a byte of the uncompressed capture; in a published file it is the position of a row, from 0."""
