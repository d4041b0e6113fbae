"""Quotas: shares of a count as whole numbers."""

from collections.abc import Sequence


def quotas(count: int, shares: Sequence[float]) -> list[int]:
    """Returns the part of `count` for each share as a whole number, by largest remainder.

    A share above 0 gets at least one if `count` suffices for all such shares.
    """
    exact = [count * share for share in shares]
    parts = [int(part + 1e-9) for part in exact]
    by_remainder = sorted(range(len(shares)), key=lambda at: (parts[at] - exact[at], at))
    for at in by_remainder[: count - sum(parts)]:
        parts[at] += 1
    wanted = [at for at, share in enumerate(shares) if share > 0]
    if count >= len(wanted):
        for at in wanted:
            if not parts[at]:
                parts[parts.index(max(parts))] -= 1
                parts[at] += 1
    return parts
