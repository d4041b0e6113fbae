"""Tables and figures of MTC's experiments beside the paper's: tables 4 and 6 to 9, figure 7, and the leaks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flowloom.pipelines.reproduce.engine.repeated_splits import TEST_PER_TRAIN
from flowloom.pipelines.reproduce.engine.reproduction_page import Confusion, Row, Section, Table
from flowloom.pipelines.reproduce.mtc.mtc_claims import (
    PAPER_TABLE_4,
    PAPER_TABLE_6,
    PAPER_TABLE_7,
    PAPER_TABLE_8,
    PAPER_TABLE_9,
    TASK_TITLES,
    TITLES,
    Figures,
)
from flowloom.pipelines.reproduce.mtc.mtc_experiments import LINK_TYPE, MOMENTS, TREES, RowSet
from flowloom.pipelines.reproduce.mtc.mtc_grid import (
    HEADERS,
    HEADS,
    MOMENTS_OF_TABLE_9,
    PACKETS,
    PAPER_DROPOUT,
    RATES,
    SESSIONS,
    TABLES,
    MTCOutcomes,
    arms,
    converged,
    dropout_arm,
)
from flowloom.schemas.dataset.card_parts import ByteRule
from flowloom.trainers.evaluation import figures
from flowloom.trainers.evaluation.intervals import Mean, mean_of

BOTH = {"macro_f1": "F1", "macro_recall": "Rc"}
DRAWN = ("mtc-lite", "mtc", "dense", "transformer", "cnn")
"""Networks of the learning curves."""


def sections(sets: Sequence[RowSet], outcomes: MTCOutcomes, byte_rule: ByteRule | None) -> list[Section]:
    """Returns the sections of the page."""
    found = []
    by_name = {rows.name: rows for rows in sets}
    if SESSIONS in by_name:
        rows = by_name[SESSIONS]
        found += [_table_4(rows, outcomes, ("tra", "aux", "aux-sum", "vpn"), "ISCX")]
        found += [_classes(rows, outcomes, ("tra", "aux")), _ablations(outcomes), _why(rows, outcomes, "tra")]
        found.append(_copies(outcomes, "tra"))
    if HEADERS in by_name:
        found.append(_headers(outcomes, byte_rule))
    if PACKETS in by_name:
        found.append(_units(outcomes))
    if TABLES in by_name:
        rows = by_name[TABLES]
        found += [
            _table_4(rows, outcomes, ("attack", "mal", "mal-sum"), "CICIDS2017"),
            _classes(rows, outcomes, ("attack",)),
        ]
        found.append(_why(rows, outcomes, "attack"))
    return found


def _table_4(rows: RowSet, outcomes: MTCOutcomes, tasks: Sequence[str], title: str) -> Section:
    """Returns table 4, with the cost of each training."""
    lines: dict[bool, list[Row]] = {True: [], False: []}
    for arm in TITLES:
        if arm not in arms(rows.name, outcomes.scale):
            continue
        near = converged(rows.name, arm)
        line: dict[str, str | float | object] = {"method": TITLES[arm], "arm": arm}
        for task in tasks:
            if outcomes.has(rows.name, arm, task):
                line |= {f"{task}_{key}": outcomes.mean(rows.name, arm, task, key) for key in BOTH}
        results = outcomes.all_of(rows.name, arm)
        line |= {"parameters": results[0].get("parameters"), "macs": _millions(results[0].get("macs"))}
        line["updates"] = arms(rows.name, outcomes.scale)[arm].get("updates")
        line["minutes"] = mean_of([result["cpu_s"] / 60 for result in results])
        lines[near].append(line)  # type: ignore[arg-type]
    paper: dict[str, str | float | Mean | None] = {"method": "MTC, as published on other data", "arm": ""}
    for task in tasks:
        paper |= {
            f"{task}_{key}": f"{each}" for key, each in zip(BOTH, PAPER_TABLE_4["mtc"].get(task, ()), strict=False)
        }
    near_lines: list[Row] = [*lines[True], paper]
    columns = {"method": "Method"}
    columns |= {f"{task}_{key}": f"{TASK_TITLES[task]} {short}" for task in tasks for key, short in BOTH.items()}
    cost = {"parameters": "Parameters", "macs": "Million MAC", "updates": "Updates", "minutes": "CPU min"}
    counts = outcomes.all_of(rows.name, "forest")[0]["rows"]
    chosen = len(outcomes.all_of(rows.name, "cnn")[0]["history"])
    text = [
        f"Macro F1 and macro recall on the test rows in per cent: the mean over {len(outcomes.repeats)} splits and "
        f"half its 95 % interval. Each split has {counts[0]:,} train, {counts[1]:,} validation and {counts[2]:,} test "
        "rows.",
        f"All networks of these tables keep the weights of the best of {chosen} moments by macro F1 of the first task "
        "on the validation rows. Trees have one fit for each task.",
        "MTC lite is ours: it has one encoder layer per block, a whole token as a step of the CNN branch, learned "
        "positions, bits of bytes (sines and cosines of features) beside their values, and a wide layer on these for "
        "the tasks of the CNN branch. A dense layer of that kind alone, for all tasks, has as many updates as MTC lite "
        "and takes a small part of its time.",
        "The paper's MTC, Transformer and 1D-CNN have about as much processor time as MTC lite, with the paper's "
        f"optimizer and decay: the learning rate rises to {RATES[rows.name]:g} (the paper's is 0.001) and falls along "
        "a cosine. None of them is known to be near convergence then, so their table shows what the time buys. It says "
        "nothing about these networks, or about the paper.",
    ]  # fmt: skip
    caption = "The paper's figures are for packets, not for sessions." if rows.name == SESSIONS else (
        "The paper's figures are for 2.4 million rows, resampled before the split."
    )  # fmt: skip
    spent = "Processor time of a training and its measurements, in minutes."
    if rows.name == SESSIONS:
        spent += " MTC lite is also measured on test rows, for table 9."
    budget = "Figures of a budget of processor time, not of trained networks."
    return Section(
        f"Table 4 on {title}",
        text,
        {
            f"table_4_{rows.name}": Table("Table 4: methods trained near convergence", columns, near_lines, caption),
            f"budget_{rows.name}": Table("The paper's networks within the budget", columns, lines[False], budget),
            f"cost_{rows.name}": Table("Cost", {"method": "Method", **cost}, [*lines[True], *lines[False]], spent),
        },
    )


def _classes(rows: RowSet, outcomes: MTCOutcomes, tasks: Sequence[str]) -> Section:
    """Returns figure 7 in numbers."""
    tables = {}
    compared = arms(rows.name, outcomes.scale)
    drawn = [arm for arm in (*DRAWN, "forest") if arm in compared and converged(rows.name, arm)]
    for task in tasks:
        lines: list[Row] = []
        for label, figures_of in outcomes.all_of(rows.name, drawn[0])[0]["tasks"][task]["classes"].items():
            line: dict[str, object] = {"class": label, "support": float(figures_of["support"])}
            for arm in drawn:
                for key in ("f1", "recall"):
                    line[f"{arm}_{key}"] = outcomes.of_class(rows.name, arm, task, label, key)
            lines.append(line)  # type: ignore[arg-type]
        columns = {"class": "Class", "support": "Test rows"}
        columns |= {f"{arm}_{key}": f"{TITLES[arm]}, {key}" for arm in drawn for key in ("f1", "recall")}
        tables[f"figure_7_{rows.name}_{task}"] = Table(f"{TASK_TITLES[task]} by class", columns, lines)
    return Section(f"Figure 7 on {rows.title}: by class", ["F1 and recall of each class, in per cent."], tables)


def _ablations(outcomes: MTCOutcomes) -> Section:
    """Returns tables 6 to 9."""
    scale = outcomes.scale
    layers = {f"layers {m[1]}-{m[2]}": (f"{m[1]}, {m[2]}", PAPER_TABLE_6[m[1], m[2]]) for m in scale.repetitions}
    weights = {f"weight {w}": (f"{w}:2:1", PAPER_TABLE_7[w]) for w in scale.weights}
    rates = {dropout_arm(rate, scale): (f"{rate:g}", PAPER_TABLE_8[rate]) for rate in scale.dropouts}
    tables = {
        "table_6": _settings(outcomes, "Table 6: encoder layers of blocks 2 and 3", "m2, m3", layers),
        "table_7": _settings(
            outcomes, "Table 7: weights of VPN (in the place of App), Tra and Aux", "Weights", weights
        ),
        "table_8": _settings(outcomes, "Table 8: dropout of the CNN branch", "Rate", rates),
    }
    heads: dict[str, tuple[str, Figures | None]] = {
        dropout_arm(PAPER_DROPOUT, scale): ("all three", PAPER_TABLE_4["mtc"]["tra"])
    }
    heads |= {arm: (what, PAPER_TABLE_4.get(arm.replace("-lite", ""), {}).get("tra")) for arm, what in HEADS.items()}
    tables["heads"] = _settings(outcomes, "Heads of MTC lite", "Heads", heads)
    lines: list[Row] = []
    results = outcomes.all_of(SESSIONS, "mtc-lite")
    for moment, (epochs, paper) in zip(MOMENTS_OF_TABLE_9, PAPER_TABLE_9.items(), strict=True):
        records = [_record_at(result["history"], moment) for result in results]
        line: dict[str, object] = {"epochs": str(epochs), "updates": float(records[0]["update"])}
        for key, said in zip(BOTH, paper, strict=True):
            line |= {f"paper_{key}": said}
            for split in ("validation", "test"):
                told = [record["test"] if split == "test" else record for record in records]
                line[f"{split}_{key}"] = mean_of([100 * each[key]["tra"] for each in told], TEST_PER_TRAIN)
        lines.append(line)  # type: ignore[arg-type]
    columns = {"epochs": "Epochs of the paper", "updates": "Updates here"}
    for key, short in BOTH.items():
        columns |= {f"validation_{key}": f"Tra. {short}, validation", f"test_{key}": f"{short}, test",
                    f"paper_{key}": "paper"}  # fmt: skip
    moments = ", ".join(f"{time}/{MOMENTS}" for time in MOMENTS_OF_TABLE_9)
    caption = (
        f"Moments of one training of each split, at {moments} of its updates. Its rate falls to zero towards the last "
        "of them, which alone makes later moments better."
    )
    tables["table_9"] = Table("Table 9: how long", columns, lines, caption)
    text = [
        "The paper chooses its settings by these tables, which show its test set and one training each. Here they "
        "choose nothing: they are repeated to see how much of the differences is noise.",
        f"Tables 6 to 8 and the table of heads show MTC lite after {scale.ablation_updates} updates, far from "
        "convergence, so no claim rests on them; table 9 follows the whole training. Table 6 has weights of 4:2:1 and "
        "a dropout of 0.05; all others have one encoder layer per block. App is not in this data: VPN takes its place "
        "and weight. All keep the weights of the best validation macro F1 of Tra, but the moments of table 9.",
    ]  # fmt: skip
    return Section("Tables 6 to 9", text, tables)


def _settings(
    outcomes: MTCOutcomes, title: str, heading: str, chosen: Mapping[str, tuple[str, Figures | None]]
) -> Table:
    """Returns the figures of some arms beside the paper's figures of Tra."""
    lines: list[Row] = []
    for arm, (setting, paper) in chosen.items():
        line: dict[str, object] = {"setting": setting}
        for task in ("tra", "aux", "vpn"):
            if outcomes.has(SESSIONS, arm, task):
                line |= {f"{task}_{key}": outcomes.mean(SESSIONS, arm, task, key) for key in BOTH}
        line |= {f"paper_{key}": value for key, value in zip(BOTH, paper or (None, None), strict=True)}
        lines.append(line)  # type: ignore[arg-type]
    columns = {"setting": heading}
    for key, short in BOTH.items():
        columns |= {f"tra_{key}": f"Tra. {short}", f"paper_{key}": "paper"}
        columns |= {f"{task}_{key}": f"{TASK_TITLES[task]} {short}" for task in ("aux", "vpn")}
    return Table(title, columns, lines)


