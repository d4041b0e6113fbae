"""Claims of MULTA, and the verdict on the present tasks."""

import dataclasses
import statistics

from flowloom.pipelines.reproduce.engine.claims import Claim, claim_above, claim_fact
from flowloom.pipelines.reproduce.multa.arrivals import arrival_findings, lost_after_repair, unchanged
from flowloom.pipelines.reproduce.multa.multa_experiments import mean_auc
from flowloom.pipelines.reproduce.multa.multa_grid import EXPERTS, TaskSet
from flowloom.pipelines.reproduce.multa.multa_tables import (
    PAPER_TABLE_2,
    MULTAResults,
    hand_action,
    single_action,
    tuned_action,
)
from flowloom.pipelines.reproduce.multa.sizes import MAX_DROP, Sizes, within_a_step
from flowloom.trainers.evaluation.intervals import Mean
from flowloom.trainers.training.latecomers import REPAIRED

SHARE = 0.5
"""Share of parameters and time that MULTA may take at equal AUC; the paper says up to 50 % and more than 100 %."""
RUNTIMES = {"tensorflow": "TensorFlow", "litert": "LiteRT"}
FORMS = {"trained": "as trained", "fused": "as deployed"}
"""Forms of a network; a claim compares networks of the same form."""
PACKETS_PER_SECOND = 20_000
STREAMED_ERROR = 1e-5
COLLAPSED = 0.05
"""Loss of AUC that is more than noise."""


