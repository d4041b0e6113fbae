"""What the experiments of MULTA found here, beside what the paper says: figure 4, table II, figure 5."""

import dataclasses
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
from flowloom.trainers.evaluation.intervals import Mean, mean_of

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
    """Everything that claims are decided by, and the page shows."""

    sets: Sequence[TaskSet]
    outcomes: MULTAOutcomes
    sizes: Mapping[str, Mapping[int, Sizes]]
    """By set of tasks and units of the hand-sized MULTA."""
    chosen: Mapping[str, Sizes]
    """By set those whose target is the best that MULTA reaches by hand."""
    kitsune: Mapping[str, dict[str, Any]]
    """Results of Kitsune's cells by their name."""
    costs: Mapping[str, Mapping[str, dict[str, Any]]]
    """By runtime and form, by action (`action_costs`)."""
    streaming: Mapping[str, dict[str, Any]]
    """By set of the tuned MULTA (`streaming_figures`)."""
    kitsune_times: Mapping[str, Mapping[str, dict[str, float]]]
    """By set and size of Kitsune's autoencoders, microseconds for one packet and one task."""
    processor: str

    def time_us(self, action: str, on: str = ON) -> float:
        """Return the CPU time of one inference action."""
        return self.costs[on][action]["inference_cpu_us"]

    def kitsune_auc(self, tasks: TaskSet, cluster: int) -> float:
        """Return the mean AUC of three Kitsunes, which have no seed."""
        return mean_auc({task: self.kitsune[kitsune_name(tasks, task, cluster)]["auc"] for task in tasks.tasks})

    def kitsune_parameters(self, tasks: TaskSet, cluster: int) -> int:
        """Return the parameters of three Kitsunes."""
        return sum(self.kitsune[kitsune_name(tasks, task, cluster)]["parameters"] for task in tasks.tasks)


def actions(
    sets: Sequence[TaskSet], found: Mapping[str, Mapping[int, Sizes]], scale: MULTAScale
) -> dict[str, list[Shape]]:
    """Return every inference action of figure 4 by name: networks that score one flow for all tasks."""
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
    """Return the names of the actions that claims compare."""
    found = []
    for tasks in sets:
        size = chosen[tasks.name]
        equal = (size.tuning.units,) * len(tasks.tasks)
        found += [single_action(size.singles), single_action(equal), tuned_action(size)]
    return list(dict.fromkeys(found))


def single_action(units: Sequence[int]) -> str:
    """Return the action of single LSTMs."""
    return f"LSTMs of {' + '.join(map(str, units))} units"


def hand_action(units: int) -> str:
    """Return the action of the MULTA that is sized by hand."""
    return f"MULTA by hand, {units} units"


def tuned_action(size: Sizes) -> str:
    """Return the action of the MULTA that was tuned."""
    return f"MULTA tuned, {size.tuning.experts} of {size.tuning.units} units"


def sections(findings: MULTAResults) -> list[Section]:
    """Return the parts of the page."""
    found = [_balance(findings, tasks) for tasks in findings.sets]
    found.append(_costs(findings))
    found += [_paradigms(findings, tasks) for tasks in findings.sets if tasks.aurora]
    found += [_arrivals(findings, tasks) for tasks in findings.sets if tasks.aurora]
    return found