def _why(rows: RowSet, outcomes: MTCOutcomes, task: str) -> Section:
    """Returns learning curves and confusion matrices."""
    compared = arms(rows.name, outcomes.scale)
    drawn = [arm for arm in DRAWN if arm in compared]
    curves = {
        TITLES[arm]: [
            [100 * record["macro_f1"][task] for record in result["history"]]
            for result in outcomes.all_of(rows.name, arm)
        ]
        for arm in drawn
    }
    labels = next(each.vocabulary for each in rows.tasks if each.name == task)
    counts = {
        arm: _confused(outcomes, rows.name, arm, task)
        for arm in (*drawn, *TREES, "neighbour")
        if arm in compared and converged(rows.name, arm)
    }
    confusions = [Confusion(f"{TITLES[arm]}, all splits", labels, counts[arm].tolist()) for arm in (drawn[0], "forest")]
    title = f"{TASK_TITLES[task]} during training, {rows.title}"
    text = [
        "The sources of the differences: validation rows during training, and the test rows of all splits together.",
        _by_class(rows, outcomes, task, labels),
        _most_confused(counts, labels),
    ]
    drawing = figures.validation_curves(title, curves, "macro F1")
    return Section(f"Learning curves and confusions on {rows.title}", text, {}, [drawing], confusions)


