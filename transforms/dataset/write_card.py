"""Dataset card: assembles the counts of all workers, and writes the card last."""

import importlib.metadata

import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOW_IDS
from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.dataset.card_parts import Accounting, LabelCoverage
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, REJECTS_TABLE, DatasetCard, save_card
from flowloom.schemas.dataset.dataset_findings import find_problems
from flowloom.schemas.dataset.tensorflow_metadata import tensorflow_schema
from flowloom.schemas.dataset.views import StoredViews, schema_file
from flowloom.schemas.file_digests import file_sha256
from flowloom.schemas.parquet_files import write_table
from flowloom.transforms.dataset.build_results import BuildResults
from flowloom.transforms.dataset.capture_tables import captures_table, corpus_digest, rejects_table, timelines
from flowloom.transforms.dataset.card_counts import (
    count_accounting,
    count_coverage,
    count_overlap,
    count_splits,
    count_unlabelled_captures,
    find_byte_rules,
    normalisation,
    with_absent,
)
from flowloom.transforms.dataset.consistency_checks import find_conflicts, find_faults
from flowloom.transforms.dataset.layouts import FLOWS_ALONE
from flowloom.transforms.dataset.shards import shards_hash
from flowloom.transforms.dataset.table_accounts import count_label_tables
from flowloom.transforms.io.verdict import ask_whole, fail
from flowloom.transforms.metering.open_flows import crowded_groups
from flowloom.transforms.splits.leakage import leakage_of


def write_card(
    findings: BuildResults,
    manifest: CorpusManifest,
    folder: str,
    staging: str,
    key_id: str | None = None,
    stored: StoredViews = FLOWS_ALONE,
    *,
    closed: bool = True,
) -> str:
    """Writes all files beside the shards, the card last; or the faults of the build, and no card.

    If groups may have reached `max_open_flows`, it asks for them in one piece (`transforms/io/verdict.py`).

    Args:
      folder: the manifest's folder.
      staging: the folder with the shards.
      key_id: id of the key that encrypts identities.
      stored: the columns of the views.
      closed: whether each metered flow must have a row; otherwise others count as absent.

    Returns:
      The path of the file that was written last.
    """
    if crowded := crowded_groups(findings.accounts, manifest.definition):
        return ask_whole(staging, crowded)
    rejects = rejects_table(findings.accounts, findings.rejects, folder)
    captures = captures_table(findings.accounts, findings.sha256, rejects, folder)
    flows: dict[str, int] = {}
    for part in findings.accounts:
        flows[part.group] = flows.get(part.group, 0) + part.flows
    accounting = count_accounting(captures, rejects, findings)
    if not closed:
        accounting = with_absent(accounting, findings.read)
    coverage = count_coverage(findings.labels, flows, manifest, findings.sources)
    faults = find_faults(accounting, findings, captures, rejects, manifest) or find_conflicts(coverage, manifest)
    if faults:
        return fail(staging, faults)
    card = assemble_card(findings, manifest, captures, accounting, coverage, key_id, stored)
    tables = count_label_tables(findings.labels, findings.hits, findings.sources, captures)
    card = card.model_copy(update={"label_tables": tables})
    if manifest.absent_code is None:
        card = card.model_copy(update={"unlabelled": count_unlabelled_captures(findings.labels, flows)})
    return store_card(card, captures, rejects, staging)


def assemble_card(
    findings: BuildResults,
    manifest: CorpusManifest,
    captures: pa.Table,
    accounting: Accounting,
    coverage: tuple[LabelCoverage, ...],
    key_id: str | None,
    stored: StoredViews,
) -> DatasetCard:
    """Returns the card of a dataset without faults."""
    tasks = findings.tasks
    shards = sorted(findings.shards, key=lambda shard: shard.shard.path)
    measured = manifest.leakage == "measure"
    return DatasetCard(
        tool_version=importlib.metadata.version("flowloom"),
        flow_ids=FLOW_IDS,
        flow_columns=stored.flow_columns,
        name=manifest.name,
        content_hash=shards_hash(shards, tasks),
        corpus_digest=corpus_digest(captures, findings.published),
        definition=manifest.definition,
        views=manifest.views,
        packet_bytes=stored.packet_bytes if "packets" in manifest.views else None,
        features=stored.features,
        tasks=tasks,
        layout=manifest.layout,
        missing=manifest.missing,
        deduplicate=manifest.deduplicate,
        on_conflict=manifest.on_conflict,
        identity=manifest.identity,
        key_id=key_id,
        split_rule=findings.split_plan.rule,
        splits=count_splits(shards, tasks, manifest.views[0]),
        view_splits={view: count_splits(shards, tasks, view) for view in manifest.views[1:]},
        coverage=coverage,
        timelines=timelines(captures),
        accounting=accounting,
        published=findings.published,
        normalisation=normalisation(shards),
        overlap=count_overlap(shards, manifest.views[0]),
        byte_rules=find_byte_rules(shards),
        leakage=leakage_of(findings.leakage, [task.name for task in tasks], manifest.identity) if measured else None,
        shards=tuple(shard.shard for shard in shards),
    )


def store_card(card: DatasetCard, captures: pa.Table, rejects: pa.Table, staging: str) -> str:
    """Writes the files beside a dataset's shards, the card last, and returns its path."""
    for name, table in ((CAPTURES_TABLE, captures), (REJECTS_TABLE, rejects)):
        write_table(f"{staging}/{name}", table)
    stored, names = StoredViews.of(card), [CAPTURES_TABLE, REJECTS_TABLE, *map(schema_file, card.views)]
    for view in card.views:
        schema = tensorflow_schema(stored.schema(view, card.tasks), card.tasks, card.definition.k)
        write_text(f"{staging}/{schema_file(view)}", schema)
    files = {name: file_sha256(f"{staging}/{name}") for name in names}
    return save_card(card.model_copy(update={"files": files, "findings": find_problems(card)}), staging)
