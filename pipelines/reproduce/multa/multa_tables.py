"""Tables and figures of MULTA's experiments beside the paper's: figure 4, table II, figure 5."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowloom.pipelines.reproduce.engine.reproduction_page import Row, Section, Table
from flowloom.pipelines.reproduce.multa.arrivals import arrival_findings, arrival_lines, phases_of
from flowloom.pipelines.reproduce.multa.costs import Shape, hand_shapes, shared_shapes, single_shapes
from flowloom.pipelines.reproduce.multa.multa_experiments import mean_auc
from flowloom.pipelines.reproduce.multa.multa_grid import (
    LATECOMERS,
    PARADIGMS,
    MULTAOutcomes,
    MULTAScale,
    TaskSet,
    hand_arm,
    kitsune_name,
    single_arm,
)
from flowloom.pipelines.reproduce.multa.sizes import Sizes
from flowloom.trainers.evaluation import figures
from flowloom.trainers.evaluation.intervals import Mean

PAPER_TABLE_2 = {
    "aurora": {2: 0.9358, 4: 0.9429, 6: 0.9633, 8: 0.9694, 10: 0.9681},
    "rainbow": {2: 0.9407, 4: 0.9573, 6: 0.9763, 8: 0.9710, 10: 0.9736},
}
"""Mean AUC by epochs."""
PARADIGM_TITLES = {"aurora": "Aurora", "rainbow": "Rainbow", "rainbow_mixed": "Rainbow, mixed batches (ours)"}
ON = "litert trained"
"""The runtime and form of the right half of figure 4."""


@dataclasses.dataclass(frozen=True)
class MULTAResults:
    """All results, from which claims are decided and the page is made."""

    sets: Sequence[TaskSet]
    outcomes: MULTAOutcomes
    sizes: Mapping[str, Mapping[int, Sizes]]
    """By set of tasks and units of the hand-sized MULTA."""
    chosen: Mapping[str, Sizes]
    """By set of tasks, the sizes whose target is the best AUC of a MULTA sized by hand."""
    kitsune: Mapping[str, dict[str, Any]]
    """Results of Kitsune's experiments by their name."""
    costs: Mapping[str, Mapping[str, dict[str, Any]]]
    """By runtime and form, by action (`action_costs`)."""
    streaming: Mapping[str, dict[str, Any]]
    """By set of tasks, for the tuned MULTA (`streaming_figures`)."""
    kitsune_times: Mapping[str, Mapping[str, dict[str, float]]]
    """By set of tasks and size of Kitsune's autoencoders: microseconds for one packet and one task."""
    processor: str

    def time_us(self, action: str, on: str = ON) -> float:
        """Returns the CPU time of one inference, in microseconds."""
        return self.costs[on][action]["inference_cpu_us"]

    def kitsune_aucs(self, tasks: TaskSet, cluster: int, figure: str = "auc") -> list[float]:
        """Returns the mean AUC of three Kitsunes by repeat; only the splits of a repeat change it, not the seed.

        Args:
          tasks: the set of tasks.
          cluster: the size of the autoencoders.
          figure: `auc` on the test rows, or `validation_auc`, where rows of one class count as 0.5.
        """
        found = []
        for repeat in self.outcomes.repeats:
            results = {task: self.kitsune[kitsune_name(tasks, task, cluster, repeat.seed)] for task in tasks.tasks}
            found.append(mean_auc({task: 0.5 if r[figure] is None else r[figure] for task, r in results.items()}))
        return found

    def best_kitsune(self, tasks: TaskSet) -> int:
        """Returns the size of Kitsune with the highest mean AUC on the validation rows."""
        return max(
            self.outcomes.scale.clusters,
            key=lambda cluster: statistics.mean(self.kitsune_aucs(tasks, cluster, "validation_auc")),
        )

    def kitsune_parameters(self, tasks: TaskSet, cluster: int) -> int:
        """Returns the number of parameters of three Kitsunes."""
        seed = self.outcomes.repeats[0].seed
        return sum(self.kitsune[kitsune_name(tasks, task, cluster, seed)]["parameters"] for task in tasks.tasks)


def actions(
    sets: Sequence[TaskSet], found: Mapping[str, Mapping[int, Sizes]], scale: MULTAScale
) -> dict[str, list[Shape]]:
    """Returns the inference actions of figure 4 by name: the networks that score one flow for all tasks."""
    wanted = {hand_action(units): hand_shapes(3, units) for units in scale.hand}
    for tasks in sets:
        for units in tasks.units:
            same = (units,) * len(tasks.tasks)
            wanted[single_action(same)] = single_shapes(same)
        for size in found[tasks.name].values():
            wanted[single_action(size.singles)] = single_shapes(size.singles)
            wanted[tuned_action(size)] = shared_shapes(len(tasks.tasks), size.tuning.experts, size.tuning.units)
    return wanted


