"""The grid of Rezaei and Liu: settings that are compared on each set of flows, on several splits."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flowloom.pipelines.reproduce.engine.experiments import Experiment
from flowloom.pipelines.reproduce.engine.options import Repeat
from flowloom.pipelines.reproduce.engine.repeated_splits import TEST_PER_TRAIN
from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_experiments import RezaeiLiuSetting
from flowloom.trainers.evaluation.intervals import Mean, difference_of, mean_of

FEW = 20
"""Labels per class where another setting is varied, as in the paper."""
LOWEST_LABELS = (10, FEW)
"""Labels per class with which the paper's claims are decided."""
KBPS = 8000.0
"""The paper's unit of bandwidth dividers in bit/s; see `docs/reproduction/multitask-cnn.md`."""

PAPER_DIVIDERS: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((21.15, 164.02, 568.82, 2890.56), (5.97, 21.35, 44.80, 84.00)),
    ((21.15, 164.02, 568.82, 2890.56), (20, 40, 80, 100)),
    ((21.15, 164.02, 568.82, 2890.56), (1, 50, 100, 150)),
    ((10, 50, 100, 1000), (5.97, 21.35, 44.80, 84.00)),
    ((50, 100, 200, 300), (5.97, 21.35, 44.80, 84.00)),
    ((50, 100, 200, 300), (1, 50, 100, 150)),
)
"""Table IV: dividers of bandwidth, in the paper's unit, and of duration in s; the first pair is the optimal one."""


@dataclasses.dataclass(frozen=True)
class FlowSet:
    """One set of flows of the experiments."""

    name: str
    directory: str
    task: str
    classes: tuple[str, ...]
    """Label values of the class task."""
    title: str
    content: str
    signed: bool
    """Whether its flows have directions."""
    packets: int
    """Largest number of stored packets per flow."""
    paper_dividers: bool = False
    """Whether the dividers of table IV are for these flows."""
    texts_only: bool = False
    """Whether it only serves to show the benefit of directions and whole flows."""


@dataclasses.dataclass(frozen=True)
class RezaeiLiuScale:
    """Size of the grid."""

    repeats: int = 5
    updates: int = 400
    labels: tuple[int, ...] = (10, 20, 50, 100)
    packets: tuple[int, ...] = (30, 45, 60, 90, 120)
    weights: tuple[float, ...] = (0.1, 1.0, 5.0, 10.0, 50.0, 100.0, 1000.0)
    dividers: int = len(PAPER_DIVIDERS)

    @classmethod
    def quick(cls) -> "RezaeiLiuScale":
        """Returns a small grid, which tests that everything runs."""
        return cls(2, 60, LOWEST_LABELS, (30, 60), (1.0, 10.0), 2)


