"""Packet tables: labels of a capture's records, in file order, as label windows of single packets."""

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.arrow.label_windows import UNKNOWN_LABEL, WINDOW_KEY
from flowloom.schemas.arrow.rows import GROUP_DIGITS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.columns import view
from flowloom.transforms.captures.groups import reject_rows
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.windows.window_index import window_batch
from flowloom.transforms.windows.window_match import NO_WINDOW, WindowMatch


def packet_windows(
    uri: str, codes: np.ndarray, definition: FlowDefinition, name: str
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Decodes a capture and returns a label window for each labelled packet.

    Rows beyond the last record are ignored; records beyond the last row have no label.

    Args:
      codes: int32, label number of each record, in file order.
      name: the table's name, for the reject row.

    Returns:
      Label windows, about 65 bytes a packet, and `REJECTS`, one row if the table and the capture differ in length.
    """
    part = CaptureRange(uri)
    reader = GroupReader([part], "0" * GROUP_DIGITS, definition)
    pieces: dict[str, list[np.ndarray]] = {field: [] for field in (*WINDOW_KEY, "time_ns", "record")}
    for packets in reader.packets(part):
        for field, parts in pieces.items():
            parts.append(view(packets[field]))
    labelled = np.concatenate([np.empty(0, np.uint64), *pieces.pop("record")])
    labelled = labelled[labelled < len(codes)]  # records ascend
    columns = {
        field: np.concatenate(parts)[: len(labelled)] if parts else np.empty(0, np.uint64)
        for field, parts in pieces.items()
    }
    time_ns = columns.pop("time_ns").astype(np.int64)
    windows = window_batch(columns, time_ns, time_ns, codes[labelled.astype(np.int64)])
    records = sum(reader.captures()["records"].to_pylist())
    return windows, _mismatch(name, len(codes), records)


def rule_codes(match: WindowMatch, flows: pa.RecordBatch, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the label number of each flow by a packet table's rule, and true where it gives none.

    `majority` and `all` compare the packets with the label to all packets of the flow.
    """
    if rule == "any":
        return match.codes, np.zeros(len(match.codes), bool)
    packets = (view(flows["packets_fwd"]) + view(flows["packets_bwd"])).astype(np.int64)
    enough = 2 * match.shared > packets if rule == "majority" else match.shared >= packets
    undecided = (match.codes != NO_WINDOW) & ~enough
    return np.where(undecided, np.int32(UNKNOWN_LABEL), match.codes), undecided


def _mismatch(name: str, rows: int, records: int) -> pa.RecordBatch:
    if rows == records:
        return reject_rows([])
    left = f"{rows - records:,} rows are ignored" if rows > records else f"{records - rows:,} records have no label"
    detail = f"the table must have a row for each of {records:,} readable records, got {rows:,} rows; {left}"
    return reject_rows([(name, min(rows, records) + 1, RejectReason.LABEL_COUNT, detail)])
