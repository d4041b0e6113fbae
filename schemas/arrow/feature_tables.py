"""Tables view: published tables of flow features, and the spelling of their headers and labels."""

import re
from collections.abc import Iterable

import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOWS

CICIDS_FEATURES = (
    "flow_duration", "total_fwd_packets", "total_backward_packets", "total_length_of_fwd_packets",
    "total_length_of_bwd_packets", "fwd_packet_length_max", "fwd_packet_length_min", "fwd_packet_length_mean",
    "fwd_packet_length_std", "bwd_packet_length_max", "bwd_packet_length_min", "bwd_packet_length_mean",
    "bwd_packet_length_std", "flow_bytes_per_s", "flow_packets_per_s", "flow_iat_mean", "flow_iat_std", "flow_iat_max",
    "flow_iat_min", "fwd_iat_total", "fwd_iat_mean", "fwd_iat_std", "fwd_iat_max", "fwd_iat_min", "bwd_iat_total",
    "bwd_iat_mean", "bwd_iat_std", "bwd_iat_max", "bwd_iat_min", "fwd_psh_flags", "bwd_psh_flags", "fwd_urg_flags",
    "bwd_urg_flags", "fwd_header_length", "bwd_header_length", "fwd_packets_per_s", "bwd_packets_per_s",
    "min_packet_length", "max_packet_length", "packet_length_mean", "packet_length_std", "packet_length_variance",
    "fin_flag_count", "syn_flag_count", "rst_flag_count", "psh_flag_count", "ack_flag_count", "urg_flag_count",
    "cwe_flag_count", "ece_flag_count", "down_up_ratio", "average_packet_size", "avg_fwd_segment_size",
    "avg_bwd_segment_size", "fwd_header_length_1", "fwd_avg_bytes_bulk", "fwd_avg_packets_bulk", "fwd_avg_bulk_rate",
    "bwd_avg_bytes_bulk", "bwd_avg_packets_bulk", "bwd_avg_bulk_rate", "subflow_fwd_packets", "subflow_fwd_bytes",
    "subflow_bwd_packets", "subflow_bwd_bytes", "init_win_bytes_forward", "init_win_bytes_backward",
    "act_data_pkt_fwd", "min_seg_size_forward", "active_mean", "active_std", "active_max", "active_min", "idle_mean",
    "idle_std", "idle_max", "idle_min",
)  # fmt: skip
"""The 77 features that the variants of CICIDS2017's tables have in common.

Times are microseconds. `fwd_header_length_1` repeats `fwd_header_length`, as the original tables do. The list excludes
columns that identify a connection (addresses, ports, time) and columns that some variants lack (`destination_port`).
"""

CICIDS_LABEL_HEADERS = ("label", "labels", "attack_type")
"""Headers of the label column."""

CICIDS_FAMILIES = {
    "benign": "benign",
    "normal-traffic": "benign",
    "dos": "dos",
    "ddos": "dos",
    "heartbleed": "dos",
    "portscan": "portscan",
    "port-scanning": "portscan",
    "bruteforce": "brute-force",
    "brute-force": "brute-force",
    "ftp-patator": "brute-force",
    "ssh-patator": "brute-force",
    "webattack": "web-attack",
    "web-attacks": "web-attack",
    "web-attack-brute-force": "web-attack",
    "web-attack-xss": "web-attack",
    "web-attack-sql-injection": "web-attack",
    "bot": "bot",
    "bots": "bot",
    "infiltration": "infiltration",
    "dos-hulk": "dos",
    "dos-goldeneye": "dos",
    "dos-slowloris": "dos",
    "dos-slowhttptest": "dos",
}
"""Family by normalised label: the seven classes of MTC, table 2, before the paper removes infiltration."""


def feature_column(header: str) -> str:
    """Returns the column of a table's header, in any spelling of spaces and capitals."""
    return re.sub(r"[^a-z0-9]+", "_", header.lower().replace("/s", "_per_s")).strip("_")


def feature_columns(headers: Iterable[str]) -> list[str]:
    """Returns the columns of headers; the second of two equal ones ends in `_1`, the third in `_2`."""
    seen: dict[str, int] = {}
    columns = []
    for name in map(feature_column, headers):
        repeated = seen.get(name, 0)
        seen[name] = repeated + 1
        columns.append(f"{name}_{repeated}" if repeated else name)
    return columns


def feature_schema(features: Iterable[str]) -> pa.Schema:
    """Returns the schema of the tables view: id, group, and one float64 column per feature, finite or null."""
    return pa.schema([FLOWS.field("flow_id"), FLOWS.field("group"), *(pa.field(f, pa.float64()) for f in features)])


def feature_rows(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Returns the feature columns of rows of the tabular view, which are those of float64."""
    return rows.select([field.name for field in rows.schema if pa.types.is_floating(field.type)])