def claims(findings: MULTAResults) -> list[Claim]:
    """Returns every claim that the tasks can decide."""
    found = []
    for tasks in findings.sets:
        judge = _Judge(findings, tasks, findings.chosen[tasks.name])
        found += [*judge.costs(), judge.below_hand(), *judge.tuner(), *judge.streaming()]
        if tasks.kitsune:
            found += judge.kitsune()
        if tasks.aurora:
            found += [*judge.paradigms(), *judge.latecomers()]
    return found


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Decides the claims on one set of tasks."""

    findings: MULTAResults
    tasks: TaskSet
    size: Sizes

    def fact(self, id: str, statement: str, paper: str, ours: str, holds: bool) -> Claim:
        """Returns a claim about a count or a measured quantity on these tasks."""
        return claim_fact(f"{id}-{self.tasks.name}", f"{_title(self.tasks)}: {statement}.", paper, ours, holds)

    def above(
        self, id: str, statement: str, paper: str, ours: str, difference: Mean, least: float = 0.0, given: bool = True
    ) -> Claim:
        """Returns the claim that a difference on these tasks is above `least`, if the fact `given` holds as well."""
        statement = f"{_title(self.tasks)}: {statement}."
        return claim_above(f"{id}-{self.tasks.name}", statement, paper, ours, difference, least, given)

    def costs(self) -> list[Claim]:
        """Returns the claims that MULTA takes at most half of the LSTMs' parameters and time at equal AUC."""
        found = []
        tuned, arms = self.size.tuned, self.size.single_arms(self.tasks)
        rivals = [
            ("", "the smallest three LSTMs of equal AUC", arms, self.size.singles),
            (
                "-equal-size", "three LSTMs of its expert's size", self.size.equal_arms(self.tasks),
                (self.size.tuning.units,) * len(self.tasks.tasks),
            ),
        ]  # fmt: skip
        outcomes = self.findings.outcomes
        for suffix, name, rival, units in rivals:
            gain = outcomes.gain(self.tasks, tuned, rival)
            aucs = [outcomes.mean(self.tasks, each).mean for each in (tuned, rival)]
            at = f"at AUC {aucs[0]:.4f} against {aucs[1]:.4f}"
            ours, theirs = (outcomes.parameters(self.tasks, each) for each in (tuned, rival))
            found.append(
                self.above(
                    f"parameters{suffix}", f"MULTA has at most half the parameters of {name}, at an AUC that is less "
                    f"than {MAX_DROP} lower", "up to 50 % fewer",
                    f"{ours:,} against {theirs:,}, ratio {ours / theirs:.2f}, {at}",
                    gain, -MAX_DROP, ours <= SHARE * theirs,
                )
            )  # fmt: skip
            for on in self.findings.costs:
                mine, other = (
                    self.findings.time_us(action, on) for action in (tuned_action(self.size), single_action(units))
                )
                runtime, form = on.split(" ")
                found.append(
                    self.above(
                        f"time{suffix}-{runtime}" + ("" if form == "trained" else f"-{form}"),
                        f"in {RUNTIMES[runtime]}, {FORMS[form]}, MULTA takes at most half the time of {name}, at an "
                        f"AUC that is less than {MAX_DROP} lower", "more than 100 % faster",
                        f"{mine:.0f} against {other:.0f} µs, ratio {mine / other:.2f}, {at}",
                        gain, -MAX_DROP, mine <= SHARE * other,
                    )
                )  # fmt: skip
        return found

    def below_hand(self) -> Claim:
        """Returns the claim that tuning makes MULTA smaller at the AUC of the MULTA sized by hand."""
        outcomes, size = self.findings.outcomes, self.size
        gain = outcomes.gain(self.tasks, size.tuned, size.hand)
        tuned, hand = (outcomes.parameters(self.tasks, each) for each in (size.tuned, size.hand))
        as_fast = self.findings.time_us(tuned_action(size)) <= self.findings.time_us(hand_action(size.hand_units))
        statement = "tuning makes MULTA smaller and no slower at the AUC of the MULTA sized by hand"
        ours = f"{tuned:,} against {hand:,} parameters, AUC {gain.mean:+.4f}"
        given = tuned < hand and as_fast
        return self.above("tuned-below-hand", statement, "drawn in figure 4", ours, gain, -MAX_DROP, given)

    def tuner(self) -> list[Claim]:
        """Returns the claims about algorithm 1: its number of trainings, and the size that it finds."""
        tuning, (experts, units) = self.size.tuning, self.size.smallest
        seeds = len(self.findings.outcomes.repeats)
        whole = seeds * len(self.tasks.units) * (len(self.tasks.tasks) + len(EXPERTS))
        least = min(tuning.exhaustive, whole)
        return [
            self.fact(
                "tuner-trainings", "algorithm 1 takes at most half the trainings of an exhaustive search",
                "searching exhaustively is laborious", f"{len(tuning.trials)} of {least}",
                len(tuning.trials) <= least / 2,
            ),
            self.fact(
                "tuner-size", "algorithm 1 finds a size within one step of the smallest LMMoE of the grid",
                "near-optimal",
                f"{tuning.experts} of {tuning.units} units against {experts} of {units}",
                within_a_step(self.size, self.tasks),
            ),
        ]  # fmt: skip

    def streaming(self) -> list[Claim]:
        """Returns the claims about scoring packet by packet on one core."""
        if (figures := self.findings.streaming.get(self.tasks.name)) is None:
            return []
        one, many, error = figures["one_by_one"], figures["batched"], figures["largest_error"]
        return [
            self.fact(
                "streaming-one-by-one",
                f"the streaming scorer takes at least {PACKETS_PER_SECOND:,} packets per second, 1 packet per call",
                "not measured", f"{one:,.0f}", one >= PACKETS_PER_SECOND,
            ),
            self.fact(
                "streaming-batched",
                f"the streaming scorer takes at least {PACKETS_PER_SECOND:,} packets per second, 256 packets per call",
                "not measured", f"{many:,.0f}", many >= PACKETS_PER_SECOND,
            ),
            self.fact(
                "streaming-equal", f"its scores equal those of the batch model, to {STREAMED_ERROR:g}", "not measured",
                f"largest difference {error:.1e}", error <= STREAMED_ERROR,
            ),
        ]  # fmt: skip

    def kitsune(self) -> list[Claim]:
        """Returns the claims against three Kitsunes on the same packets."""
        findings, tasks, size = self.findings, self.tasks, self.size
        best = findings.best_kitsune(tasks)
        aucs, parameters = findings.kitsune_aucs(tasks, best), findings.kitsune_parameters(tasks, best)
        ours = findings.outcomes.aucs(tasks, size.tuned)
        gain = findings.outcomes.difference(tasks, ours, aucs)
        count = findings.outcomes.parameters(tasks, size.tuned)
        times = findings.kitsune_times[tasks.name][str(best)]
        kitsune = len(tasks.tasks) * (times["features_cpu_us"] + times["inference_cpu_us"])
        found = [
            self.above(
                "above-kitsune", "tuned MULTA is above three Kitsunes of the size of best validation AUC",
                "drawn in figure 4", f"{statistics.mean(ours):.4f} against {statistics.mean(aucs):.4f}", gain,
            ),
            self.fact(
                "smaller-than-kitsune", "tuned MULTA has fewer parameters than three Kitsunes of the best size",
                "drawn in figure 4", f"{count:,} against {parameters:,}", count < parameters,
            ),
        ]  # fmt: skip
        if streamed := findings.streaming.get(tasks.name):
            mine = 1e6 / streamed["one_by_one"]
            found.append(
                self.fact(
                    "faster-than-kitsune", "tuned MULTA takes less time per packet than three Kitsunes, both in numba",
                    "drawn in figure 4", f"{mine:.0f} against {kitsune:.0f} µs", mine < kitsune,
                )
            )  # fmt: skip
        return found

    def paradigms(self) -> list[Claim]:
        """Returns the claims about Aurora and Rainbow."""
        outcomes, last = self.findings.outcomes, self.findings.outcomes.scale.epochs
        aucs = {
            paradigm: [mean_auc(each["history"][last - 1]["test"]) for each in outcomes.all_of(self.tasks, arm)]
            for paradigm in ("aurora", "rainbow", "rainbow_mixed") if (arm := f"paradigm {paradigm}")
        }  # fmt: skip
        pairs = [("rainbow", "aurora", "Rainbow is above Aurora with filled labels"),
                 ("rainbow_mixed", "rainbow", "mixed batches are above Rainbow's alternating batches")]  # fmt: skip
        found = []
        for ours, theirs, statement in pairs:
            figures = [PAPER_TABLE_2.get(each, {}).get(last) for each in (ours, theirs)]
            paper = "not tried" if None in figures else " against ".join(map(str, figures))
            means = [statistics.mean(aucs[each]) for each in (ours, theirs)]
            found.append(
                self.above(
                    f"{ours}-above-{theirs}", f"{statement}, after {last} epochs", paper,
                    f"{means[0]:.4f} against {means[1]:.4f}",
                    outcomes.difference(self.tasks, aucs[ours], aucs[theirs]),
                )
            )  # fmt: skip
        return found

    def latecomers(self) -> list[Claim]:
        """Returns the claims about tasks that arrive later (figure 5)."""
        outcomes, tasks = self.findings.outcomes, self.tasks
        first, second = tasks.tasks[:2]
        sequential = arrival_findings(tasks, outcomes, "sequential")
        repaired = [each["epochs_to_repair"][first] for each in arrival_findings(tasks, outcomes, "repair")]
        fallen = [each["forgetting"][first] for each in sequential]
        replayed = [each["forgetting"][first] for each in arrival_findings(tasks, outcomes, "replay")]
        kept = [-each["forgetting"][second] for each in sequential]
        unrepaired = [-lost for lost in lost_after_repair(tasks, outcomes)]
        epochs = ", ".join("more" if each is None else str(each) for each in repaired)
        return [
            self.above(
                "first-task-falls", f"the first task loses more than {COLLAPSED} when others arrive",
                "drastically pulled down", f"by {statistics.mean(fallen):.4f}", outcomes.difference(tasks, fallen),
                COLLAPSED,
            ),
            self.above(
                "second-task-stays", f"the second task loses less than {COLLAPSED} when the third arrives",
                "maintained", f"by {-statistics.mean(kept):.4f}", outcomes.difference(tasks, kept), -COLLAPSED,
            ),
            self.above(
                "repair-one-epoch", f"after one epoch of repair the first task is less than {REPAIRED} below its AUC",
                "a single epoch", f"{-statistics.mean(unrepaired):.4f} below; epochs by repeat: {epochs}",
                outcomes.difference(tasks, unrepaired), -REPAIRED,
            ),
            self.above(
                "replay", "replay forgets less of the first task than sequential", "not tried",
                f"{statistics.mean(replayed):.4f} against {statistics.mean(fallen):.4f}",
                outcomes.difference(tasks, fallen, replayed),
            ),
            self.fact(
                "isolate-identical", "isolate leaves every score of earlier tasks unchanged, to the bit",
                "not tried", "compared on all test rows, for every repeat", unchanged(tasks, outcomes, "isolate"),
            ),
        ]  # fmt: skip


def _title(tasks: TaskSet) -> str:
    """Returns the title as the beginning of a sentence."""
    return tasks.title[0].upper() + tasks.title[1:]