def _by_class(rows: RowSet, outcomes: MTCOutcomes, task: str, labels: Sequence[str]) -> str:
    """Returns a sentence about the classes in which MTC lite and the random forest differ most."""
    f1 = {
        arm: {label: outcomes.of_class(rows.name, arm, task, label, "f1").mean for label in labels}
        for arm in ("mtc-lite", "forest")
    }
    gains = {label: f1["mtc-lite"][label] - f1["forest"][label] for label in labels}

    def compared(label: str) -> str:
        return f"{label} ({f1['mtc-lite'][label]:.1f} against {f1['forest'][label]:.1f})"

    best, worst = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    ahead = sum(gain > 0 for gain in gains.values())
    return (
        f"By F1 {TITLES['mtc-lite']} is above the {TITLES['forest']} in {ahead} of {len(labels)} classes of "
        f"{TASK_TITLES[task].rstrip('.')}. Compared with the forest it gains most on {compared(best)} and least on "
        f"{compared(worst)}."
    )


def _confused(outcomes: MTCOutcomes, name: str, arm: str, task: str) -> np.ndarray:
    """Returns the confusion matrix [actual, predicted] of an arm over the test rows of all splits, int64."""
    counts = [result["tasks"][task]["confusion"] for result in outcomes.all_of(name, arm)]
    return np.asarray(np.sum(counts, axis=0, dtype=np.int64))


