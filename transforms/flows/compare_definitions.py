"""Comparison of two flow definitions on the same packets: equal flows, and the option by which the others differ.

A flow is identified by its beginning. A beginning that only one side has is a cut of that side, and the flow before it
under the same key names the rule that cut there. Flows that begin and end together are compared column by column.
"""

import enum

import polars as pl
import pyarrow as pa

from flowloom.schemas.arrow.rows import SEQUENCES
from flowloom.schemas.corpus.flow_definition import EndReason, FlowDefinition
from flowloom.transforms.flows.flow_state import active_timeout_ns, idle_timeouts_ns


class Cause(enum.StrEnum):
    """Rules by which flows of two definitions differ; a closed set."""

    IDLE = "idle timeout"
    ACTIVE = "active timeout"
    TCP_CLOSE = "tcp close"
    KEY = "vlan or tunnel in key"
    TUNNELS = "tunnels"
    FRAGMENTS = "fragments"
    MIN_PACKETS = "min packets"
    ORIENTATION = "orientation"
    SIZE = "size"
    ZERO_PAYLOAD = "zero payload"
    K = "k"
    OTHER = "other"


EQUAL = "equal"
"""Value of the column `cause` for flows without a difference, except perhaps in id and end reason."""

CONVERSATION = ("low_ip", "high_ip", "low_port", "high_port", "protocol")
"""The five-tuple without direction."""

_PLACE = (*CONVERSATION, "start_ns", "ordinal")
_COMPARED = ("forward_is_low", "packets_low", "packets_high", "bytes_fwd", "bytes_bwd", "duration_ns", *SEQUENCES)


def compare_flows(a: pa.Table, b: pa.Table, definition_a: FlowDefinition, definition_b: FlowDefinition) -> pl.DataFrame:
    """Compares the flows of one capture under two definitions.

    Args:
      a, b: `schemas.arrow.rows.FLOWS` of the same packets by each definition, but with
        `min_packets` 1: short flows are dropped here, because they show where the other flows were cut.
      definition_a, definition_b: with their own `min_packets`.

    Returns:
      one row per beginning of a flow that either definition keeps: `CONVERSATION` (ports and protocol, addresses as 16
      bytes), `start_ns`, `cause` (`EQUAL` or a `Cause`), and for each side `in_a`, `packets_a`, `duration_ns_a`,
      `end_reason_a`, `forward_is_low_a` and the same of b, null where the side has no flow that begins there.
    """
    left, right = _beginnings(a, definition_a), _beginnings(b, definition_b)
    left, right = _with_next_cut(left, right), _with_next_cut(right, left)
    pairs = left.join(right, on=_PLACE, how="full", coalesce=True, suffix="_b", nulls_equal=True)
    pairs = pairs.rename({name: f"{name}_a" for name in left.columns if name not in _PLACE})
    pairs = pairs.with_columns(pl.col("in_a", "in_b").fill_null(False), cause=_cause(definition_a, definition_b))
    shown = ("packets", "duration_ns", "end_reason", "forward_is_low")
    return pairs.filter(pl.col("in_a") | pl.col("in_b")).select(
        *CONVERSATION,
        "start_ns",
        "cause",
        *(pl.col(f"in_{side}") for side in "ab"),
        *(pl.when(f"in_{side}").then(f"{name}_{side}").alias(f"{name}_{side}") for side in "ab" for name in shown),
    )


def _beginnings(flows: pa.Table, definition: FlowDefinition) -> pl.DataFrame:
    """Returns flows by conversation and start, each with the rule that ended the flow before it under its key."""
    table = pl.from_arrow(flows.drop_columns(["flow_id", "group"]))
    assert isinstance(table, pl.DataFrame)
    is_low = (pl.col("src_ip") < pl.col("dst_ip")) | (
        (pl.col("src_ip") == pl.col("dst_ip")) & (pl.col("src_port") <= pl.col("dst_port"))
    )
    packets = pl.col("packets_fwd") + pl.col("packets_bwd")
    table = table.with_columns(
        **{
            f"{side}_{end}": pl.when(is_low).then(f"{one}_{end}").otherwise(f"{other}_{end}")
            for side, one, other in (("low", "src", "dst"), ("high", "dst", "src"))
            for end in ("ip", "port")
        },
        packets_low=pl.when(is_low).then("packets_fwd").otherwise("packets_bwd"),
        packets_high=pl.when(is_low).then("packets_bwd").otherwise("packets_fwd"),
        forward_is_low=is_low,
        packets=packets,
        start_ns=pl.col("start").dt.timestamp("ns"),
    ).with_columns(**{"in": packets >= definition.min_packets})
    key = [*CONVERSATION, *["vlan"] * definition.vlan_in_key, *["tunnel_id"] * definition.tunnel_in_key]
    table = table.sort("start_ns", maintain_order=True).with_columns(
        ordinal=pl.int_range(pl.len()).over([*CONVERSATION, "start_ns"]),
        key=pl.struct(key).rank("dense"),
    )
    before = {name: pl.col(name).shift(1).over("key") for name in ("start_ns", "duration_ns", "end_reason")}
    longest = idle_timeouts_ns(definition)
    idle_ns = pl.when(pl.col("protocol") == 17).then(int(longest[17])).otherwise(int(longest[6]))
    active_ns = active_timeout_ns(definition)
    cut = (
        pl.when(before["end_reason"].is_null())
        .then(None)
        .when(pl.col("start_ns") - before["start_ns"] - before["duration_ns"] > idle_ns)
        .then(pl.lit(Cause.IDLE.value))
        .when(pl.col("start_ns") - before["start_ns"] > active_ns)
        .then(pl.lit(Cause.ACTIVE.value))
        .otherwise(before["end_reason"].replace_strict(_CUT_BY, default=Cause.OTHER.value, return_dtype=pl.String))
    )
    split = pl.col("key").n_unique().over(CONVERSATION) > 1
    return table.select(*_PLACE, "key", "in", "packets", "end_reason", *_COMPARED, cut=cut, split=split)


