"""Tables and claims of IoT Sentinel: macro F1 of flows and captures, differences on the same splits, and costs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flowloom.pipelines.reproduce.engine.claims import Claim, claim_above
from flowloom.pipelines.reproduce.engine.reproduction_page import Row, Section, Table
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_arms import MAIN, TREES, Arm, cell_name
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_data import TASKS, TWINS
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_figures import MERGED
from flowloom.trainers.evaluation.intervals import Mean, difference_of, mean_of

TARGETS = {"device": "Device", MERGED: "Device, twins merged", "vendor": "Vendor", "category": "Category"}
UNITS = {"flow": "each flow", "capture": "each capture"}
NO_MODEL = ("ceiling",)


@dataclasses.dataclass(frozen=True)
class SentinelOutcomes:
    """The results of a grid by arm, over the splits."""

    results: Mapping[str, dict[str, Any]]
    arms: tuple[Arm, ...]
    split_seeds: tuple[int, ...]

    def values(self, arm: Arm, target: str, unit: str) -> list[float]:
        """Returns macro F1 in per cent by split."""
        task = "device" if target == MERGED else target
        return [self._cell(arm, seed, task)["figures"][target][unit] for seed in self.split_seeds]

    def mean(self, arm: Arm, target: str, unit: str) -> Mean:
        """Returns the mean macro F1 in per cent."""
        return mean_of(self.values(arm, target, unit))

    def gain(self, arm: Arm, other: Arm, target: str, unit: str) -> Mean:
        """Returns by how many points an arm is above another on the same splits."""
        return difference_of(self.values(arm, target, unit), self.values(other, target, unit))

    def cost(self, arm: Arm, key: str) -> float:
        """Returns a mean cost over the splits, summed over the models of an arm."""
        models = TASKS if arm.apart else ("",)
        each = [self._cell(arm, seed, model)[key] for seed in self.split_seeds for model in models]
        return sum(each) / len(self.split_seeds)

    def arm(self, name: str) -> Arm | None:
        """Returns an arm by its name; None if the grid has none."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def _cell(self, arm: Arm, seed: int, task: str) -> dict[str, Any]:
        return self.results[cell_name(arm.name, seed, task if arm.apart else "")]


def sections(outcomes: SentinelOutcomes) -> list[Section]:
    """Returns the sections of the page."""
    found = [_scores(outcomes, unit) for unit in UNITS]
    if main := outcomes.arm(MAIN):
        found.append(_differences(outcomes, main))
    return [*found, _costs(outcomes)]


def _scores(outcomes: SentinelOutcomes, unit: str) -> Section:
    rows: list[Row] = [
        {"arm": arm.title, **{target: outcomes.mean(arm, target, unit) for target in TARGETS}}
        for arm in outcomes.arms
        if unit == "flow" or arm.name not in NO_MODEL
    ]
    text = ["Macro F1 in per cent: the mean over the classes that occur, each counting alike."]
    if unit == "capture":
        text.append("The prediction of a capture is the class of the highest mean probability over its flows.")
    groups = "; ".join(", ".join(group) for group in TWINS)
    caption = (
        f"Twins are devices of one vendor with the same or similar hardware and firmware: {groups}. Their "
        "probabilities are summed."
    )
    if unit == "flow":
        caption += (
            " The perfect memory knows the evaluated flows themselves, by sizes and directions alone, and answers with "
            "the most frequent label. No model of sizes and directions is right more often; one that also reads gaps, "
            "flags or windows can be."
        )
    table = Table(f"Macro F1 of {UNITS[unit]}", {"arm": "Model", **TARGETS}, rows, caption)
    return Section(f"Macro F1 of {UNITS[unit]}", text, {f"macro_f1_{unit}": table})


def _differences(outcomes: SentinelOutcomes, main: Arm) -> Section:
    rows: list[Row] = [
        {"arm": arm.title, **{target: outcomes.gain(main, arm, target, "flow") for target in TARGETS}}
        for arm in outcomes.arms
        if arm is not main and arm.name not in NO_MODEL
    ]
    text = [f"Points of macro F1 by which {main.title} is above a model on the same splits."]
    table = Table("Differences of each flow", {"arm": "Above", **TARGETS}, rows)
    return Section("Differences on the same splits", text, {"differences": table})


def _costs(outcomes: SentinelOutcomes) -> Section:
    columns = {
        "arm": "Model",
        "parameters": "Parameters",
        "macs": "Multiply-accumulates",
        "seconds": "Training, s",
        "epochs": "Epochs",
    }
    rows: list[Row] = [
        {"arm": arm.title, **{key: outcomes.cost(arm, key) for key in columns if key != "arm"}}
        for arm in outcomes.arms
        if arm.name not in NO_MODEL
    ]
    text = [
        "Sums over the models of all tasks. Trainings run in one thread each, several at a time, so their seconds "
        "compare models and are no measurement of speed. Nearest neighbours store all train flows and compare with "
        "each."
    ]
    return Section("Cost", text, {"cost": Table("Cost", columns, rows)})


def claims(outcomes: SentinelOutcomes) -> list[Claim]:
    """Returns the claims about the multi-task network, as far as the arms they compare are there."""
    main, alone = outcomes.arm(MAIN), outcomes.arm(f"{MAIN}-apart")
    if main is None:
        return []
    trees = [arm for arm in map(outcomes.arm, TREES) if arm]
    found = []
    for task in TASKS:
        if trees:
            best = max(trees, key=lambda arm: outcomes.mean(arm, task, "flow").mean)
            found.append(_claim(outcomes, f"above-trees-{task}", f"the best tree ({best.title})", main, best, task))
        if alone:
            found.append(
                _claim(outcomes, f"above-alone-{task}", "the same network of this task alone", main, alone, task)
            )
    return found


def _claim(outcomes: SentinelOutcomes, id: str, than: str, main: Arm, other: Arm, task: str) -> Claim:
    gain = outcomes.gain(main, other, task, "flow")
    ours = f"{gain.mean:+.1f} points"
    return claim_above(id, f"{main.title} is above {than} on {task}, macro F1 of each flow", "", ours, gain)
