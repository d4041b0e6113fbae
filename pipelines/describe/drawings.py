"""Geometry of the figures on a dataset page, in units of their view boxes; the template draws and escapes them."""

import dataclasses
import datetime as dt
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from flowloom.schemas.dataset.card_parts import GAP_THRESHOLD_S
from flowloom.schemas.dataset.dataset_statistics import LEVELS, ClassProfile, ValueStatistics

PROFILE_WIDTH, PROFILE_HEIGHT = 232.0, 150.0
STRIP_WIDTH = 420.0
TIMELINE_WIDTH, LINE_HEIGHT, MOST_LINES = 1000.0, 7.0, 48
MOST_SPANS, MOST_BOXES = 1_000, 2_000
"""Most groups, and about the most captures, on a timeline: more would only make the page larger."""
MOST_POSITIONS, MOST_STEMS = 60, 3_000
"""Most positions of a profile, and of all profiles of a page together, which share them by class."""

_MARGIN = 30.0
_PREFIXES = (
    (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Stem:
    """One position of a profile: upper quartile, median and lower quartile, and the share of flows that reach it."""

    x: float
    upper: float
    median: float
    lower: float
    forward: bool
    share: float
    title: str


@dataclasses.dataclass(frozen=True)
class Tick:
    """A tick of an axis and its text."""

    at: float
    text: str


@dataclasses.dataclass(frozen=True)
class ProfileDrawing:
    """The first packets of one class."""

    label: str
    flows: int
    stems: list[Stem]
    bar: float
    """Width of a quartile bar."""
    ticks: list[Tick]
    zero: float


def draw_profile(profile: ClassProfile, largest: float, positions: int) -> ProfileDrawing:
    """Places a profile on shared axes: sizes up to `largest` in both directions, and `positions` packets."""
    positions = min(positions, MOST_POSITIONS)
    step = (PROFILE_WIDTH - _MARGIN) / positions
    zero = (PROFILE_HEIGHT - 14) / 2

    def height(size: float) -> float:
        # a square root leaves room for small sizes, which most packets have
        return round(zero - math.copysign(math.sqrt(abs(size) / largest), size) * (zero - 4), 1)

    stems = []
    quartiles = zip(profile.flows, profile.lower, profile.median, profile.upper, strict=True)
    for at, (flows, lower, median, upper) in enumerate(itertools.islice(quartiles, positions)):
        side = "forward" if median > 0 else "backward"
        sizes = f"median {abs(median):,.0f} B {side}, quartiles {lower:+,.0f} to {upper:+,.0f} B"
        title = f"packet {at + 1} of {flows:,} flows: {sizes}"
        x = round(_MARGIN + step * (at + 0.5), 1)
        stems.append(Stem(x, height(upper), height(median), height(lower), median > 0, flows / profile.flows[0], title))
    ticks = [Tick(height(size), f"{abs(size):,.0f}") for size in (largest, largest / 10, 0, -largest / 10, -largest)]
    return ProfileDrawing(profile.word, profile.flows[0], stems, round(max(step * 0.62, 1.5), 1), ticks, zero)


def profile_scale(profiles: Iterable[ClassProfile]) -> float:
    """Returns a round size that no quartile of the profiles exceeds."""
    largest = max((abs(size) for profile in profiles for size in (*profile.lower, *profile.upper)), default=1.0)
    unit = 10 ** math.floor(math.log10(max(largest, 100)))
    return float(math.ceil(largest / unit * 2) * unit / 2)


@dataclasses.dataclass(frozen=True)
class Strip:
    """Quantiles of one split on a common axis."""

    split: str
    ends: tuple[float, float]
    inner: tuple[float, float]
    median: float
    text: str


@dataclasses.dataclass(frozen=True)
class StripsDrawing:
    """Quantiles of one quantity in all splits, on a logarithmic axis with zeros at its left end."""

    name: str
    strips: list[Strip]
    ticks: list[Tick]


def draw_strips(name: str, splits: dict[str, ValueStatistics], scale: float, unit: str) -> StripsDrawing | None:
    """Places quantiles of values >= 0, divided by `scale` to get the unit shown; returns None without any value."""
    scaled = {split: [value / scale for value in found.quantiles] for split, found in splits.items()}
    positive = [value for values in scaled.values() for value in values if value > 0]
    if not scaled:
        return None
    low = math.floor(math.log10(min(positive))) if positive else 0
    high = max(math.ceil(math.log10(max(positive))), low + 1) if positive else 1
    begin = 18.0  # zeros are to its left

    def place(value: float) -> float:
        if value <= 0:
            return 4.0
        return round(begin + (math.log10(value) - low) / (high - low) * (STRIP_WIDTH - begin - 24), 1)

    every = max(1, math.ceil((high - low) / 6))
    ticks = [Tick(place(10.0**power), _short(10.0**power, unit)) for power in range(low, high + 1, every)]
    if min(value for values in scaled.values() for value in values) <= 0:
        ticks = [Tick(4.0, "0"), *(tick for tick in ticks if tick.at > 34)]
    strips = []
    for split, values in scaled.items():
        text = ", ".join(f"{level:.0%}: {_short(value, unit)}" for level, value in zip(LEVELS, values, strict=True))
        at = [place(value) for value in values]
        strips.append(Strip(split, (at[0], at[-1]), (at[2], at[4]), at[3], text))
    return StripsDrawing(name, strips, ticks)


@dataclasses.dataclass(frozen=True)
class Span:
    """One capture group in time: its captures, and the gaps between them."""

    line: int
    captures: list[tuple[float, float]]
    gaps: list[tuple[float, float]]
    title: str


@dataclasses.dataclass(frozen=True)
class TimelineDrawing:
    """All capture groups in time, on different lines where they overlap."""

    spans: list[Span]
    lines: int
    ticks: list[Tick]
    omitted: int
    """Groups that are not drawn."""


def draw_timeline(captures: pa.Table) -> TimelineDrawing | None:
    """Places the groups of the captures table by first and last packet; returns None if no capture has a packet."""
    groups: dict[str, list[tuple[int, int, str]]] = {}
    columns = (captures[name].to_pylist() for name in ("group", "first_ns", "last_ns", "uri"))
    for group, first, last, uri in zip(*columns, strict=True):
        if first is not None:
            groups.setdefault(group, []).append((first, last, uri))
    if not groups:
        return None
    ordered = sorted((sorted(members) for members in groups.values()), key=lambda members: members[0])
    begin, end = ordered[0][0][0], max(last for members in ordered for _, last, _ in members)
    scale = TIMELINE_WIDTH / max(end - begin, 1)

    def place(time_ns: int) -> float:
        return round((time_ns - begin) * scale, 2)

    free: list[int] = []
    spans: list[Span] = []
    boxes_left = MOST_BOXES
    for members in ordered[:MOST_SPANS]:
        if boxes_left <= 0:
            break
        line = next((at for at, until in enumerate(free) if until < members[0][0]), len(free))
        if line == len(free) < MOST_LINES:
            free.append(0)
        line = min(line, MOST_LINES - 1)
        free[line] = max(free[line], members[-1][1], members[0][0] + int(3 / scale))
        boxes = _joined([(place(first), place(last)) for first, last, _ in members])
        boxes_left -= len(boxes)
        gaps = [(place(since), round(place(until) - place(since), 2)) for since, until in _gaps(members)]
        gaps = [gap for gap in gaps if gap[1] >= 0.5]
        more = f" and {len(members) - 1} more" if len(members) > 1 else ""
        spans.append(Span(line, boxes, gaps, f"{members[0][2]}{more}: {(members[-1][1] - members[0][0]) / 1e9:,.1f} s"))
    ticks = [
        Tick(TIMELINE_WIDTH * part / 4, _moment(begin + (end - begin) * part // 4, end - begin)) for part in range(5)
    ]
    return TimelineDrawing(spans, len(free), ticks, len(ordered) - len(spans))


def _joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns boxes (x, width) that cover spans in order of their beginning; spans less than half a unit apart join."""
    joined: list[list[float]] = []
    for begin, end in spans:
        if joined and begin - joined[-1][1] < 0.5:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([begin, end])
    return [(begin, max(round(end - begin, 2), 1.5)) for begin, end in joined]


def _gaps(members: Sequence[tuple[int, int, str]]) -> Iterator[tuple[int, int]]:
    ended = members[0][1]
    for first, last, _ in members[1:]:
        if first - ended > GAP_THRESHOLD_S * 1e9:
            yield ended, first
        ended = max(ended, last)


def _moment(time_ns: int, span_ns: int) -> str:
    moment = dt.datetime.fromtimestamp(time_ns / 1e9, dt.UTC)
    return moment.strftime("%Y-%m-%d" if span_ns > 10 * 86_400e9 else "%Y-%m-%d %H:%M")


def _short(value: float, unit: str) -> str:
    """Returns a number with an SI prefix."""
    scale, prefix = next(((scale, prefix) for scale, prefix in _PREFIXES if value >= scale), (1.0, ""))
    number = f"{value / scale:.3g}"
    return f"{number} {prefix}{unit}" if unit else number + prefix