def _balance(findings: MULTAResults, tasks: TaskSet) -> Section:
    """Return figure 4 on one set of tasks."""
    outcomes, scale = findings.outcomes, findings.outcomes.scale
    rows: list[Row] = []
    points: dict[str, list[tuple[str, int, Mean, float | None]]] = {}

    def add(series: str, name: str, parameters: int, arms: Sequence[str], action: str) -> None:
        test = outcomes.mean(tasks, arms)
        points.setdefault(series, []).append((name, parameters, test, findings.time_us(action)))
        rows.append(
            {
                "series": series, "name": name, "parameters": float(parameters), "auc": test,
                "validation": outcomes.mean(tasks, arms, "validation"), "macs": float(outcomes.macs(tasks, arms)),
                **{on: findings.time_us(action, on) for on in findings.costs if on.endswith("trained")},
            }
        )  # fmt: skip

    for cluster in scale.clusters if tasks.kitsune else ():
        mean, parameters = mean_of([findings.kitsune_auc(tasks, cluster)]), findings.kitsune_parameters(tasks, cluster)
        points.setdefault("3 x Kitsune", []).append((f"m = {cluster}", parameters, mean, None))
        times = findings.kitsune_times[tasks.name][str(cluster)]
        rows.append(
            {"series": "3 x Kitsune", "name": f"m = {cluster}", "parameters": float(parameters), "auc": mean,
             "numba": 3 * (times["features_cpu_us"] + times["inference_cpu_us"])}
        )  # fmt: skip
    for units in tasks.units:
        arms = [single_arm(task, units) for task in tasks.tasks]
        same = (units,) * len(tasks.tasks)
        add("3 x LSTM of equal size", f"{units} units", outcomes.parameters(tasks, arms), arms, single_action(same))
    for units in scale.hand:
        add("MULTA by hand", f"2 experts of {units}", outcomes.parameters(tasks, [hand_arm(units)]), [hand_arm(units)],
            hand_action(units))  # fmt: skip
    for size, aim in _by_what_was_found(findings.sizes[tasks.name], lambda size: size.tuned):
        name = f"{size.tuning.experts} x {size.tuning.units}, {aim}"
        add("MULTA tuned", name, outcomes.parameters(tasks, size.tuned), size.tuned, tuned_action(size))
    for size, aim in _by_what_was_found(findings.sizes[tasks.name], lambda size: size.singles):
        singles, name = size.single_arms(tasks), f"{' + '.join(map(str, size.singles))}, {aim}"
        add("3 x LSTM tuned", name, outcomes.parameters(tasks, singles), singles, single_action(size.singles))
    rows.append({"series": "3 x random forest", "name": "100 trees", "auc": outcomes.mean(tasks, ["forest"])})
    columns = {
        "series": "Networks", "name": "Size", "parameters": "Parameters", "macs": "Multiply-accumulates",
        "auc": "AUC, test", "validation": "AUC, validation",
        "tensorflow trained": "TensorFlow, us", "litert trained": "LiteRT, us",
        **({"numba": "Features and score, numba, us"} if tasks.kitsune else {}),
    }  # fmt: skip
    by_size = {name: [(size, mean) for _, size, mean, _ in each] for name, each in points.items()}
    by_time = {name: [(time, mean) for _, _, mean, time in each if time is not None] for name, each in points.items()}
    drawn = [
        figures.balance(f"Figure 4, {tasks.title}", "parameters", by_size),
        figures.balance(
            f"Figure 4, {tasks.title}", "CPU us of one action, LiteRT", {n: each for n, each in by_time.items() if each}
        ),
    ]
    text = [
        "Mean AUC over the three tasks, and what one inference action costs: the scores of one flow for all three. "
        "Tuned sizes reach the mean validation AUC of MULTA sized by hand, less at most 0.005: MULTA's by algorithm 1, "
        "the three LSTMs' as the cheapest of all combinations, so that the comparison is not with LSTMs that are "
        "larger than they need be.",
    ]  # fmt: skip
    if not all(size.singles_reach for size in findings.sizes[tasks.name].values()):
        text.append("Where no three LSTMs reach the target the best of them stand in the table.")
    if tasks.kitsune:
        text.append(
            "Kitsune's time is of AfterImage's features and KitNET for one packet, three times; it runs in numba, so "
            "it does not stand among the times of TensorFlow or LiteRT. It learns without labels of attacks."
        )
    caption = f"Costs of one process and one thread on {findings.processor}; AUC ± half its 95 % interval."
    table = Table("AUC and cost", columns, rows, caption)
    return Section(f"Efficacy and cost on {tasks.title}", text, {f"figure_4_{tasks.name}": table}, drawn)


