"""The grid of MULTA: networks that are compared on each set of tasks, from several seeds, and their results."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flowloom.pipelines.reproduce.engine.experiments import Experiment
from flowloom.pipelines.reproduce.engine.options import Repeat
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
    contents: Mapping[int, str]
    """The content hash of the dataset by seed of its splits."""
    tasks: tuple[str, ...]
    units: tuple[int, ...]
    """Sizes of single LSTMs and tuned experts: multiples of the first."""
    aurora: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """The same of these flows with every label, absent ones filled as negative; empty if there is none."""
    kitsune: bool = False
    """Whether rows are packets, which Kitsune can score as well."""
    test_per_train: float = 0.0
    """Test rows per train row if repeats have splits of their own, 0 if they share one (`intervals.mean_of`)."""


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


def grid(sets: Sequence[TaskSet], scale: MULTAScale, repeats: Sequence[Repeat]) -> list[Experiment]:
    """Returns the experiments of all arms; those of one arm are in a row and share its graphs."""
    experiments = []
    for tasks in sets:
        for name, settings in arms(tasks, scale).items():
            aurora = settings.get("paradigm") == "aurora"
            contents = tasks.aurora if aurora else tasks.contents
            for repeat in repeats:
                setting = MULTASetting(
                    dataset_of(tasks.name, name, repeat), contents[repeat.seed], seed=repeat.training_seed,
                    **{"method": "network", "tasks": tasks.tasks, **settings},
                )  # fmt: skip
                experiments.append(setting.experiment(name.replace(" ", "__")))
    return experiments


def dataset_of(tasks: str, arm: str, repeat: Repeat) -> str:
    """Returns the name of the dataset with the splits of a repeat that an arm is trained on."""
    return f"{tasks}-{repeat.seed}{'-aurora' if arm == 'paradigm aurora' else ''}"


@dataclasses.dataclass(frozen=True)
class MULTAOutcomes:
    """The results of a grid, by set of tasks and arm."""

    results: Mapping[str, dict[str, Any]]
    scale: MULTAScale
    repeats: Sequence[Repeat]

    def all_of(self, tasks: TaskSet, arm: str) -> list[dict[str, Any]]:
        """Returns the results of an arm by repeat."""
        names = (
            f"{dataset_of(tasks.name, arm, repeat)}__{arm.replace(' ', '__')}__seed-{repeat.training_seed}"
            for repeat in self.repeats
        )
        return [self.results[name] for name in names]

    def mean_of(self, tasks: TaskSet, values: Sequence[float]) -> Mean:
        """Returns the mean of a value over the repeats, with its interval."""
        return mean_of(values, tasks.test_per_train)

    def difference(self, tasks: TaskSet, ours: Sequence[float], theirs: Sequence[float] | None = None) -> Mean:
        """Returns the mean difference of two values over the repeats, with its interval; without `theirs` from 0."""
        return difference_of(ours, theirs if theirs is not None else [0.0] * len(ours), tasks.test_per_train)

    def aucs(self, tasks: TaskSet, arms: Sequence[str], split: str = "test") -> list[float]:
        """Returns the mean AUC over the tasks of several networks together, by repeat."""
        by_arm = [self.all_of(tasks, arm) for arm in arms]
        merged = ({task: auc for one in each for task, auc in one[split].items()} for each in zip(*by_arm, strict=True))
        return [mean_auc(each) for each in merged]

    def mean(self, tasks: TaskSet, arms: Sequence[str], split: str = "test") -> Mean:
        """Returns the mean AUC of several networks together."""
        return self.mean_of(tasks, self.aucs(tasks, arms, split))

    def gain(self, tasks: TaskSet, arms: Sequence[str], others: Sequence[str]) -> Mean:
        """Returns the difference in AUC between two groups of networks on the test split, paired by repeat."""
        return self.difference(tasks, self.aucs(tasks, arms), self.aucs(tasks, others))

    def parameters(self, tasks: TaskSet, arms: Sequence[str]) -> int:
        """Returns the number of parameters of several networks together."""
        return sum(self.all_of(tasks, arm)[0]["parameters"] for arm in arms)

    def macs(self, tasks: TaskSet, arms: Sequence[str]) -> int:
        """Returns the multiply-accumulates of one inference of several networks together."""
        return sum(self.all_of(tasks, arm)[0]["macs"] for arm in arms)


def kitsune_name(tasks: TaskSet, task: str, cluster: int, seed: int) -> str:
    """Returns the name of the experiment of Kitsune on one task, with splits of a seed."""
    return f"{tasks.name}-{seed}__kitsune__{task}__cluster-{cluster}"