def arms(flows: FlowSet, scale: RezaeiLiuScale) -> dict[str, dict[str, Any]]:
    """Returns the settings of all arms on a set of flows, by name of the arm."""
    if flows.texts_only:
        few = {"labels": LOWEST_LABELS[0]}
        return {
            "multi-task signed": {"method": "multi-task", "signed": True, **few},
            "multi-task unsigned": {"method": "multi-task", "signed": False, **few},
            "forest-statistics signed": {"method": "forest-statistics", "signed": True, **few},
            "forest-statistics unsigned": {"method": "forest-statistics", "signed": False, **few},
        }
    found: dict[str, dict[str, Any]] = {}
    for labels in scale.labels:
        for method in ("multi-task", "forest-statistics", "forest", "boosted-trees", "cnn-rnn2"):
            found[f"{method} labels-{labels}"] = {"method": method, "labels": labels}
        found[f"multi-task-windows labels-{labels}"] = {
            "method": "multi-task-windows", "labels": labels, "budget": "converged"
        }  # fmt: skip
        found[f"transfer labels-{labels}"] = {"method": "transfer", "labels": labels}
        if labels in LOWEST_LABELS:
            found[f"transfer-converged labels-{labels}"] = {
                "method": "transfer", "labels": labels, "budget": "converged"
            }  # fmt: skip
            for method in ("cnn-rnn2", "single-task"):
                found[f"{method}-converged labels-{labels}"] = {
                    "method": method, "labels": labels, "budget": "converged"
                }  # fmt: skip
            found[f"multi-task-rule labels-{labels}"] = {"method": "multi-task", "labels": labels, "weight": None}
            found[f"multi-task-masked-input labels-{labels}"] = {"method": "multi-task-masked-input", "labels": labels}
    for task in ("bandwidth", "duration"):
        found[f"cnn-rnn2 {task}"] = {
            "method": "cnn-rnn2", "trained": task, "dividers": "all", "budget": "converged"
        }  # fmt: skip
    found["single-task all"] = {"method": "single-task", "budget": "converged"}
    found["cnn-rnn2 all"] = {"method": "cnn-rnn2", "budget": "converged"}
    for k in scale.packets:
        if k <= flows.packets and k != RezaeiLiuSetting.k:
            found[f"multi-task k-{k}"] = {"method": "multi-task", "labels": FEW, "k": k}
    for weight in scale.weights:
        if weight != RezaeiLiuSetting.weight:
            found[f"multi-task lambda-{weight:g}"] = {"method": "multi-task", "labels": FEW, "weight": weight}
    for number, dividers in enumerate(divider_settings(flows, scale)):
        found[f"multi-task dividers-{number}"] = {"method": "multi-task", "labels": FEW, "dividers": dividers}
    if not flows.signed:
        found[f"multi-task-code labels-{FEW}"] = {"method": "multi-task-code", "labels": FEW}
    return found


def divider_settings(flows: FlowSet, scale: RezaeiLiuScale) -> list[Any]:
    """Returns the dividers that are compared, the optimal ones first."""
    given = [(tuple(KBPS * each for each in bandwidth), duration) for bandwidth, duration in PAPER_DIVIDERS[1:]]
    return (["all", *given] if flows.paper_dividers else ["all", "shares", "crowded"])[: scale.dividers]


def grid(sets: Sequence[FlowSet], scale: RezaeiLiuScale, repeats: Sequence[Repeat]) -> list[Experiment]:
    """Returns the experiments of all arms; transfers on the same split share their first training."""
    experiments = []
    for flows in sets:
        for repeat in repeats:
            for name, settings in sorted(arms(flows, scale).items()):
                setting = RezaeiLiuSetting(
                    flows.name, flows.content, repeat=repeat.number, seed=repeat.seed, updates=scale.updates,
                    **{"signed": flows.signed, **settings},
                )  # fmt: skip
                shared = f"{flows.name} {repeat.name}" if setting.method == "transfer" else ""
                experiments.append(setting.experiment(name.replace(" ", "__"), shared))
    return experiments


@dataclasses.dataclass(frozen=True)
class RezaeiLiuOutcomes:
    """The results of a grid, by set of flows and arm."""

    results: Mapping[str, dict[str, Any]]
    scale: RezaeiLiuScale
    repeats: Sequence[Repeat]

    def all_of(self, flows: FlowSet, arm: str) -> list[dict[str, Any]]:
        """Returns the results of an arm by repeat."""
        stem = f"{flows.name}__{arm.replace(' ', '__')}"
        return [self.results[f"{stem}__{repeat.name}"] for repeat in self.repeats]

    def accuracies(self, flows: FlowSet, arm: str, task: str = "class") -> list[float]:
        """Returns the accuracy of an arm on the test rows by repeat, in per cent."""
        return [100 * result["accuracy"][task] for result in self.all_of(flows, arm)]

    def mean(self, flows: FlowSet, arm: str, task: str = "class") -> Mean:
        """Returns the mean accuracy of an arm, in per cent."""
        return mean_of(self.accuracies(flows, arm, task), TEST_PER_TRAIN)

    def gain(self, flows: FlowSet, arm: str, other: str, task: str = "class") -> Mean:
        """Returns by how many points one arm is above another on the same splits."""
        return difference_of(self.accuracies(flows, arm, task), self.accuracies(flows, other, task), TEST_PER_TRAIN)
