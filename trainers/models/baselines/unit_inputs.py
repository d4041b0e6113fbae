"""Inputs of networks that read packets in units: sizes in bytes, gaps in microseconds, directions of -1 and +1."""

UNIT_CHANNELS = ("size", "gap", "direction")
"""Channels that these networks read, in this order, under `feed.scaling=none`."""
TYPICAL_PACKET = (1500.0, 1e6, 1.0)
"""A large value of each channel, by which random test inputs are scaled."""


def check_unit_channels(channels: int) -> None:
    """Raises unless a network has the three channels.

    Raises:
      ValueError: naming them.
    """
    if channels != len(UNIT_CHANNELS):
        raise ValueError(f"channels must be {len(UNIT_CHANNELS)} ({', '.join(UNIT_CHANNELS)}), got {channels}")
