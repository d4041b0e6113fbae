"""The grid of MTC: settings that are compared on each set of rows, on several splits."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flowloom.pipelines.reproduce.engine.experiments import Experiment
from flowloom.pipelines.reproduce.engine.options import Repeat
from flowloom.pipelines.reproduce.engine.repeated_splits import TEST_PER_TRAIN
from flowloom.pipelines.reproduce.mtc.mtc_experiments import MTCSetting, RowSet
from flowloom.trainers.evaluation.intervals import Mean, difference_of, mean_of

SESSIONS, HEADERS, TABLES, PACKETS = "iscx", "iscx-headers", "cicids2017", "embedded-packets"
"""Names of the sets of rows."""

REPETITIONS = ((1, 5, 5), (1, 5, 6), (1, 6, 5), (1, 6, 6))
"""Encoder layers of table 6."""
WEIGHTS = (3, 4, 5, 6, 7)
"""Loss weights of the task in the place of App, in table 7."""
DROPOUTS = (0.05, 0.07, 0.09)
"""Dropout rates of table 8."""
FEW_MOMENTS = 4
"""Number of measurements of trainings of few updates on validation rows."""
MOMENTS_OF_TABLE_9 = (5, 8, 10, 12)
"""The moments of 12 that correspond to the 50, 80, 100 and 120 epochs of table 9."""
UPDATES = {
    SESSIONS: {"mtc-lite": 1000, "mtc": 330, "transformer": 960, "cnn": 480, "dense": 1000},
    TABLES: {"mtc-lite": 2000, "mtc": 460, "transformer": 2300, "cnn": 3500, "dense": 2000},
}
"""Updates of 128 rows of each network. The budget is processor time, measured as about 460 s on ISCX and 200 s on
CICIDS2017. `dense` has as many updates as `mtc-lite`, and takes a tenth of its time."""
CONVERGED = {SESSIONS: ("mtc-lite", "dense"), TABLES: ("mtc-lite", "dense")}
"""Networks that these updates train near convergence: on development rows, twice as many change macro F1 by less than a
seed does (docs/decisions/0020-mtc-lite.md). Claims and table 4 are about these, and about methods without updates: what
another network reaches within the budget says nothing about the network, or about the paper."""
RATES = {SESSIONS: 0.001, TABLES: 0.002}
"""Highest learning rates. On development rows of ISCX the paper's 0.001 is the best one of both rivals, and 0.002 is no
better for MTC lite; on those of CICIDS2017 MTC lite learns more at 0.002, and the 1D-CNN as much at 0.003."""
PAPER_WEIGHTS: dict[str, dict[str, tuple[int, ...]]] = {
    SESSIONS: {"mtc": (2, 1, 6), "transformer": (2, 1, 4), "cnn": (2, 1, 2)},
    TABLES: {"mtc": (2, 1), "transformer": (3, 1), "cnn": (3, 1)},
}
"""Of the losses in the order of the tasks: sections 3.3.5, 4.3.1 and 4.3.2."""
HEADS = {"mtc-lite-2task": "without Aux", "mtc-lite-sum": "Aux as a sum of Tra"}
"""Arms of MTC lite with other heads, beside `dropout_arm(PAPER_DROPOUT)` with all three."""
PAPER_DROPOUT = 0.07


@dataclasses.dataclass(frozen=True)
class MTCScale:
    """Size of the grid.

    Attributes:
      sessions: largest number of sessions of an ISCX class.
      budget: share of `UPDATES`.
      ablation_updates: updates of MTC lite where layers, weights, rates and heads are compared.
      packets: largest number of packets of a class of the embedded corpus.
      repetitions, weights, dropouts: the settings of tables 6, 7 and 8.
      boosted: whether boosted trees are also fitted on bytes.
    """

    repeats: int = 3
    sessions: int = 600
    budget: float = 1.0
    ablation_updates: int = 160
    packets: int = 300
    repetitions: tuple[tuple[int, ...], ...] = REPETITIONS
    weights: tuple[int, ...] = WEIGHTS
    dropouts: tuple[float, ...] = DROPOUTS
    boosted: bool = True

    @classmethod
    def quick(cls) -> "MTCScale":
        """Returns a small grid, which tests that everything runs."""
        return cls(1, 120, 0.04, 12, 100, ((1, 5, 6),), (3, 6), (0.07,), False)

    def updates(self, name: str, method: str) -> int:
        """Returns the updates of a network on a set of rows."""
        return max(round(self.budget * UPDATES[name][method]), 1)


def arms(name: str, scale: MTCScale) -> dict[str, dict[str, Any]]:
    """Returns the settings of all arms on a set of rows, by name of the arm."""
    if name == HEADERS:
        return {method: {"method": method, "tested": ("vpn",)} for method in ("forest", "byte")}
    if name == PACKETS:
        return {f"forest by {unit}": {"method": "forest", "together": unit} for unit in ("flow", "row")}
    trees = ("forest", "boosted-trees") if scale.boosted or name == TABLES else ("forest",)
    found: dict[str, dict[str, Any]] = {
        method: {"method": method, **({"tested": ("tra",)} if method == "boosted-trees" and name == SESSIONS else {})}
        for method in trees
    }
    paper = {method: _named(name, weights) for method, weights in PAPER_WEIGHTS[name].items()}
    for method in UPDATES[name]:
        weights = paper.get(method, paper["mtc"])
        found[method] = {
            "method": method, "weights": weights, "updates": scale.updates(name, method), "rate": RATES[name]
        }  # fmt: skip
    if name == SESSIONS:
        found["mtc-lite"]["watched"] = True
        found["neighbour"] = {"method": "neighbour"}
        found |= _ablations(scale, paper["mtc"])
    return found


def _ablations(scale: MTCScale, weights: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Returns the arms of tables 6 to 8 and of other heads, all of MTC lite."""
    common = {"updates": scale.ablation_updates, "moments": FEW_MOMENTS}
    found: dict[str, dict[str, Any]] = {}
    for layers in scale.repetitions:
        # table 6 has weights of 4:2:1
        found[f"layers {layers[1]}-{layers[2]}"] = {
            "method": "mtc-lite", "repetitions": layers, "dropout": 0.05, "weights": _named(SESSIONS, (2, 1, 4)),
            **common,
        }  # fmt: skip
    for weight in scale.weights:
        weighed = _named(SESSIONS, (2, 1, weight))
        found[f"weight {weight}"] = {"method": "mtc-lite", "dropout": 0.05, "weights": weighed, **common}
    for rate in scale.dropouts:
        found[dropout_arm(rate, scale)] = {"method": "mtc-lite", "dropout": rate, "weights": weights, **common}
    for method in HEADS:
        kept = {task: weight for task, weight in weights.items() if task != "aux" or method != "mtc-lite-2task"}
        found[method] = {"method": method, "dropout": PAPER_DROPOUT, "weights": kept, **common}
    return found


