"""What the experiments of MTC found here, beside what the paper says: tables 4 and 6 to 9, figure 7, and the leaks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
    dropout_arm,
)
from flowloom.schemas.dataset.dataset_card import ByteRule
from flowloom.trainers.evaluation import figures
from flowloom.trainers.evaluation.intervals import mean_of

BOTH = {"macro_f1": "F1", "macro_recall": "Rc"}
DRAWN = ("mtc-lite", "mtc", "dense", "transformer", "cnn")


def sections(sets: Sequence[RowSet], outcomes: MTCOutcomes, byte_rule: ByteRule | None) -> list[Section]:
    """Return the parts of the page."""
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
    """Return table 4, with what each training costs."""
    lines: list[Row] = []
    for arm in TITLES:
        if arm not in arms(rows.name, outcomes.scale):
            continue
        line: dict[str, str | float | object] = {"method": TITLES[arm], "arm": arm}
        paper = PAPER_TABLE_4.get(arm.replace("mtc-lite", "mtc"), {})
        for task in tasks:
            if outcomes.has(rows.name, arm, task):
                line |= {f"{task}_{key}": outcomes.mean(rows.name, arm, task, key) for key in BOTH}
            line |= {f"paper_{task}_{key}": each for key, each in zip(BOTH, paper.get(task, (None, None)), strict=True)}
        results = outcomes.all_of(rows.name, arm)
        line |= {"parameters": results[0].get("parameters"), "macs": _millions(results[0].get("macs"))}
        line["updates"] = arms(rows.name, outcomes.scale)[arm].get("updates")
        line["minutes"] = mean_of([result["cpu_s"] / 60 for result in results])
        lines.append(line)  # type: ignore[arg-type]
    columns = {"method": "Method"}
    for task in tasks:
        for key, short in BOTH.items():
            columns[f"{task}_{key}"] = f"{TASK_TITLES[task]} {short}"
            if any(line[f"paper_{task}_{key}"] is not None for line in lines):
                columns[f"paper_{task}_{key}"] = "paper"
    cost = {"parameters": "Parameters", "macs": "Million MAC", "updates": "Updates", "minutes": "CPU min"}
    counts = outcomes.all_of(rows.name, "forest")[0]["rows"]
    chosen = len(outcomes.all_of(rows.name, "cnn")[0]["history"])
    text = [
        f"Macro F1 and macro recall on the test rows in per cent: the mean over {outcomes.scale.repeats} splits and "
        f"half its 95 % interval, beside the paper's figures. {counts[0]:,} train, {counts[1]:,} "
        f"validation and {counts[2]:,} test rows of each split.",
        "The budget of a network is processor time: MTC lite, MTC and its rivals have so many updates of 128 rows that "
        "all take about as long (below), by the paper's optimizer and decay. It is short for the paper's plateau rule, "
        f"so that the learning rate rises to {RATES[rows.name]:g} (the paper's is 0.001) and falls along a cosine. Of "
        f"{chosen} moments the one with the best macro F1 on the validation rows is kept. Trees have a fit for each "
        "task.",
        "MTC lite is ours: one encoder layer a block, a whole token as a step of the CNN branch, learned places, bits "
        "of bytes (waves of features) beside their values, and a wide layer that the tasks of the CNN branch read, "
        "which sees these, too. A dense layer of that kind alone, which all tasks read, has as many updates as MTC "
        "lite and a small part of its time. The rivals are as their paper has them; MTC with the paper's layers takes "
        f"{'14 bytes' if rows.name == SESSIONS else 'one feature'} as a step.",
    ]  # fmt: skip
    caption = "The paper's figures are of packets, not of sessions." if rows.name == SESSIONS else (
        "The paper's figures are of 2.4 million rows, resampled before they were divided."
    )  # fmt: skip
    spent = "Processor minutes of a training and its measuring."
    if rows.name == SESSIONS:
        spent += " MTC lite is measured on test rows as well, for table 9."
    return Section(
        f"Table 4 on {title}",
        text,
        {
            f"table_4_{rows.name}": Table("Table 4", columns, lines, caption),
            f"cost_{rows.name}": Table("What it costs", {"method": "Method", **cost}, lines, spent),
        },
    )


def _classes(rows: RowSet, outcomes: MTCOutcomes, tasks: Sequence[str]) -> Section:
    """Return figure 7 in numbers."""
    tables = {}
    drawn = [arm for arm in (*DRAWN, "forest") if arm in arms(rows.name, outcomes.scale)]
    for task in tasks:
        lines: list[Row] = []
        for word, figures_of in outcomes.all_of(rows.name, drawn[0])[0]["tasks"][task]["classes"].items():
            line: dict[str, object] = {"class": word, "support": float(figures_of["support"])}
            for arm in drawn:
                for key in ("f1", "recall"):
                    line[f"{arm}_{key}"] = outcomes.of_class(rows.name, arm, task, word, key)
            lines.append(line)  # type: ignore[arg-type]
        columns = {"class": "Class", "support": "Test rows"}
        columns |= {f"{arm}_{key}": f"{TITLES[arm]}, {key}" for arm in drawn for key in ("f1", "recall")}
        tables[f"figure_7_{rows.name}_{task}"] = Table(f"{TASK_TITLES[task]} by class", columns, lines)
    return Section(f"Figure 7 on {rows.title}: by class", ["F1 and recall of each class, in per cent."], tables)


def _ablations(outcomes: MTCOutcomes) -> Section:
    """Return tables 6 to 9."""
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
                line[f"{split}_{key}"] = mean_of([100 * each[key]["tra"] for each in told])
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
        "The paper chooses by these tables, which are of its test set, and of one training each. Nothing is chosen by "
        "them here: they are repeated to see how much of the differences is noise.",
        f"Tables 6 to 8 and that of heads are of MTC lite after {scale.ablation_updates} updates, before it is done; "
        "table 9 follows its whole training. Table 6 has weights of 4:2:1 and dropout of 0.05; all others have one "
        "encoder layer a block. App is not in this data: VPN has its place and weight.",
    ]  # fmt: skip
    return Section("Tables 6 to 9", text, tables)


def _settings(
    outcomes: MTCOutcomes, title: str, heading: str, chosen: Mapping[str, tuple[str, Figures | None]]
) -> Table:
    """Return the figures of some arms beside the paper's of Tra."""
    lines: list[Row] = []
    for arm, (words, paper) in chosen.items():
        line: dict[str, object] = {"setting": words}
        for task in ("tra", "aux", "vpn"):
            if outcomes.has(SESSIONS, arm, task):
                line |= {f"{task}_{key}": outcomes.mean(SESSIONS, arm, task, key) for key in BOTH}
        line |= {f"paper_{key}": said for key, said in zip(BOTH, paper or (None, None), strict=True)}
        lines.append(line)  # type: ignore[arg-type]
    columns = {"setting": heading}
    for key, short in BOTH.items():
        columns |= {f"tra_{key}": f"Tra. {short}", f"paper_{key}": "paper"}
        columns |= {f"{task}_{key}": f"{TASK_TITLES[task]} {short}" for task in ("aux", "vpn")}
    return Table(title, columns, lines)