def chosen_actions(sets: Sequence[TaskSet], chosen: Mapping[str, Sizes]) -> list[str]:
    """Returns the names of the actions that claims compare."""
    found = []
    for tasks in sets:
        size = chosen[tasks.name]
        equal = (size.tuning.units,) * len(tasks.tasks)
        found += [single_action(size.singles), single_action(equal), tuned_action(size)]
    return list(dict.fromkeys(found))


def single_action(units: Sequence[int]) -> str:
    """Returns the name of the action of single LSTMs."""
    return f"LSTMs of {' + '.join(map(str, units))} units"


def hand_action(units: int) -> str:
    """Returns the name of the action of the MULTA sized by hand."""
    return f"MULTA by hand, {units} units"


def tuned_action(size: Sizes) -> str:
    """Returns the name of the action of the tuned MULTA."""
    return f"MULTA tuned, {size.tuning.experts} of {size.tuning.units} units"


def sections(findings: MULTAResults) -> list[Section]:
    """Returns the sections of the page."""
    found = [_balance(findings, tasks) for tasks in findings.sets]
    found.append(_costs(findings))
    found += [_paradigms(findings, tasks) for tasks in findings.sets if tasks.aurora]
    found += [_arrivals(findings, tasks) for tasks in findings.sets if tasks.aurora]
    return found


@dataclasses.dataclass(frozen=True)
class _Point:
    """A point of figure 4 and its row of the table; `time_us` is None where no runtime was measured."""

    name: str
    parameters: float
    auc: Mean
    time_us: float | None
    row: Row


def _balance(findings: MULTAResults, tasks: TaskSet) -> Section:
    """Returns figure 4 on one set of tasks."""
    points = _kitsune_points(findings, tasks) | _network_points(findings, tasks)
    rows: list[Row] = [point.row for each in points.values() for point in each]
    rows.append({"series": "3 x random forest", "name": "100 trees", "auc": findings.outcomes.mean(tasks, ["forest"])})
    columns = {
        "series": "Networks", "name": "Size", "parameters": "Parameters", "macs": "Multiply-accumulates",
        "auc": "AUC, test", "validation": "AUC, validation",
        "tensorflow trained": "TensorFlow, µs", "litert trained": "LiteRT, µs",
        **({"numba": "Features and score, numba, µs"} if tasks.kitsune else {}),
    }  # fmt: skip
    by_size = {series: [(point.parameters, point.auc) for point in each] for series, each in points.items()}
    by_time = {
        series: [(point.time_us, point.auc) for point in each if point.time_us is not None]
        for series, each in points.items()
    }
    drawn = [
        figures.balance(f"Figure 4, {tasks.title}", "parameters", by_size),
        figures.balance(
            f"Figure 4, {tasks.title}", "CPU time of one inference, µs, LiteRT",
            {series: each for series, each in by_time.items() if each},
        ),
    ]  # fmt: skip
    caption = f"Costs of one process and one thread on {findings.processor}; AUC ± half its 95 % interval."
    table = Table("AUC and cost", columns, rows, caption)
    text = _balance_text(findings, tasks)
    return Section(f"Efficacy and cost on {tasks.title}", text, {f"figure_4_{tasks.name}": table}, drawn)


def _kitsune_points(findings: MULTAResults, tasks: TaskSet) -> dict[str, list[_Point]]:
    """Returns Kitsune's points by series; none where rows are not packets."""
    points = []
    for cluster in findings.outcomes.scale.clusters if tasks.kitsune else ():
        aucs, parameters = findings.kitsune_aucs(tasks, cluster), findings.kitsune_parameters(tasks, cluster)
        auc = findings.outcomes.mean_of(tasks, aucs if len(tasks.contents) > 1 else aucs[:1])
        times = findings.kitsune_times[tasks.name][str(cluster)]
        row: Row = {
            "series": "3 x Kitsune", "name": f"m = {cluster}", "parameters": float(parameters), "auc": auc,
            "numba": 3 * (times["features_cpu_us"] + times["inference_cpu_us"]),
        }  # fmt: skip
        points.append(_Point(f"m = {cluster}", parameters, auc, None, row))
    return {"3 x Kitsune": points} if points else {}