def _by_what_was_found(
    sizes: Mapping[int, Sizes], found: Callable[[Sizes], Sequence[object]]
) -> list[tuple[Sizes, str]]:  # fmt: skip
    """Return the sizes that differ in what was found for the targets, and for which targets that is."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for units, size in sizes.items():
        alike.setdefault(tuple(found(size)), []).append(units)
    return [(sizes[units[0]], f"for the AUC of {', '.join(map(str, units))} by hand") for units in alike.values()]


def _costs(findings: MULTAResults) -> Section:
    """Return what the architecture gains in each runtime, and what a runtime gains; never both in one figure."""
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
        "set": "Tasks", "runtime": "Runtime", "form": "Form", "singles": "3 tuned LSTMs, us",
        "equal": "3 LSTMs of its size, us", "tuned": "MULTA tuned, us", "cycles": "cycles",
        "ratio": "of the tuned LSTMs", "ratio_equal": "of those of its size",
    }  # fmt: skip
    streamed: list[Row] = [
        {"set": tasks.title, "one_by_one": each["one_by_one"], "batched": each["batched"],
         "error": f"{each['largest_error']:.1e}"}
        for tasks in findings.sets if (each := findings.streaming.get(tasks.name))
    ]  # fmt: skip
    by_source = next(iter(next(iter(findings.costs.values())).values()))["cycles_by"]
    text = [
        "The median CPU time of one action of one flow, all actions turn by turn in one process and one thread. The "
        "ratios are what the architecture gains: both sides are of one runtime and one form. What a runtime gains is "
        "the difference between rows. A fused form has one batched LSTM for all experts, the same weights.",
        f"Cycles: {by_source or 'not known'}.",
    ]
    tables = {
        "costs": Table("One inference action", columns, rows),
        "streaming": Table(
            "Packets a second of the streaming scorer, one core",
            {"set": "Tasks", "one_by_one": "one packet a call", "batched": "256 a call", "error": "Largest error"},
            streamed, "Of the tuned MULTA; the error is between its scores and those of the batch model.",
        ),
    }  # fmt: skip
    return Section("Cost of an inference", text, tables)


def _paradigms(findings: MULTAResults, tasks: TaskSet) -> Section:
    """Return table II on one set of tasks."""
    outcomes = findings.outcomes
    rows: list[Row] = []
    for paradigm in PARADIGMS:
        row: dict[str, str | float | Mean | None] = {"paradigm": PARADIGM_TITLES[paradigm]}
        results = outcomes.all_of(tasks, f"paradigm {paradigm}")
        for epoch in range(2, outcomes.scale.epochs + 1, 2):
            row[f"epoch_{epoch}"] = mean_of([mean_auc(each["history"][epoch - 1]["test"]) for each in results])
            paper = PAPER_TABLE_2.get(paradigm, {}).get(epoch)
            row[f"paper_{epoch}"] = None if paper is None else f"{paper:.4f}"
        rows.append(row)
    columns = {"paradigm": "Paradigm"}
    for epoch in range(2, outcomes.scale.epochs + 1, 2):
        columns |= {f"epoch_{epoch}": f"{epoch} epochs", f"paper_{epoch}": "paper"}
    text = [
        "Mean AUC over the tasks after so many epochs, no epoch chosen. Aurora has the same flows with every label, "
        "what a stripe does not know filled as negative, as in the paper; its test rows are all flows, so that each "
        "task has more negatives than under Rainbow. A flow of one attack is truly none of the others here, so the "
        "filling makes no false labels, of which the paper says that they lower Aurora's AUC.",
    ]  # fmt: skip
    table = Table("Table II", columns, rows, "The paper's figures are of Kitsune's sets.")
    return Section(f"Aurora and Rainbow on {tasks.title}", text, {f"table_2_{tasks.name}": table})


def _arrivals(findings: MULTAResults, tasks: TaskSet) -> Section:
    """Return figure 5 on one set of tasks, with the matrix of AUCs."""
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
                    **{task: mean_of([each["phases"][place]["auc"][task] for each in found]) for task in tasks.tasks},
                }
            )
    matrix = {"mode": "Mode", "after": "After", **{task: task for task in tasks.tasks}}
    lost: list[Row] = []
    for latecomer in ("sequential", "replay", "isolate"):
        found = arrival_findings(tasks, outcomes, latecomer)
        lost.append(
            {"mode": latecomer, **{task: mean_of([each["forgetting"][task] for each in found]) for task in tasks.tasks}}
        )
    for latecomer in ("repair", "isolate"):
        title = f"Figure 5, {tasks.title}, {latecomer}"
        drawn.append(
            figures.arrivals(title, arrival_lines(tasks, outcomes, latecomer), phases_of(tasks, outcomes, latecomer))
        )
    text = [
        "Tasks arrive one after another; AUC of all of them on the test rows. Sequential trains on the latecomer "
        "alone; repair then trains on the first task again; replay mixes in a fifth of batches of tasks before; "
        "isolate gives each latecomer an expert of its own and trains nothing else, so that the scores of the tasks "
        "before are the same to the bit, which each cell checks.",
    ]  # fmt: skip
    tables = {
        f"figure_5_{tasks.name}": Table("AUC after each arrival", matrix, rows),
        f"forgetting_{tasks.name}": Table(
            "Forgetting", {"mode": "Mode", **{task: task for task in tasks.tasks}}, lost,
            "The best AUC since a task arrived less that at the end.",
        ),
    }  # fmt: skip
    return Section(f"Latecomers on {tasks.title}", text, tables, drawn)
