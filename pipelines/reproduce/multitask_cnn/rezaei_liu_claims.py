"""Claims of Rezaei and Liu, the figures of their tables, and the verdict on the present flows."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from flowloom.pipelines.reproduce.engine.claims import Claim, claim_above, claim_fact
from flowloom.pipelines.reproduce.multitask_cnn.auxiliary_labels import mean_dividers
from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_grid import (
    FEW,
    KBPS,
    LOWEST_LABELS,
    PAPER_DIVIDERS,
    FlowSet,
    RezaeiLiuOutcomes,
    divider_settings,
)

PARAMETERS = 296_847
PAPER_MEANS_S = (2.77, 9.83, 32.08, 56.44, 114.10)
"""Mean durations of the five services (section IV-C); the dividers below lie between them."""
PAPER_DURATION_DIVIDERS_S = (6.30, 20.96, 44.26, 85.27)
PAPER_ALL_LABELS = 97.67
"""Accuracy in per cent of one task alone with all labels (section V-B)."""

Figures = dict[int, tuple[float | None, float | None, float]]
"""Accuracies of bandwidth, duration and class by labels per class, in per cent."""
PAPER: dict[str, dict[str, Figures]] = {
    "III": {
        "multi-task": {
            10: (89.33, 91.00, 93.33), 20: (90.33, 91.33, 94.67), 50: (90.67, 91.33, 96.00), 100: (90.67, 92.00, 97.33)
        },
        "transfer": {n: (None, None, a) for n, a in {10: 85.33, 20: 87.33, 50: 90.67, 100: 92.67}.items()},
        "cnn-rnn2": {n: (89.33, 92.00, a) for n, a in {10: 64.67, 20: 66.67, 50: 76.67, 100: 85.33}.items()},
        "forest-statistics": {n: (None, None, a) for n, a in {10: 48.67, 20: 64.00, 50: 78.00, 100: 86.67}.items()},
    },
    "V": {
        "multi-task": {
            10: (88.67, 90.00, 60.00), 20: (88.00, 89.33, 65.33), 50: (91.33, 90.00, 72.67), 100: (89.33, 91.33, 80.67)
        },
        "transfer": {n: (None, None, a) for n, a in {10: 54.67, 20: 62.00, 50: 69.33, 100: 79.33}.items()},
        "cnn-rnn2": {n: (88.33, 90.00, a) for n, a in {10: 52.33, 20: 57.00, 50: 60.67, 100: 77.33}.items()},
    },
}  # fmt: skip
PAPER_TABLE_4 = (
    (90.67, 91.33, 94.67), (91.33, 92.00, 93.33), (91.33, 94.00, 92.66),
    (92.00, 90.66, 94.00), (84.66, 90.00, 93.00), (82.00, 93.00, 92.00),
)  # fmt: skip

TITLES = {
    "multi-task": "multi-task CNN, lambda 1",
    "multi-task-rule": "multi-task CNN, lambda by the starting rule",
    "multi-task-masked-input": "multi-task CNN, mask as published",
    "multi-task-code": "multi-task CNN, features as published",
    "multi-task-windows": "multi-task CNN with windows (ours)",
    "transfer": "transfer, as published",
    "transfer-converged": "transfer, trained longer",
    "cnn-rnn2": "CNN+RNN-2 alone, as published",
    "cnn-rnn2-converged": "CNN+RNN-2 alone, trained longer",
    "single-task-converged": "the same CNN alone, trained longer",
    "forest-statistics": "random forest on statistics",
    "forest": "random forest on the first 60 packets",
    "boosted-trees": "boosted trees on the first 60 packets",
}


@dataclasses.dataclass(frozen=True)
class LabelledTotals:
    """Class, bandwidth and duration of all published flows, also of those without packets."""

    services: tuple[str, ...]
    classes: np.ndarray
    """int32 [N], positions in `services`."""
    bandwidth: np.ndarray
    """Bandwidth in bit/s, float64 [N]."""
    duration: np.ndarray
    """Duration in s, float64 [N]."""


def claims(sets: Sequence[FlowSet], outcomes: RezaeiLiuOutcomes, totals: LabelledTotals | None) -> list[Claim]:
    """Returns every claim of the paper that the flows can decide, and our own."""
    found = _arithmetic(sets, outcomes, totals)
    compared = [flows for flows in sets if not flows.texts_only]
    for flows, table in zip(compared, ("III", "V"), strict=False):
        judge = _Judge(flows, outcomes, table)
        for labels in LOWEST_LABELS:
            for other in ("cnn-rnn2", "transfer", "cnn-rnn2-converged", "transfer-converged", "single-task-converged"):
                found.append(judge.above("multi-task", other, labels))
        found += [judge.above("multi-task-windows", "transfer-converged", labels) for labels in LOWEST_LABELS]
        found += [*judge.other_tasks(), judge.few_labels(), judge.packets(), *judge.weights(), *judge.dividers()]
    return found


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Decides the claims that compare two arms on one set of flows."""

    flows: FlowSet
    outcomes: RezaeiLiuOutcomes
    table: str
    """The paper's table of this set, or of the set that it replaces."""

    def compare(
        self, id: str, statement: str, paper: str, arm: str, other: str, task: str = "class", least: float = 0.0
    ) -> Claim:
        """Returns the claim that an arm is above another by more than `least` points."""
        means = [self.outcomes.mean(self.flows, each, task).mean for each in (arm, other)]
        gain = self.outcomes.gain(self.flows, arm, other, task)
        ours = f"{means[0]:.1f} against {means[1]:.1f}"
        return claim_above(f"{id}-{self.flows.name}", f"{self.flows.title}: {statement}.", paper, ours, gain, least)

    def above(self, method: str, other: str, labels: int) -> Claim:
        """Returns the claim that one method is more accurate than another with few labels."""
        figures, paper = PAPER[self.table], "not tried"
        if method in figures and other in figures:
            paper = f"{figures[method][labels][2]:.2f} against {figures[other][labels][2]:.2f}"
        return self.compare(
            f"{method}-above-{other}-{labels}",
            f"with {labels} labels per class {TITLES[method]} is above {TITLES[other]}",
            paper, f"{method} labels-{labels}", f"{other} labels-{labels}",
        )  # fmt: skip

    def other_tasks(self) -> list[Claim]:
        """Returns the claims that bandwidth and duration lose little when learned with the class."""
        most, found = max(self.outcomes.scale.labels), []
        for place, task in enumerate(("bandwidth", "duration")):
            paper = " against ".join(f"{PAPER[self.table][each][most][place]}" for each in ("multi-task", "cnn-rnn2"))
            statement = f"{task} loses less than 3 points by learning three tasks, against CNN+RNN-2 on it alone"
            arm = f"multi-task labels-{most}"
            found.append(self.compare(f"{task}-kept", statement, paper, arm, f"cnn-rnn2 {task}", task, -3.0))
        return found

    def few_labels(self) -> Claim:
        """Returns the claim that few labels are nearly as good as all labels."""
        most = max(self.outcomes.scale.labels)
        paper = (
            f"{PAPER['III']['multi-task'][most][2]} against {PAPER_ALL_LABELS}"
            if self.table == "III"
            else "not reported"
        )
        statement = f"with {most} labels per class it is less than 3 points below the same CNN alone with all labels"
        return self.compare(
            "few-labels-suffice", statement, paper, f"multi-task labels-{most}", "single-task all", least=-3.0
        )

    def packets(self) -> Claim:
        """Returns the claim that the class gains from 60 packets."""
        least = min(self.outcomes.scale.packets)
        statement = f"60 packets predict the class better than {least}"
        return self.compare("packets", statement, _DRAWN, f"multi-task labels-{FEW}", f"multi-task k-{least}")

    def weights(self) -> list[Claim]:
        """Returns the claims about lambda for which the grid has both sides."""
        one, ten = f"multi-task labels-{FEW}", "multi-task lambda-10"
        found = [self.compare("lambda-10", "lambda 10 is better for the class than lambda 1", _DRAWN, ten, one)]
        heaviest = f"multi-task lambda-{max(self.outcomes.scale.weights):g}"
        if heaviest != ten:
            statement = f"lambda {max(self.outcomes.scale.weights):g} is worse for the class than lambda 10"
            found.append(self.compare("lambda-large", statement, _DRAWN, ten, heaviest))
        return found

    def dividers(self) -> list[Claim]:
        """Returns the claims that even poor dividers are better than none."""
        worst = len(divider_settings(self.flows, self.outcomes.scale)) - 1
        found = []
        for rival in ("cnn-rnn2", "transfer"):
            paper = "not tried"
            if self.flows.paper_dividers:
                paper = f"{PAPER_TABLE_4[worst][2]} against {PAPER['III'][rival][FEW][2]}"
            statement = f"even with the poorest dividers the multi-task CNN is above {TITLES[rival]}"
            arm = f"multi-task dividers-{worst}"
            found.append(self.compare(f"poor-dividers-above-{rival}", statement, paper, arm, f"{rival} labels-{FEW}"))
        return found


