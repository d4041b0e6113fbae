"""Claims of Wang, Gao and Lei (MTC), the figures of their tables, and the verdict on the present data."""

from collections.abc import Sequence

from flowloom.pipelines.reproduce.engine.claims import Claim, claim_above, claim_fact
from flowloom.pipelines.reproduce.mtc.mtc_experiments import LINK_TYPE, RowSet
from flowloom.pipelines.reproduce.mtc.mtc_grid import (
    HEADERS,
    PACKETS,
    SESSIONS,
    TABLES,
    MTCOutcomes,
    converged,
)
from flowloom.schemas.dataset.card_parts import ByteRule

Figures = tuple[float, float]
"""F1 and recall in per cent."""
PAPER_TABLE_4: dict[str, dict[str, Figures]] = {
    "mtc": {
        "app": (98.25, 98.30), "tra": (97.94, 97.54), "aux": (97.97, 97.81), "attack": (99.47, 99.66),
        "mal": (99.71, 99.75),
    },
    "transformer": {
        "app": (97.27, 97.18), "tra": (95.90, 95.44), "aux": (96.86, 96.50), "attack": (99.30, 99.52),
        "mal": (99.66, 99.70),
    },
    "cnn": {
        "app": (96.13, 95.91), "tra": (89.36, 88.95), "aux": (95.56, 95.23), "attack": (99.45, 99.63),
        "mal": (99.70, 99.74),
    },
    "mtc-2task": {"app": (95.60, 95.24), "tra": (92.46, 91.53)},
}  # fmt: skip
"""Table 4. `app` is the task of the Transformer branch; here that task is `vpn`."""
PAPER_TABLE_6 = {(5, 5): (97.17, 97.07), (5, 6): (97.73, 97.26), (6, 5): (95.57, 94.82), (6, 6): (95.46, 96.17)}
PAPER_TABLE_7 = {3: (92.04, 91.79), 4: (97.73, 97.26), 5: (92.38, 91.44), 6: (97.46, 97.48), 7: (97.26, 96.95)}
PAPER_TABLE_8 = {0.05: (97.46, 97.48), 0.07: (97.94, 97.54), 0.09: (88.18, 89.56)}
PAPER_TABLE_9 = {50: (95.99, 96.85), 80: (97.25, 97.50), 100: (97.94, 97.54), 120: (97.25, 97.21)}
"""Tables 6 to 9: F1 and recall of Tra, the only task that is also in this data."""

TITLES = {
    "mtc-lite": "MTC lite (ours)",
    "mtc": "MTC, the paper's layers",
    "dense": "dense layer on bits or waves alone",
    "transformer": "multi-task Transformer",
    "cnn": "multi-task 1D-CNN",
    "forest": "random forest",
    "boosted-trees": "boosted trees",
    "neighbour": "nearest train session",
    "byte": f"byte {LINK_TYPE} alone",
}
TASK_TITLES = {"tra": "Tra.", "aux": "Aux.", "aux-sum": "Aux. by sum", "vpn": "VPN", "attack": "Attack.", "mal": "Mal.",
               "mal-sum": "Mal. by sum"}  # fmt: skip

LEAST = {"attack": 97.0, "mal": 99.0}
"""Macro F1 in per cent on the subset of CICIDS2017 from which on the paper counts as reached."""


def claims(sets: Sequence[RowSet], outcomes: MTCOutcomes, byte_rule: ByteRule | None) -> list[Claim]:
    """Returns every claim that the data can decide, about methods that were trained near convergence.

    None is the paper's own about MTC: its layers, its Transformer and its 1D-CNN were trained for a budget of processor
    time here (`mtc_grid.CONVERGED`).

    Args:
      byte_rule: the byte rule of the tunnel, from the card of the sessions with headers.
    """
    names = {rows.name for rows in sets}
    found = []
    if SESSIONS in names:
        found += _sessions(outcomes)
    if TABLES in names:
        found += _tables(outcomes)
    if HEADERS in names and byte_rule is not None:
        found += _headers(outcomes, byte_rule)
    if PACKETS in names:
        found.append(
            _above(
                outcomes, PACKETS, "forest by row", "forest by flow", "app",
                "Embedded corpus: the random forest scores higher on a split by packet, as in the paper, than on one "
                "by flow", "split by packet",
            )
        )  # fmt: skip
    return found


