"""Factory of meters: flows or packet windows, as the flow definition says."""

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.flows.meter import WHOLE, FlowMeter, RangePlace
from flowloom.transforms.flows.packet_windows import PacketWindows


def open_meter(definition: FlowDefinition, group: str, place: RangePlace = WHOLE) -> FlowMeter | PacketWindows:
    """Returns the meter of a flow definition: a `FlowMeter`, or `PacketWindows` for decisions about packets.

    Args:
      definition: what counts as one flow, or as the window of one packet.
      group: the capture group's content-based name, at least 16 hexadecimal digits.
      place: where the range lies in its group.

    Raises:
      ValueError: if the definition needs whole groups, and `place` is that of a part of one.
    """
    if definition.decision == "flow":
        return FlowMeter(definition, group, place)
    if place != WHOLE:
        raise ValueError(f"packet windows need a whole capture group, got {place}; meter the group in one range")
    return PacketWindows(definition, group)