def _why(rows: RowSet, outcomes: MTCOutcomes, task: str) -> Section:
    """Return learning curves and confusions."""
    compared = arms(rows.name, outcomes.scale)
    drawn = [arm for arm in DRAWN if arm in compared]
    curves = {
        TITLES[arm]: [
            [100 * record["macro_f1"][task] for record in result["history"]]
            for result in outcomes.all_of(rows.name, arm)
        ]
        for arm in drawn
    }
    words = next(each.vocabulary for each in rows.tasks if each.name == task)
    counts = {
        arm: _confused(outcomes, rows.name, arm, task) for arm in (*drawn, *TREES, "neighbour") if arm in compared
    }
    confusions = [Confusion(f"{TITLES[arm]}, all splits", words, counts[arm].tolist()) for arm in (drawn[0], "forest")]
    title = f"{TASK_TITLES[task]} while training, {rows.title}"
    text = [
        "Where the differences come from: validation rows while training, and test rows of all splits added up.",
        _by_class(rows, outcomes, task, words),
        _most_confused(counts, words),
    ]
    drawing = figures.validation_curves(title, curves, "macro F1")
    return Section(f"Why, on {rows.title}", text, {}, [drawing], confusions)


def _by_class(rows: RowSet, outcomes: MTCOutcomes, task: str, words: Sequence[str]) -> str:
    """Say in which classes MTC lite and the random forest differ the most."""
    f1 = {
        arm: {word: outcomes.of_class(rows.name, arm, task, word, "f1").mean for word in words}
        for arm in ("mtc-lite", "forest")
    }
    gains = {word: f1["mtc-lite"][word] - f1["forest"][word] for word in words}

    def told(word: str) -> str:
        return f"{word} ({f1['mtc-lite'][word]:.1f} against {f1['forest'][word]:.1f})"

    best, worst = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    ahead = sum(gain > 0 for gain in gains.values())
    return (
        f"By F1 {TITLES['mtc-lite']} is above the {TITLES['forest']} in {ahead} of {len(words)} classes of "
        f"{TASK_TITLES[task].rstrip('.')}. Compared with the forest it gains most on {told(best)} and least on "
        f"{told(worst)}."
    )