def _sessions(outcomes: MTCOutcomes) -> list[Claim]:
    """Returns our claims about ISCX; those of tables 4 and 6 to 8 need the paper's networks near convergence."""
    statement = "ISCX: MTC lite is above a random forest on the same bytes by macro F1 of Tra."
    found = [_above(outcomes, SESSIONS, "mtc-lite", "forest", "tra", statement, "not tried")]
    for task in ("tra", "vpn"):
        statement = f"ISCX: MTC lite is above a dense layer on all bits alone, by macro F1 of {TASK_TITLES[task]}"
        found.append(_above(outcomes, SESSIONS, "mtc-lite", "dense", task, statement, "not tried"))
    statement = "ISCX: summing the probabilities of Tra predicts Aux at most 1 point worse than its own head."
    one, other = ("mtc-lite", "aux-sum"), ("mtc-lite", "aux")
    return [*found, _compared(outcomes, SESSIONS, "aux-by-sum", one, other, statement, "not tried", -1.0)]


def _tables(outcomes: MTCOutcomes) -> list[Claim]:
    """Returns the claims about CICIDS2017."""
    found, method = [], "mtc-lite"
    for task, least in LEAST.items():
        mean = outcomes.mean(TABLES, method, task)
        statement = (
            f"CICIDS2017: {TITLES[method]} reaches a macro F1 of {least:g} for {TASK_TITLES[task]} on the subset."
        )
        paper = f"{PAPER_TABLE_4['mtc'][task][0]} by MTC"
        reached = f"{mean.mean:.1f} as a mean"
        found.append(claim_above(f"cicids-{method}-{task}", statement, paper, reached, mean, least))
        if task == "mal":
            statement = (
                f"CICIDS2017: {TITLES[method]} predicts Mal. better from a sum of Attack. than from its own head."
            )
            id, summed, own = f"cicids-{method}-mal-by-sum", (method, "mal-sum"), (method, "mal")
            found.append(_compared(outcomes, TABLES, id, summed, own, statement, "not tried"))
        for other in ("forest", "boosted-trees", "dense"):
            statement = f"CICIDS2017: {TITLES[method]} is above {_the(other)} by macro F1 of {TASK_TITLES[task]}"
            found.append(_above(outcomes, TABLES, method, other, task, statement, "not tried"))
    return found


def _headers(outcomes: MTCOutcomes, rule: ByteRule) -> list[Claim]:
    """Returns the claim about the leak in file headers."""
    right = outcomes.mean(HEADERS, "byte", "vpn").mean
    statement = f"ISCX with file headers: byte {LINK_TYPE}, the link type, alone predicts VPN with a macro F1 above 98."
    stripped = outcomes.mean(SESSIONS, "forest", "vpn").mean
    ours = f"{right:.1f}; {100 * rule.right:.1f} % of train rows by the card; forest without headers {stripped:.1f}"
    return [claim_fact("leak", statement, "not reported", ours, right > 98.0 and LINK_TYPE in rule.leaking)]


def _above(
    outcomes: MTCOutcomes, name: str, arm: str, other: str, task: str, statement: str, paper: str
) -> Claim:  # fmt: skip
    """Returns the claim that an arm is above another by macro F1 of a task."""
    id = f"{name}-{arm}-above-{other}-{task}".replace(" ", "-")
    return _compared(outcomes, name, id, (arm, task), (other, task), f"{statement.rstrip('.')}.", paper)


def _compared(
    outcomes: MTCOutcomes, name: str, id: str, one: tuple[str, str], other: tuple[str, str], statement: str, paper: str,
    least: float = 0.0,
) -> Claim:  # fmt: skip
    """Returns the claim that one arm and task is more than `least` points of macro F1 above another."""
    if name != PACKETS and not all(converged(name, arm) for arm, _ in (one, other)):
        raise ValueError(f"arms of a claim must be trained near convergence, got {one[0]} and {other[0]}")
    means = [outcomes.mean(name, *each).mean for each in (one, other)]
    ours = f"{means[0]:.1f} against {means[1]:.1f}"
    return claim_above(id, statement, paper, ours, outcomes.between(name, one, other), least)


def _the(method: str) -> str:
    return TITLES[method] if method == "boosted-trees" else f"the {TITLES[method]}"
