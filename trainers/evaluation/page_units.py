"""Numbers, times and sizes of pages as text with units that people read."""

import datetime as dt
import re

_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def count(value: float) -> str:
    """Returns a count with thousands separated, such as `12,345`."""
    return f"{value:,.0f}"


def figure(value: float | None, digits: int = 3) -> str:
    """Returns a metric with that many decimals; `n/a` if it is undefined."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def percent(part: float, whole: float = 1.0) -> str:
    """Returns a share of a whole in per cent, such as `58 %`; 0 and 100 only if exact."""
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.0f} %" if share in (0, 100) or 9.95 <= share < 99 else f"{share:.1f} %"


def duration(seconds: float) -> str:
    """Returns a duration in the largest unit that fits, such as `48 µs`, `3.4 s` or `2 min 5 s`."""
    if abs(seconds) >= 86_400:
        days, rest = divmod(round(seconds / 3600), 24)
        return f"{days:,} d" + (f" {rest} h" if rest else "")
    if abs(seconds) >= 3_570:
        hours, rest = divmod(round(seconds / 60), 60)
        return f"{hours} h" + (f" {rest} min" if rest else "")
    if abs(seconds) >= 99.95:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    if not seconds:
        return "0 s"
    unit, name = next((each for each in _SECONDS if abs(seconds) >= 0.9995 * each[0]), _SECONDS[-1])
    return f"{_three_digits(seconds / unit)} {name}"


def size(value: float) -> str:
    """Returns a number of bytes in decimal units, such as `1.2 MB`."""
    unit, name = next((each for each in _BYTES if value >= each[0]), (1.0, "B"))
    return f"{_three_digits(value / unit)} {name}"


def moment(time: dt.datetime | str) -> str:
    """Returns a time in UTC, such as `2024-05-06 07:08:09 UTC`.

    Args:
      time: a time with a zone, or its ISO text.
    """
    time = dt.datetime.fromisoformat(time) if isinstance(time, str) else time
    return time.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def bin_of(text: str, column: str) -> str:
    """Returns the text of a histogram bin, such as `128 to 255`, with durations instead of nanoseconds."""
    return re.sub(r"\d+", lambda found: duration(int(found[0]) / 1e9), text) if column.endswith("_ns") else text


def _three_digits(value: float) -> str:
    """Returns a number with about three digits and no exponent."""
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"