def _most_confused(counts: Mapping[str, np.ndarray], labels: Sequence[str]) -> str:
    """Returns a sentence about the two classes that all methods confuse most, and the share of mistakes."""
    mistakes = {arm: each - np.diag(each.diagonal()) for arm, each in counts.items()}
    both = np.sum(list(mistakes.values()), axis=0)
    if not both.any():
        return "No method makes a mistake."
    one, other = map(int, np.unravel_index(np.argmax(np.triu(both + both.T)), both.shape))
    shares = (
        f"{TITLES[arm]} {each[one, other] + each[other, one]:,} of {each.sum():,}" for arm, each in mistakes.items()
    )
    return f"Mistakes between {labels[one]} and {labels[other]}, of all mistakes: {', '.join(shares)}."


def _copies(outcomes: MTCOutcomes, task: str) -> Section:
    """Returns the distances of test sessions to train sessions, and how often the nearest has the same label."""
    by_split = [result["bands"][task] for result in outcomes.all_of(SESSIONS, "neighbour")]
    lines: list[Row] = []
    for bands in zip(*by_split, strict=True):
        least, most = bands[0]["least"], bands[0]["most"]
        rows, right = (sum(band[key] for band in bands) for key in ("rows", "right"))
        lines.append(
            {
                "differing": f"{least} to {most}" if most is not None else f"{least} and more",
                "rows": float(rows),
                "right": 100 * right / rows if rows else None,
            }
        )
    columns = {"differing": "Bytes that differ", "rows": "Test rows", "right": "Same label, %"}
    text = [
        "Each test session is compared with the train session that differs from it in the fewest bytes. Where both are "
        "nearly equal and yet of different classes, the bytes hardly allow any method to predict the class.",
    ]
    table = Table(f"{TASK_TITLES[task]} of the nearest train session, test rows of all splits", columns, lines)
    return Section("Distance of test sessions to train sessions", text, {"nearest": table})


