"""An impaired Ethernet link in user space: two TAP devices, joined with delay, jitter and loss.

Frames read from one device are written to the other after `delay` plus an exponentially distributed `jitter`, in
order, and some are dropped. The draws come from a seed, so two runs with one seed treat their n-th frame alike.
"""

import argparse
import contextlib
import fcntl
import heapq
import os
import random
import select
import signal
import struct
import sys
import time

TUNSETIFF = 0x400454CA
"""ioctl that binds a file descriptor of /dev/net/tun to a device; linux/if_tun.h."""
IFF_TAP_NO_PI = 0x0002 | 0x1000
"""Ethernet frames (IFF_TAP) without the 4-byte packet information header (IFF_NO_PI)."""
FRAME_BYTES = 65536
LONGEST_RUN = 600.0
"""Seconds after which the link ends on its own, whatever started it."""


def open_tap(name: str) -> int:
    """Returns a non-blocking file descriptor of an existing TAP device."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TAP_NO_PI))
    return descriptor


def carry(taps: tuple[int, int], delay: float, jitter: float, loss: float, draws: random.Random) -> None:
    """Carries frames both ways until the process is ended or `LONGEST_RUN` is over.

    Args:
      taps: the two ends.
      delay: seconds that every frame takes one way.
      jitter: mean of the exponential delay added to it, in seconds; frames of one direction stay in order.
      loss: probability that a frame is dropped.
      draws: where jitter and loss come from.
    """
    other = {taps[0]: taps[1], taps[1]: taps[0]}
    last_due = dict.fromkeys(taps, 0.0)
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    end = time.monotonic() + LONGEST_RUN
    while (now := time.monotonic()) < end:
        while waiting and waiting[0][0] <= now:
            _, _, out, frame = heapq.heappop(waiting)
            with contextlib.suppress(BlockingIOError):  # the queue of the device is full: one more lost frame
                os.write(out, frame)
        wait = min(waiting[0][0] - now, 1.0) if waiting else 1.0
        for tap in select.select(taps, [], [], wait)[0]:
            try:
                frame = os.read(tap, FRAME_BYTES)
            except BlockingIOError:
                continue
            number += 1
            lost = draws.random() < loss
            due = time.monotonic() + delay + (draws.expovariate(1 / jitter) if jitter else 0.0)
            if lost:
                continue
            last_due[tap] = due = max(due, last_due[tap])
            heapq.heappush(waiting, (due, number, other[tap], frame))


def main() -> None:
    """Joins the two devices named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("devices", nargs=2, help="two existing TAP devices")
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds, one way")
    parser.add_argument("--jitter", type=float, default=0.0, help="mean added milliseconds")
    parser.add_argument("--loss", type=float, default=0.0, help="per cent of frames")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    taps = open_tap(wanted.devices[0]), open_tap(wanted.devices[1])
    carry(taps, wanted.delay / 1000, wanted.jitter / 1000, wanted.loss / 100, random.Random(wanted.seed))


if __name__ == "__main__":
    main()
