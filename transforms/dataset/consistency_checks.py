"""Consistency checks: faults that keep a build from becoming a dataset, as sentences."""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from flowloom.schemas.arrow.accounting import DropReason, RejectReason
from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.dataset.card_parts import Accounting, LabelCoverage
from flowloom.transforms.dataset.build_results import BuildResults
from flowloom.transforms.dataset.layouts import AURORA

_SHOWN_REJECTS = 3
_WITHOUT_DIGEST = (RejectReason.CHANGED, RejectReason.UNREADABLE)


def find_faults(
    accounting: Accounting, findings: BuildResults, captures: pa.Table, rejects: pa.Table, manifest: CorpusManifest
) -> list[str]:
    """Returns a sentence for each pair of counts that must agree and do not."""
    if not sum(findings.rows.values()):
        first = rejects.slice(0, _SHOWN_REJECTS).to_pylist()
        more = rejects.num_rows - len(first)
        why = "; ".join(f"{row['uri']}: {row['reason']}, {row['detail']}" for row in first)
        why = f". Rejects: {why}" + (f"; and {more} more" if more else "") if first else ""
        counts = (
            f"{accounting.captures:,} captures with {accounting.records:,} records, {accounting.metered:,} IP "
            f"packets, {accounting.flows:,} flows, {accounting.flows_short:,} too short, "
            f"{accounting.flows_unlabelled:,} without a label"
        )
        published = "".join(f", {entry.path}: {entry.rows:,} rows" for entry in findings.published)
        return [f"no flow could be built from corpus {manifest.name!r}: {counts}{published}{why}"]
    faults = [findings.fault] if findings.fault else []
    unsure = {row["uri"] for row in rejects.to_pylist() if row["reason"] in _WITHOUT_DIGEST}
    for row in captures.to_pylist():
        dropped = sum(row[reason.column] for reason in DropReason)
        if row["records"] != row["metered"] + dropped:
            faults.append(
                f"{row['uri']}: records must be metered or dropped, got {row['records']:,} records, "
                f"{row['metered']:,} metered and {dropped:,} dropped"
            )
        if not row["digest"] and row["uri"] not in unsure:
            faults.append(f"{row['uri']}: the digest must cover every byte of the capture, got parts of it")
    written: dict[tuple[View, str], int] = {}
    for shard in findings.shards:
        stripe = shard.shard.view, shard.shard.task or AURORA
        written[stripe] = written.get(stripe, 0) + shard.shard.rows
    laid_out = {stripe: rows for stripe, rows in findings.rows.items() if rows}
    if written != laid_out:
        faults.append(f"shards must have all laid out rows, got {_shown(laid_out)} laid out, {_shown(written)} written")
    dropped = accounting.flows_short + accounting.flows_absent + accounting.rows_duplicate
    rows = findings.rows["flows", AURORA]
    if "flows" in manifest.views and manifest.layout == "aurora" and rows != accounting.flows - dropped:
        faults.append(
            f"each flow must have a row, got {rows:,} rows of {accounting.flows:,} flows, {accounting.flows_short:,} "
            f"too short and {accounting.rows_duplicate:,} duplicates"
        )
    packets = accounting.packet_rows + sum(accounting.packets_dropped.values())
    if "packets" in manifest.views and packets != accounting.metered:
        faults.append(
            f"metered packets must have a row or be dropped, got {accounting.metered:,} metered, "
            f"{accounting.packet_rows:,} rows and {packets - accounting.packet_rows:,} dropped"
        )
    read = {
        "packets": findings.published_rows("packets") + accounting.packet_rows,
        "tables": findings.published_rows("tables"),
    }
    for view in manifest.views:
        rows = findings.rows.get((view, AURORA), 0)
        if manifest.layout == "aurora" and rows != read.get(view, rows):
            faults.append(f"view {view}: rows must be those that were read, got {rows:,} rows, {read[view]:,} read")
    return faults


def _shown(counts: Mapping[tuple[View, str], int]) -> str:
    """Returns the rows of each view and stripe as a message shows them."""
    parts = [f"{rows:,} of {' '.join(filter(None, stripe))}" for stripe, rows in sorted(counts.items())]
    return ", ".join(parts) or "none"


def find_conflicts(coverage: Iterable[LabelCoverage], manifest: CorpusManifest) -> list[str]:
    """Returns a sentence for each task with conflicts under `on_conflict: error`."""
    faults = []
    for task, rule in manifest.on_conflict.items():
        found = [entry for entry in coverage if entry.task == task and entry.conflicts + entry.ambiguous]
        if rule == "error" and found:
            places = "; ".join(
                f"{entry.source}: {entry.conflicts:,} flows against an earlier source, {entry.ambiguous:,} within it"
                for entry in found
            )
            faults.append(
                f"labels of task {task!r} must agree (on_conflict: error), got several labels of one flow from "
                f"{places}; correct the sources, or write on_conflict: first or unknown"
            )
    return faults
