"""Flows of groups of captures in memory, with the accounts of all their captures."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.columns import batch, concatenated
from flowloom.transforms.captures.groups import CaptureGroup, GroupPlan
from flowloom.transforms.metering.accounts import GroupAccount, sum_captures
from flowloom.transforms.metering.meter_ranges import RangeMetering
from flowloom.transforms.metering.scheduling import MeterTask, plan_group


@dataclasses.dataclass(frozen=True)
class FlowsOfCaptures:
    """Batches of flows (`schemas.rows.FLOWS`), and rows of the tables of captures and rejects."""

    flows: list[pa.RecordBatch]
    captures: pa.RecordBatch
    rejects: pa.RecordBatch


def meter_flows(plans: Iterable[GroupPlan], definition: FlowDefinition) -> FlowsOfCaptures:
    """Meters each group of captures by itself."""
    plans = list(plans)
    flows: list[pa.RecordBatch] = []
    accounts: list[GroupAccount] = []
    for task in (task for plan in plans for group in plan.groups for task in whole_tasks(group, definition)):
        metering = RangeMetering(task, definition, None)
        flows += metering.flows()
        accounts.append(metering.account())
    captures, rejects = account_tables(accounts)
    return FlowsOfCaptures(flows, captures, concatenated([rejects, *(plan.rejects for plan in plans)], REJECTS))


def whole_tasks(group: CaptureGroup, definition: FlowDefinition) -> Iterator[MeterTask]:
    """Yields the task that meters a group in one piece."""
    return plan_group(group, (), definition, alone=True)


def account_tables(accounts: Sequence[GroupAccount]) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Returns rows of the tables of captures and rejects, from the accounts of all ranges of some groups."""
    rejects = concatenated([account.rejects for account in accounts], REJECTS)
    rejected = collections.Counter(rejects["uri"].to_pylist())
    rows = [{**row, "rejects": rejected[row["uri"]]} for row in sum_captures(accounts)]
    return batch(rows, CAPTURES), rejects