def _network_points(findings: MULTAResults, tasks: TaskSet) -> dict[str, list[_Point]]:
    """Returns the points of LSTMs and MULTAs by series."""
    outcomes = findings.outcomes

    def point(series: str, name: str, arms: Sequence[str], action: str) -> _Point:
        auc, parameters = outcomes.mean(tasks, arms), outcomes.parameters(tasks, arms)
        row: Row = {
            "series": series, "name": name, "parameters": float(parameters), "auc": auc,
            "validation": outcomes.mean(tasks, arms, "validation"), "macs": float(outcomes.macs(tasks, arms)),
            **{on: findings.time_us(action, on) for on in findings.costs if on.endswith("trained")},
        }  # fmt: skip
        return _Point(name, parameters, auc, findings.time_us(action), row)

    equal, hand, tuned, singles = "3 x LSTM of equal size", "MULTA by hand", "MULTA tuned", "3 x LSTM tuned"
    points: dict[str, list[_Point]] = {equal: [], hand: [], tuned: [], singles: []}
    for units in tasks.units:
        arms = [single_arm(task, units) for task in tasks.tasks]
        points[equal].append(point(equal, f"{units} units", arms, single_action((units,) * len(tasks.tasks))))
    for units in outcomes.scale.hand:
        points[hand].append(point(hand, f"2 experts of {units}", [hand_arm(units)], hand_action(units)))
    for size, aim in _distinct_sizes(findings.sizes[tasks.name], lambda size: size.tuned):
        name = f"{size.tuning.experts} x {size.tuning.units}, {aim}"
        points[tuned].append(point(tuned, name, size.tuned, tuned_action(size)))
    for size, aim in _distinct_sizes(findings.sizes[tasks.name], lambda size: size.singles):
        name = f"{' + '.join(map(str, size.singles))}, {aim}"
        points[singles].append(point(singles, name, size.single_arms(tasks), single_action(size.singles)))
    return points


def _balance_text(findings: MULTAResults, tasks: TaskSet) -> list[str]:
    text = [
        "Mean AUC over the three tasks, and the cost of one inference: the scores of one flow for all three. Tuned "
        "sizes reach the mean validation AUC of the MULTA sized by hand, less at most 0.005. The MULTA is tuned by "
        "algorithm 1. The three LSTMs are the cheapest of all combinations, so the comparison is not with LSTMs that "
        "are larger than necessary. All networks of this table keep the weights of the best mean validation AUC.",
    ]  # fmt: skip
    if not all(size.singles_reach for size in findings.sizes[tasks.name].values()):
        text.append("Where no three LSTMs reach the target, the table shows the best of them.")
    if tasks.kitsune:
        text.append(
            "Kitsune's time is the time of AfterImage's features and KitNET for one packet, three times. It runs in "
            "numba, so it is not listed with the times of TensorFlow or LiteRT. Kitsune learns without attack labels."
        )
    return text