def _confused(outcomes: MTCOutcomes, name: str, arm: str, task: str) -> np.ndarray:
    """Return the confusion [true][said] of an arm, int64, test rows of all splits added up."""
    counts = [result["tasks"][task]["confusion"] for result in outcomes.all_of(name, arm)]
    return np.asarray(np.sum(counts, axis=0, dtype=np.int64))


def _most_confused(counts: Mapping[str, np.ndarray], words: Sequence[str]) -> str:
    """Say which two classes all methods confuse the most, and how many of each one's mistakes that is."""
    mistakes = {arm: each - np.diag(each.diagonal()) for arm, each in counts.items()}
    both = np.sum(list(mistakes.values()), axis=0)
    if not both.any():
        return "No method makes a mistake."
    one, other = map(int, np.unravel_index(np.argmax(np.triu(both + both.T)), both.shape))
    told = (
        f"{TITLES[arm]} {each[one, other] + each[other, one]:,} of {each.sum():,}" for arm, each in mistakes.items()
    )
    return f"Mistakes between {words[one]} and {words[other]}, of all mistakes: {', '.join(told)}."


def _copies(outcomes: MTCOutcomes, task: str) -> Section:
    """Return how near test sessions are to train sessions, and how often the nearest has their label."""
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
    columns = {"differing": "Bytes that differ", "rows": "Test rows", "right": "Neighbour right, %"}
    text = [
        "Each test session beside the train session that differs from it in the fewest bytes. Where the two are nearly "
        "copies and yet of different classes, there is little in the bytes by which any method could tell the class.",
    ]
    table = Table(f"{TASK_TITLES[task]} of the nearest train session, test rows of all splits", columns, lines)
    return Section("How near test sessions are to train sessions", text, {"nearest": table})


def _headers(outcomes: MTCOutcomes, rule: ByteRule | None) -> Section:
    """Return what headers of pcap files give away."""
    lines: list[Row] = [
        {"said": f"byte {LINK_TYPE} alone, headers kept", "vpn": outcomes.mean(HEADERS, "byte", "vpn")},
        {"said": "random forest, headers kept", "vpn": outcomes.mean(HEADERS, "forest", "vpn")},
        {"said": "random forest, headers stripped", "vpn": outcomes.mean(SESSIONS, "forest", "vpn")},
    ]
    text = [
        "The published images begin with the header of a pcap file. Its link type is that of the tool that recorded "
        "the VPN, so that a network that sees it needs no traffic to tell the tunnel. Everything else on this page is "
        "without headers of files, records and frames. Addresses, ports and the like are zeroed in both.",
    ]  # fmt: skip
    if rule is not None:
        text.append(
            f"The card of the dataset with headers says so too: byte {rule.position} tells {100 * rule.right:.2f} % of "
            f"{rule.rows:,} train rows, where the commonest class has {100 * rule.commonest:.1f} %; nearly alone do "
            f"bytes {', '.join(map(str, rule.leaking))}."
        )  # fmt: skip
    table = Table("Macro F1 of VPN", {"said": "Told by", "vpn": "VPN F1"}, lines)
    return Section("The leak in the header", text, {"header_leak": table})


def _units(outcomes: MTCOutcomes) -> Section:
    """Return what dividing packets instead of flows does to the figures."""
    shown = {f"{task}_{key}": (task, key) for task in ("app", "tunnel") for key in BOTH}
    lines: list[Row] = [
        {"unit": title, **{column: outcomes.mean(PACKETS, arm, *told) for column, told in shown.items()}}
        for arm, title in (("forest by row", "packets, as the paper"), ("forest by flow", "flows as a whole"))
    ]
    columns = {"unit": "Divided by"}
    columns |= {column: f"{task.capitalize()} {BOTH[key]}" for column, (task, key) in shown.items()}
    text = [
        "The paper divides packets, so that packets of one flow are on both sides. The embedded corpus has captures, "
        "and so a packets view: the same packets (preset paper: link layer stripped, addresses zeroed, ports and "
        "sequence numbers as they are), the same random forest, divided both ways.",
    ]  # fmt: skip
    table = Table("Random forest on packets of the embedded corpus", columns, lines)
    return Section("Packets or flows", text, {"split_unit": table})


def _record_at(history: Sequence[Mapping[str, Any]], moment: int) -> Mapping[str, Any]:
    """Return the record of a moment; a training of few updates has fewer of them."""
    return history[-(-moment * len(history) // MOMENTS) - 1]


def _millions(count: float | None) -> float | None:
    return None if count is None else count / 1e6