def dropout_arm(rate: float, scale: MTCScale) -> str:
    """Returns the arm of a dropout rate of table 8; one of them is also in table 7."""
    return "weight 6" if rate == 0.05 and 6 in scale.weights else f"dropout {rate:g}"


def converged(name: str, arm: str) -> bool:
    """Returns whether an arm is trained near convergence, as trees and neighbours are; no ablation is."""
    return arm in CONVERGED.get(name, ()) or arm in ("forest", "boosted-trees", "neighbour")


def grid(sets: Sequence[RowSet], scale: MTCScale, repeats: Sequence[Repeat]) -> list[Experiment]:
    """Returns the experiments of all arms, those with the same network in a row."""
    experiments = [
        MTCSetting(
            rows.name, rows.content, rows.limit, repeat=repeat.number, seed=repeat.seed, totals=dict(rows.totals),
            **settings,
        ).experiment(arm.replace(" ", "__"))
        for rows in sets
        for arm, settings in arms(rows.name, scale).items()
        for repeat in repeats
    ]  # fmt: skip
    return sorted(experiments, key=lambda experiment: (not experiment.together, experiment.together, experiment.name))


@dataclasses.dataclass(frozen=True)
class MTCOutcomes:
    """The results of a grid, by set of rows and arm."""

    results: Mapping[str, dict[str, Any]]
    scale: MTCScale
    repeats: Sequence[Repeat]

    def all_of(self, name: str, arm: str) -> list[dict[str, Any]]:
        """Returns the results of an arm by repeat."""
        stem = f"{name}__{arm.replace(' ', '__')}"
        return [self.results[f"{stem}__{repeat.name}"] for repeat in self.repeats]

    def values(self, name: str, arm: str, task: str, figure: str = "macro_f1") -> list[float]:
        """Returns a figure of a task on the test rows by repeat, in per cent."""
        return [100 * result["tasks"][task][figure] for result in self.all_of(name, arm)]

    def of_class(self, name: str, arm: str, task: str, label: str, figure: str) -> Mean:
        """Returns the mean of a figure of one class, in per cent."""
        results = self.all_of(name, arm)
        values = [100 * result["tasks"][task]["classes"][label][figure] for result in results]
        return mean_of(values, TEST_PER_TRAIN)

    def mean(self, name: str, arm: str, task: str, figure: str = "macro_f1") -> Mean:
        """Returns the mean of a figure, in per cent."""
        return mean_of(self.values(name, arm, task, figure), TEST_PER_TRAIN)

    def gain(self, name: str, arm: str, other: str, task: str) -> Mean:
        """Returns the difference in macro F1 of two arms on the same splits, in points."""
        return self.between(name, (arm, task), (other, task))

    def between(self, name: str, one: tuple[str, str], other: tuple[str, str]) -> Mean:
        """Returns the difference in macro F1 of two pairs of arm and task on the same splits, in points."""
        return difference_of(self.values(name, *one), self.values(name, *other), TEST_PER_TRAIN)

    def has(self, name: str, arm: str, task: str) -> bool:
        """Returns whether an arm was run and predicts a task."""
        return arm in arms(name, self.scale) and task in self.all_of(name, arm)[0]["tasks"]


def _named(name: str, weights: Sequence[int]) -> dict[str, float]:
    tasks = ("tra", "aux", "vpn") if name == SESSIONS else ("attack", "mal")
    return {task: float(weight) for task, weight in zip(tasks, weights, strict=True)}