def _headers(outcomes: MTCOutcomes, rule: ByteRule | None) -> Section:
    """Returns the leak in the headers of pcap files."""
    lines: list[Row] = [
        {"said": f"byte {LINK_TYPE} alone, with headers", "vpn": outcomes.mean(HEADERS, "byte", "vpn")},
        {"said": "random forest, with headers", "vpn": outcomes.mean(HEADERS, "forest", "vpn")},
        {"said": "random forest, without headers", "vpn": outcomes.mean(SESSIONS, "forest", "vpn")},
    ]
    text = [
        "The published images begin with the header of a pcap file. Its link type depends on the tool that recorded "
        "the VPN, so a network that sees it can predict the tunnel without any traffic. All other results on this page "
        "are without headers of files, records and frames. Addresses, ports and similar fields are zeroed in both.",
    ]  # fmt: skip
    if rule is not None:
        text.append(
            f"The card of the dataset with headers reports the same: byte {rule.position} predicts "
            f"{100 * rule.right:.2f} % of {rule.rows:,} train rows, and the most frequent class has "
            f"{100 * rule.commonest:.1f} %. Bytes that nearly decide the label: {', '.join(map(str, rule.leaking))}."
        )  # fmt: skip
    table = Table("Macro F1 of VPN", {"said": "Predicted from", "vpn": "VPN F1"}, lines)
    return Section("The leak in the header", text, {"header_leak": table})


def _units(outcomes: MTCOutcomes) -> Section:
    """Returns the effect of a split by packet instead of by flow."""
    shown = {f"{task}_{key}": (task, key) for task in ("app", "tunnel") for key in BOTH}
    lines: list[Row] = [
        {"unit": title, **{column: outcomes.mean(PACKETS, arm, *figure) for column, figure in shown.items()}}
        for arm, title in (("forest by row", "packet, as in the paper"), ("forest by flow", "flow"))
    ]
    columns = {"unit": "Split by"}
    columns |= {column: f"{task.capitalize()} {BOTH[key]}" for column, (task, key) in shown.items()}
    text = [
        "The paper splits by packet, so packets of one flow are in train and test. The embedded corpus has captures, "
        "and so a packets view. Both rows of the table use the same packets (preset paper: link layer stripped, "
        "addresses zeroed, ports and sequence numbers unchanged) and the same random forest.",
    ]  # fmt: skip
    table = Table("Random forest on packets of the embedded corpus", columns, lines)
    return Section("Packets or flows", text, {"split_unit": table})


def _record_at(history: Sequence[Mapping[str, Any]], moment: int) -> Mapping[str, Any]:
    """Returns the record of a moment; a training of few updates has fewer records."""
    return history[-(-moment * len(history) // MOMENTS) - 1]


def _millions(count: float | None) -> float | None:
    return None if count is None else count / 1e6