_DRAWN = "a figure without numbers"


def _arithmetic(sets: Sequence[FlowSet], outcomes: RezaeiLiuOutcomes, totals: LabelledTotals | None) -> list[Claim]:
    """Returns the claims that need no training."""
    found = []
    five = next((flows for flows in sets if len(flows.classes) == 5 and not flows.texts_only), None)
    if five is not None:
        (count,) = {result["parameters"] for result in outcomes.all_of(five, f"multi-task labels-{FEW}")}
        statement = "The network has the parameters of table II: three heads of five classes, k = 60."
        found.append(claim_fact("parameters", statement, f"{PARAMETERS:,}", f"{count:,}", count == PARAMETERS))
    codes = np.arange(len(PAPER_MEANS_S), dtype=np.int32)
    rule = mean_dividers(np.array(PAPER_MEANS_S), codes)
    # the paper truncates 44.26 and rounds 20.955 up, so its second digit is uncertain
    found.append(
        claim_fact(
            "divider-rule", "The rule derives the paper's duration dividers from its mean durations.",
            _listed(PAPER_DURATION_DIVIDERS_S), _listed(rule),
            bool(np.allclose(rule, PAPER_DURATION_DIVIDERS_S, atol=0.01)),
        )
    )  # fmt: skip
    if totals is not None:
        ours = mean_dividers(totals.duration, totals.classes)
        found.append(_dividers_near("duration-dividers", "duration, in s", PAPER_DURATION_DIVIDERS_S, ours))
        ours = tuple(each / KBPS for each in mean_dividers(totals.bandwidth, totals.classes))
        found.append(_dividers_near("bandwidth-dividers", "bandwidth, in kB/s", PAPER_DIVIDERS[0][0], ours))
    return found


def _dividers_near(id: str, what: str, paper: Sequence[float], ours: Sequence[float]) -> Claim:
    near = len(paper) == len(ours) and bool(np.allclose(ours, paper, rtol=0.3))
    statement = f"Dividers of {what}, from all labelled flows are within 30 % of the paper's."
    return claim_fact(id, statement, _listed(paper), _listed(ours), near)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