def _distinct_sizes(
    sizes: Mapping[int, Sizes], found: Callable[[Sizes], Sequence[object]]
) -> list[tuple[Sizes, str]]:  # fmt: skip
    """Returns the sizes whose `found` values differ, each with the targets that led to it."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for units, size in sizes.items():
        alike.setdefault(tuple(found(size)), []).append(units)
    return [(sizes[units[0]], f"for the AUC of {', '.join(map(str, units))} units by hand") for units in alike.values()]


def _costs(findings: MULTAResults) -> Section:
    """Returns the gain of the architecture in each runtime, and of the runtimes, never both in one figure."""
    rows: list[Row] = []
    for tasks in findings.sets:
        size = findings.chosen[tasks.name]
        for on, costs in findings.costs.items():
            runtime, form = on.split(" ")
            singles, tuned = (costs[name] for name in (single_action(size.singles), tuned_action(size)))
            equal = costs[single_action((size.tuning.units,) * len(tasks.tasks))]
            rows.append(
                {
                    "set": tasks.title, "runtime": runtime, "form": form,
                    "singles": singles["inference_cpu_us"], "equal": equal["inference_cpu_us"],
                    "tuned": tuned["inference_cpu_us"], "cycles": float(tuned["inference_cycles"] or 0),
                    "ratio": tuned["inference_cpu_us"] / singles["inference_cpu_us"],
                    "ratio_equal": tuned["inference_cpu_us"] / equal["inference_cpu_us"],
                }
            )  # fmt: skip
    columns = {
        "set": "Tasks", "runtime": "Runtime", "form": "Form", "singles": "3 tuned LSTMs, µs",
        "equal": "3 LSTMs of its size, µs", "tuned": "MULTA tuned, µs", "cycles": "cycles",
        "ratio": "of the tuned LSTMs", "ratio_equal": "of those of its size",
    }  # fmt: skip
    streamed: list[Row] = [
        {"set": tasks.title, "one_by_one": each["one_by_one"], "batched": each["batched"],
         "error": f"{each['largest_error']:.1e}"}
        for tasks in findings.sets if (each := findings.streaming.get(tasks.name))
    ]  # fmt: skip
    by_source = next(iter(next(iter(findings.costs.values())).values()))["cycles_by"]
    text = [
        "Median CPU time of one inference of one flow, all networks in turn in one process and one thread. The ratios "
        "show the gain of the architecture: both sides use the same runtime and form. The gain of a runtime is the "
        "difference between rows. The fused form has one batched LSTM for all experts, with the same weights.",
        f"Cycles: {by_source or 'not counted'}.",
    ]
    tables = {
        "costs": Table("One inference action", columns, rows),
        "streaming": Table(
            "Packets per second of the streaming scorer, one core",
            {"set": "Tasks", "one_by_one": "1 a call", "batched": "256 a call", "error": "Largest error"},
            streamed, "For the tuned MULTA; the error is the difference from the scores of the batch model.",
        ),
    }  # fmt: skip
    return Section("Cost of an inference", text, tables)


def _paradigms(findings: MULTAResults, tasks: TaskSet) -> Section:
    """Returns table II on one set of tasks."""
    outcomes = findings.outcomes
    rows: list[Row] = []
    for paradigm in PARADIGMS:
        row: dict[str, str | float | Mean | None] = {"paradigm": PARADIGM_TITLES[paradigm]}
        results = outcomes.all_of(tasks, f"paradigm {paradigm}")
        for epoch in range(2, outcomes.scale.epochs + 1, 2):
            values = [mean_auc(each["history"][epoch - 1]["test"]) for each in results]
            row[f"epoch_{epoch}"] = outcomes.mean_of(tasks, values)
            paper = PAPER_TABLE_2.get(paradigm, {}).get(epoch)
            row[f"paper_{epoch}"] = None if paper is None else f"{paper:.4f}"
        rows.append(row)
    columns = {"paradigm": "Paradigm"}
    for epoch in range(2, outcomes.scale.epochs + 1, 2):
        columns |= {f"epoch_{epoch}": f"{epoch} epochs", f"paper_{epoch}": "paper"}
    text = [
        "Mean AUC over the tasks after each number of epochs, without choosing an epoch. Aurora (fused) has the same "
        "flows with every label, absent labels filled as negative, as in the paper. Its test rows are all flows, so "
        "each task has more negatives than under Rainbow (striped). Here a flow of one attack belongs to no other "
        "attack, so filling adds no false labels, which lower Aurora's AUC according to the paper.",
    ]  # fmt: skip
    table = Table("Table II", columns, rows, "The paper's figures are for Kitsune's sets.")
    return Section(f"Aurora and Rainbow on {tasks.title}", text, {f"table_2_{tasks.name}": table})


def _arrivals(findings: MULTAResults, tasks: TaskSet) -> Section:
    """Returns figure 5 on one set of tasks, with the matrix of AUCs."""
    outcomes = findings.outcomes
    rows: list[Row] = []
    drawn = []
    for latecomer in ("sequential", *LATECOMERS):
        found = arrival_findings(tasks, outcomes, latecomer)
        for place in range(len(found[0]["phases"])):
            phase = found[0]["phases"][place]
            repair = phase["repair"]
            if latecomer == "repair" and not repair:
                continue  # sequential until then
            rows.append(
                {
                    "mode": latecomer,
                    "after": f"{phase['task']}{', again' if repair else ''}",
                    **{
                        task: outcomes.mean_of(tasks, [each["phases"][place]["auc"][task] for each in found])
                        for task in tasks.tasks
                    },
                }
            )
    matrix = {"mode": "Mode", "after": "After", **{task: task for task in tasks.tasks}}
    lost: list[Row] = []
    for latecomer in ("sequential", "replay", "isolate"):
        found = arrival_findings(tasks, outcomes, latecomer)
        forgotten = {task: [each["forgetting"][task] for each in found] for task in tasks.tasks}
        means = {task: outcomes.mean_of(tasks, values) for task, values in forgotten.items()}
        lost.append({"mode": latecomer, **means})
    for latecomer in ("repair", "isolate"):
        title = f"Figure 5, {tasks.title}, {latecomer}"
        drawn.append(
            figures.arrivals(title, arrival_lines(tasks, outcomes, latecomer), phases_of(tasks, outcomes, latecomer))
        )
    text = [
        "Tasks arrive one after another; AUC of all tasks on the test rows, of the last weights of each phase. "
        "Sequential trains on the latest task alone. Repair then trains on the first task again. Replay takes a fifth "
        "of the batches from earlier tasks. Isolate gives each latecomer its own expert and trains nothing else, so "
        "the scores of earlier tasks stay the same to the bit, which each experiment checks.",
    ]  # fmt: skip
    tables = {
        f"figure_5_{tasks.name}": Table("AUC after each arrival", matrix, rows),
        f"forgetting_{tasks.name}": Table(
            "Forgetting", {"mode": "Mode", **{task: task for task in tasks.tasks}}, lost,
            "Best AUC since the task arrived, minus the AUC at the end.",
        ),
    }  # fmt: skip
    return Section(f"Latecomers on {tasks.title}", text, tables, drawn)
