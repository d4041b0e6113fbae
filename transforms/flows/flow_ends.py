"""State of a meter, and the ends of flows that no packet causes: idle ones, and too many open ones."""

from typing import NamedTuple

import numba
import numpy as np

from flowloom.schemas.corpus.flow_definition import EndReason
from flowloom.transforms.arrays.kernels import borrowed, nth, part, step
from flowloom.transforms.flows.flow_state import closed
from flowloom.transforms.flows.open_flow_table import MeterTable, flow_at, remove

_IDLE, _, _END, _FORCED, _LACK_OF_RESOURCES = map(int, EndReason)
_NEVER, LAST_RECORD = np.iinfo(np.int64).max, np.iinfo(np.uint64).max

METER_STATE = np.dtype(
    [
        ("clock_ns", np.int64),  # the latest time so far
        ("swept_ns", np.int64),  # the clock at the last sweep
        ("before_ns", np.int64),  # the latest time in the ranges before this one
        ("open", np.int64),  # flows in the table
        ("most_open", np.int64),  # of all moments so far
        ("ended_early", np.int64),  # flows ended for lack of resources
        ("free_flows", np.int64),
        ("free_blocks", np.int64),
        ("finished", np.int64),  # flows that ended and were not yet taken
        ("begun", np.int64),  # flows begun so far: the serial of the next one
    ]
)
"""Clock and counters of a meter, one record."""


class MeterOptions(NamedTuple):
    """Options of the kernels, from the flow definition and the place of the range; times in nanoseconds.

    `continues`: an earlier range exists. `clock_unknown`: its latest time is not known. `eighth`: one eighth of
    `max_open`, at least 1.
    """

    k: int
    idle_ns: np.ndarray
    active_ns: int
    lifecycle: bool
    first_fin: bool
    skip_empty: bool
    orient_syn: bool
    orient_port: bool
    vlan_in_key: bool
    tunnel_in_key: bool
    icmp_in_key: bool
    drops_copies: bool
    window_ns: int
    continues: bool
    last: bool
    clock_unknown: bool
    max_open: int
    eighth: int


@step
def finish(index, ended_ns, ended_at, state, table):
    """Adds a flow that ended, at a clock and by a record, to those that wait to be taken."""
    table.flows[index].ended_ns, table.flows[index].ended_at = ended_ns, np.uint64(ended_at)
    table.finished[state.finished] = index
    state.finished += 1


@numba.njit(nogil=True, cache=True)
def sweep(ending, options, state, table):
    """Finishes the open flows that no later packet of the range can join; with `ending`, all of them."""
    options, table = MeterOptions(*borrowed(options)), MeterTable(*borrowed(table))
    state.most_open = max(state.most_open, state.open)
    _end_idle(ending, options, state, table)


@step
def idle_end(flow, options):
    """Returns the clock at which the idle timeout of a flow was over; it must be over."""
    return flow.clock_ns + options.idle_ns[flow.protocol]


@step
def _end_idle(ending, options, state, table):
    clock = state.clock_ns
    state.swept_ns = clock
    first = state.finished
    for slot in table.slots:
        if slot:
            index = flow_at(slot)
            flow = table.flows[index]
            idle = clock - flow.clock_ns > options.idle_ns[flow.protocol]
            if ending or idle:
                if closed(flow.closing):
                    flow.end_reason = _END
                else:
                    flow.end_reason = _IDLE if idle else _FORCED
                flow.open_after = options.clock_unknown or not (idle or options.last)
                finish(index, idle_end(flow, options) if idle else _NEVER, LAST_RECORD, state, table)
    if ending:
        table.slots[:] = 0
        state.open = 0
    else:
        _remove_finished(first, state, table)


@part
def end_longest_idle(arrival, options, state, table):
    """Ends flows for lack of resources until an eighth of the bound is free, those first that were idle longest.

    The order is that of (clock, serial); flows whose idle timeout is over end by that.
    """
    state.most_open = max(state.most_open, state.open)
    state.clock_ns = arrival.clock_ns
    _end_idle(np.bool_(False), options, state, table)  # the type of `sweep`, so that it is compiled once
    surplus = state.open + options.eighth - options.max_open
    if surplus <= 0:
        return
    clocks, serials = np.empty(state.open, np.int64), np.empty(state.open, np.int64)
    waiting = 0
    for slot in table.slots:
        if slot:
            flow = table.flows[flow_at(slot)]
            clocks[waiting], serials[waiting] = flow.clock_ns, flow.serial
            waiting += 1
    latest, left = nth(clocks, surplus - 1)
    alike = 0
    for i in range(waiting):
        if clocks[i] == latest:
            serials[alike] = serials[i]
            alike += 1
    last, _ = nth(serials[:alike], left)
    first = state.finished
    for slot in table.slots:
        if slot:
            index = flow_at(slot)
            flow = table.flows[index]
            if flow.clock_ns < latest or (flow.clock_ns == latest and flow.serial <= last):
                flow.end_reason = _END if closed(flow.closing) else _LACK_OF_RESOURCES
                flow.open_after = 0
                finish(index, arrival.clock_ns, arrival.record, state, table)
    state.ended_early += surplus
    _remove_finished(first, state, table)


@step
def _remove_finished(first, state, table):
    """Takes the flows that finished from the `first` one on out of the table."""
    for i in range(first, state.finished):
        remove(table.slots, table.flows[table.finished[i]].tag, np.int64(table.finished[i]))
        state.open -= 1
