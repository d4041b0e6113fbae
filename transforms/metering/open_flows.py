"""Bound of open flows across ranges: groups whose whole may have reached `max_open_flows`, though no range tells.

A range does not see the flows that earlier ranges left open, so where flows end for lack of resources is known only in
one piece. Groups that stay below the bound by the sum of both are exact in ranges.
"""

from collections.abc import Iterable

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.metering.accounts import GroupAccount


def crowded_groups(accounts: Iterable[GroupAccount], definition: FlowDefinition) -> list[str]:
    """Returns the groups, metered in ranges, that must be metered in one piece for `max_open_flows`, sorted."""
    most_open: dict[tuple[str, int], int] = {}
    for account in accounts:
        for position, flows in account.open_flows.items():
            most_open[account.group, position] = most_open.get((account.group, position), 0) + flows
    most = most_open_in_ranges(definition)
    return sorted({group for (group, _), flows in most_open.items() if flows > most})


def most_open_in_ranges(definition: FlowDefinition) -> int:
    """Returns the greatest number of open flows with which a group can be metered in ranges."""
    return definition.max_open_flows - definition.open_flows_step
