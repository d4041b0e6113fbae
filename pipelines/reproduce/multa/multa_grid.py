"""The grid of MULTA: networks that are compared on each set of tasks, from several seeds, and their results."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flowloom.pipelines.reproduce.engine.experiments import Experiment
from flowloom.pipelines.reproduce.multa.multa_experiments import LATECOMER_PROTOCOL, MULTASetting, mean_auc
from flowloom.trainers.evaluation.intervals import Mean, difference_of, mean_of

EXPERTS = (1, 2, 3)
"""Algorithm 1 tries no more experts than tasks."""
PARADIGMS = ("aurora", "rainbow", "rainbow_mixed")
LATECOMERS = ("repair", "replay", "isolate")
HAND: dict[str, Any] = {"experts": 2, "gate_input": "flatten", "tower": (16,)}
"""MULTA as in the paper's figure: gates on the flattened features. Its size is `units`."""
HAND_UNITS = 16
"""Units for the comparison of paradigms and latecomers."""


@dataclasses.dataclass(frozen=True)
class TaskSet:
    """Three binary tasks, for which one MULTA or three networks are trained."""

    name: str
    title: str
    content: str
    """The content hash of the dataset."""
    tasks: tuple[str, ...]
    units: tuple[int, ...]
    """Sizes of single LSTMs and tuned experts: multiples of the first."""
    aurora: str = ""
    """The content hash of the same flows with every label, absent ones filled as negative; empty if there is none."""
    kitsune: bool = False
    """Whether rows are packets, which Kitsune can score as well."""


@dataclasses.dataclass(frozen=True)
class MULTAScale:
    """Size of the grid."""

    seeds: int = 5
    updates: int = 400
    """Updates of an LSTM of one task; a network of several has as many for each, so both see rows equally often."""
    units: tuple[int, ...] = (2, 4, 6, 8, 10, 12)
    packet_units: tuple[int, ...] = (4, 8, 12)
    hand: tuple[int, ...] = (4, 8, 16, 32)
    epochs: int = 10
    """Epochs of table II."""
    phase_epochs: int = 8
    repair_epochs: int = 5
    clusters: tuple[int, ...] = (2, 5, 10, 20)
    """Largest number of features of one of Kitsune's autoencoders."""

    @classmethod
    def quick(cls) -> "MULTAScale":
        """Returns a small grid, which tests that everything runs."""
        return cls(2, 50, (4, 8), (4, 8), (8,), 10, 2, 2, (10,))

    def shared_updates(self, tasks: TaskSet) -> int:
        """Returns the updates of a network of all tasks."""
        return self.updates * len(tasks.tasks)


def arms(tasks: TaskSet, scale: MULTAScale) -> dict[str, dict[str, Any]]:
    """Returns the settings of all arms on a set of tasks, by name of the arm."""
    trained = {"updates": scale.shared_updates(tasks)}
    found: dict[str, dict[str, Any]] = {"forest": {"method": "forest"}}
    for units in tasks.units:
        for task in tasks.tasks:
            found[single_arm(task, units)] = {"tasks": (task,), "units": units, "updates": scale.updates}
        for experts in EXPERTS:
            found[shared_arm(experts, units)] = {"experts": experts, "units": units, **trained}
    for units in scale.hand:
        found[hand_arm(units)] = {**HAND, "units": units, **trained}
    if tasks.aurora:
        large = {**HAND, "units": HAND_UNITS}
        for paradigm in PARADIGMS:
            found[f"paradigm {paradigm}"] = {**large, "paradigm": paradigm, "epochs": scale.epochs}
        for latecomer in LATECOMERS:
            repair = {"repair_epochs": scale.repair_epochs} if latecomer == "repair" else {}
            found[f"latecomers {latecomer}"] = {
                **large, "method": "latecomers", "latecomer": latecomer, "epochs": scale.phase_epochs, **repair,
                "protocol": LATECOMER_PROTOCOL,
            }  # fmt: skip
    return found


def single_arm(task: str, units: int) -> str:
    """Returns the arm of an LSTM of one task."""
    return f"single {task} units-{units}"


def shared_arm(experts: int, units: int) -> str:
    """Returns the arm of an LMMoE of all tasks, with small towers and gates on the mean packet."""
    return f"shared experts-{experts} units-{units}"


def hand_arm(units: int) -> str:
    """Returns the arm of an LMMoE sized by hand."""
    return f"hand units-{units}"


def grid(sets: Sequence[TaskSet], scale: MULTAScale, seed: int) -> list[Experiment]:
    """Returns the experiments of all arms; those of one arm are in a row and share its graphs."""
    experiments = []
    for tasks in sets:
        for name, settings in arms(tasks, scale).items():
            aurora = settings.get("paradigm") == "aurora"
            content = tasks.aurora if aurora else tasks.content
            for number in range(scale.seeds):
                setting = MULTASetting(
                    dataset_of(tasks, name), content, seed=seed + number,
                    **{"method": "network", "tasks": tasks.tasks, **settings},
                )  # fmt: skip
                experiments.append(setting.experiment(name.replace(" ", "__")))
    return experiments


def dataset_of(tasks: TaskSet, arm: str) -> str:
    """Returns the name of the dataset that an arm is trained on."""
    return f"{tasks.name}-aurora" if arm == "paradigm aurora" else tasks.name


@dataclasses.dataclass(frozen=True)
class MULTAOutcomes:
    """The results of a grid, by set of tasks and arm."""

    results: Mapping[str, dict[str, Any]]
    scale: MULTAScale
    seed: int

    def all_of(self, tasks: TaskSet, arm: str) -> list[dict[str, Any]]:
        """Returns the results of an arm by seed."""
        stem = f"{dataset_of(tasks, arm)}__{arm.replace(' ', '__')}"
        return [self.results[f"{stem}__seed-{seed}"] for seed in self.seeds]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in their order."""
        return tuple(self.seed + number for number in range(self.scale.seeds))

    def aucs(self, tasks: TaskSet, arms: Sequence[str], split: str = "test") -> list[float]:
        """Returns the mean AUC over the tasks of several networks together, by seed."""
        by_arm = [self.all_of(tasks, arm) for arm in arms]
        merged = ({task: auc for one in each for task, auc in one[split].items()} for each in zip(*by_arm, strict=True))
        return [mean_auc(each) for each in merged]

    def mean(self, tasks: TaskSet, arms: Sequence[str], split: str = "test") -> Mean:
        """Returns the mean AUC of several networks together."""
        return mean_of(self.aucs(tasks, arms, split))

    def gain(self, tasks: TaskSet, arms: Sequence[str], others: Sequence[str]) -> Mean:
        """Returns the difference in AUC between two groups of networks on the test split, paired by seed."""
        return difference_of(self.aucs(tasks, arms), self.aucs(tasks, others))

    def parameters(self, tasks: TaskSet, arms: Sequence[str]) -> int:
        """Returns the number of parameters of several networks together."""
        return sum(self.all_of(tasks, arm)[0]["parameters"] for arm in arms)

    def macs(self, tasks: TaskSet, arms: Sequence[str]) -> int:
        """Returns the multiply-accumulates of one inference of several networks together."""
        return sum(self.all_of(tasks, arm)[0]["macs"] for arm in arms)


def kitsune_name(tasks: TaskSet, task: str, cluster: int) -> str:
    """Returns the name of the experiment of Kitsune on one task."""
    return f"{tasks.name}__kitsune__{task}__cluster-{cluster}"
