"""Inputs of networks that read packets in units: sizes in bytes, gaps in microseconds, directions of -1 and +1."""

UNIT_CHANNELS = ("size", "gap", "direction")
"""Channels that these networks read, in this order, under `feed.scaling=none`."""


def check_unit_channels(channels: int) -> None:
    """Raises unless a network has the three channels.

    Raises:
      ValueError: naming them.
    """
    if channels != len(UNIT_CHANNELS):
        raise ValueError(f"channels must be {len(UNIT_CHANNELS)} ({', '.join(UNIT_CHANNELS)}), got {channels}")