_CUT_BY = {
    int(EndReason.IDLE_TIMEOUT): Cause.IDLE.value,
    int(EndReason.ACTIVE_TIMEOUT): Cause.ACTIVE.value,
    int(EndReason.END_DETECTED): Cause.TCP_CLOSE.value,
}


def _with_next_cut(flows: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Adds the next cut of each flow and its rule, if only this side cuts there.

    Also adds whether the other side has the key.
    """
    shared = other.select(*_PLACE, shared=True)
    known = other.select(CONVERSATION).unique().with_columns(known=True)
    flows = flows.join(shared, on=_PLACE, how="left", maintain_order="left", nulls_equal=True)
    flows = flows.join(known, on=CONVERSATION, how="left", maintain_order="left")
    following = {name: pl.col(name).shift(-1).over("key") for name in ("start_ns", "cut", "shared")}
    alone = following["shared"].is_null()
    return flows.with_columns(
        next_ns=pl.when(alone).then(following["start_ns"]), next_cut=pl.when(alone).then(following["cut"])
    ).drop("shared")


def _cause(a: FlowDefinition, b: FlowDefinition) -> pl.Expr:
    """Returns the cause by which two flows that begin together differ, or for which one side has no such beginning."""
    keyed = a.vlan_in_key != b.vlan_in_key or a.tunnel_in_key != b.tunnel_in_key

    def first(*named: tuple[bool, Cause]) -> pl.Expr:
        return pl.lit(next((cause.value for differ, cause in named if differ), Cause.OTHER.value))

    fragments = (a.fragments != b.fragments, Cause.FRAGMENTS)
    tunnels = ((a.tunnels, a.vxlan_ports) != (b.tunnels, b.vxlan_ports), Cause.TUNNELS)
    split = pl.any_horizontal("split_a", "split_b") if keyed else pl.lit(False)
    by_packets = pl.when(split).then(pl.lit(Cause.KEY.value)).otherwise(first(fragments, tunnels))
    only_one = (
        pl.when(pl.coalesce("known_a", "known_b").is_null())
        .then(first(tunnels, fragments))
        .otherwise(pl.coalesce("cut_a", "cut_b", by_packets))
    )
    next_cut = pl.when((pl.col("next_ns_a") <= pl.col("next_ns_b")) | pl.col("next_ns_b").is_null()).then(
        "next_cut_a"
    ).otherwise("next_cut_b")  # fmt: skip
    extent = ("packets_low", "packets_high", "duration_ns")
    entries_differ = pl.any_horizontal(pl.col(f"{name}_a") != pl.col(f"{name}_b") for name in SEQUENCES)
    bytes_differ = pl.any_horizontal(pl.col(f"bytes_{way}_a") != pl.col(f"bytes_{way}_b") for way in ("fwd", "bwd"))
    return (
        pl.when(pl.col("packets_a").is_null() | pl.col("packets_b").is_null())
        .then(only_one)
        .when(pl.any_horizontal(pl.col(f"{name}_a") != pl.col(f"{name}_b") for name in extent))
        .then(pl.coalesce(next_cut, by_packets))
        .when(pl.col("in_a") != pl.col("in_b"))
        .then(pl.lit(Cause.MIN_PACKETS.value))
        .when(pl.col("forward_is_low_a") != pl.col("forward_is_low_b"))
        .then(first((a.orient != b.orient, Cause.ORIENTATION)))
        .when(bytes_differ)
        .then(first((a.size != b.size, Cause.SIZE)))
        .when(entries_differ)
        .then(
            first(
                (a.zero_payload != b.zero_payload, Cause.ZERO_PAYLOAD),
                (a.k != b.k, Cause.K),
                (a.size != b.size, Cause.SIZE),
            )
        )
        .otherwise(pl.lit(EQUAL))
    )
