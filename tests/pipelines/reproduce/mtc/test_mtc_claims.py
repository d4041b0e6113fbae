"""The grid of MTC, its page and its claims, from made-up results."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest

from flowloom.pipelines.reproduce.engine.options import Repeat
from flowloom.pipelines.reproduce.engine.reproduction_page import PAGE, RESULTS, Reproduction
from flowloom.pipelines.reproduce.mtc import mtc_claims
from flowloom.pipelines.reproduce.mtc.mtc_claims import claims
from flowloom.pipelines.reproduce.mtc.mtc_experiments import MOMENTS, RowSet
from flowloom.pipelines.reproduce.mtc.mtc_grid import (
    HEADERS,
    PACKETS,
    SESSIONS,
    TABLES,
    MTCOutcomes,
    MTCScale,
    arms,
    grid,
)
from flowloom.pipelines.reproduce.mtc.mtc_tables import sections
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import ByteRule

WORDS = {
    "tra": tuple(f"kind-{n}" for n in range(12)), "aux": tuple("abcdef"), "vpn": ("plain", "vpn"),
    "attack": tuple("abcdef"), "mal": ("negative", "positive"), "app": ("x", "y"), "tunnel": ("plain", "vpn"),
}  # fmt: skip
TASKS = {SESSIONS: ("tra", "aux", "vpn"), TABLES: ("attack", "mal"), PACKETS: ("app", "tunnel")}


def made(name, view, auxiliary="", **more):
    tasks = tuple(
        Task(name=task, kind="binary" if task == "mal" else "multiclass", vocabulary=WORDS[task])
        for task in TASKS[SESSIONS if name == HEADERS else name]
    )
    return RowSet(name, "", name, name, view, tasks, tasks[-1:], 100, auxiliary, **more)


SETS = [
    made(SESSIONS, "packets", "aux", auxiliary_classes=(*range(6), *range(6))), made(HEADERS, "packets"),
    made(TABLES, "tables", "mal", auxiliary_classes=(0, 1, 1, 1, 1, 1), totals={"a": 10}),
    made(PACKETS, "packets", distinct=False),
]  # fmt: skip
RULE = ByteRule(task="vpn", rows=1000, position=23, right=0.997, commonest=0.6, leaking=(20, 23))


def repeats(scale, seed=7):
    return [Repeat(seed, number) for number in range(scale.repeats)]


def outcomes(scale, score):
    """Results as if macro F1 of an arm were what `score(name, arm, task, repeat)` says."""
    results = {}
    for rows in SETS:
        for arm, settings in arms(rows.name, scale).items():
            tasks = [task.name for task in rows.tasks]
            if settings["method"] == "mtc-lite-2task":
                tasks.remove("aux")
            if rows.auxiliary and "updates" in settings:
                tasks.append(f"{rows.auxiliary}-sum")
            tasks = [task for task in tasks if task in settings.get("tested", tasks)]
            for repeat in repeats(scale):
                figures = {
                    task: figure(WORDS[task.removesuffix("-sum")], score(rows.name, arm, task, repeat.number))
                    for task in tasks
                }
                found = {"rows": [64, 16, 20], "cpu_s": 90.0, "tasks": figures}
                if "updates" in settings:
                    both = {
                        key: {task: each[key] for task, each in figures.items()} for key in ("macro_f1", "macro_recall")
                    }
                    history = [{"update": time, **both, "test": both} for time in range(1, MOMENTS + 1)]
                    found |= {"parameters": 10, "macs": 20, "update": 3, "history": history}
                if settings["method"] == "neighbour":
                    found["bands"] = {"tra": [band(0, 3, 10, 4), band(4, None, 10, 9 + repeat.number % 2)]}
                results[f"{rows.name}__{arm.replace(' ', '__')}__{repeat.name}"] = found
    return MTCOutcomes(results, scale, repeats(scale))


def band(least, most, rows, right):
    return {"least": least, "most": most, "rows": rows, "right": right}


def figure(words, value):
    classes = {word: {"support": 4, "f1": value, "recall": value} for word in words}
    confusion = (4 * np.eye(len(words), dtype=int)).tolist()
    return {"macro_f1": value, "macro_recall": value - 0.01, "classes": classes, "confusion": confusion}


def as_the_paper_says(name, arm, task, repeat):
    """MTC wins, one byte tells all, and settings of tables 6 to 8 are alike."""
    best = {"mtc-lite": 0.97, "mtc": 0.95, "byte": 0.99, "forest by row": 0.9}.get(arm, 0.8)
    return best + 0.001 * repeat + (0.025 if name == TABLES and arm == "mtc" else 0.0)


@pytest.mark.parametrize("scale", [MTCScale(), MTCScale.quick()], ids=["whole", "quick"])
def test_the_page_has_every_table_and_the_json_every_claim(scale, tmp_path):
    found = outcomes(scale, as_the_paper_says)
    judged = claims(SETS, found, RULE)
    reproduction = Reproduction("A paper", ["784 bytes."], {"seed": 7}, judged, sections(SETS, found, RULE), "again")
    document = reproduction.write(tmp_path)
    assert json.loads((tmp_path / RESULTS).read_text()) == document
    page = (tmp_path / PAGE).read_text()
    tables = {
        "table_4_iscx", "budget_iscx", "cost_iscx", "table_4_cicids2017", "budget_cicids2017", "cost_cicids2017",
        "table_6", "table_7", "table_8",
        "table_9", "heads", "figure_7_iscx_tra", "figure_7_iscx_aux", "figure_7_cicids2017_attack", "header_leak",
        "split_unit", "nearest",
    }  # fmt: skip
    assert set(document["tables"]) == tables
    for name in tables:
        assert f'id="{name}"' in page
        assert document["tables"][name]
    assert page.index("784 bytes.") < page.index("claims hold")
    assert not re.search(r'(src|href)="http', page)
    ids = [claim["id"] for claim in document["claims"]]
    assert len(set(ids)) == len(ids)


def test_near_copies_of_train_sessions_are_counted_over_all_splits():
    found = outcomes(dataclasses.replace(MTCScale(), repeats=2), as_the_paper_says)
    tables = {name: table for section in sections(SETS, found, RULE) for name, table in section.tables.items()}
    assert [tuple(row.values()) for row in tables["nearest"].rows] == [("0 to 3", 20, 40), ("4 and more", 20, 95)]


def test_the_papers_figures_stand_beside_ours():
    found = outcomes(MTCScale(), as_the_paper_says)
    tables = {name: table for section in sections(SETS, found, RULE) for name, table in section.tables.items()}
    rows = {row["arm"]: row for row in tables["table_4_iscx"].rows}
    assert rows["mtc-lite"]["tra_macro_f1"].mean == pytest.approx(97.1)
    assert rows[""]["tra_macro_f1"] == "97.94"
    costs = {row["arm"]: row for row in tables["cost_iscx"].rows}
    assert (costs["mtc"]["updates"], costs["forest"]["updates"]) == (330, None)
    heads = {row["setting"]: row for row in tables["heads"].rows}
    assert heads["without Aux"]["paper_macro_recall"] == 91.53
    assert "aux_macro_f1" not in heads["without Aux"]
    assert heads["Aux as a sum of Tra"]["paper_macro_f1"] is None
    assert heads["all three"]["aux_macro_f1"].mean == pytest.approx(80.1)
    assert [row["updates"] for row in tables["table_9"].rows] == [5, 8, 10, 12]
    (why,) = (
        section for section in sections(SETS, found, RULE) if section.title == "Learning curves and confusions on iscx"
    )
    assert (
        "is above the random forest in 12 of 12 classes of Tra. Compared with the forest it gains most on kind-"
        in why.text[1]
    )
    assert "(97.1 against 80.1)" in why.text[1]


def test_the_most_confused_classes_are_named():
    found = outcomes(dataclasses.replace(MTCScale(), repeats=2), as_the_paper_says)
    for repeat, (wrong, back) in enumerate(((3, 1), (2, 1))):
        confusion = found.results[f"iscx__mtc-lite__seed-7-{repeat}"]["tasks"]["tra"]["confusion"]
        confusion[4][7], confusion[7][4], confusion[0][1] = wrong, back, 2
    found.results["iscx__forest__seed-7-1"]["tasks"]["tra"]["confusion"][7][4] = 1
    (why,) = (
        section for section in sections(SETS, found, RULE) if section.title == "Learning curves and confusions on iscx"
    )
    assert "Mistakes between kind-4 and kind-7, of all mistakes: MTC lite (ours) 7 of 11," in why.text[2]
    assert "random forest 1 of 1, boosted trees 0 of 0, nearest train session 0 of 0." in why.text[2]
    (why,) = (
        section
        for section in sections(SETS, found, RULE)
        if section.title == "Learning curves and confusions on cicids2017"
    )
    assert why.text[2] == "No method makes a mistake."


def test_claims_are_decided_by_paired_differences():
    held = {claim.id: claim.holds for claim in claims(SETS, outcomes(MTCScale(), as_the_paper_says), RULE)}
    for other in ("forest", "dense"):
        assert held[f"iscx-mtc-lite-above-{other}-tra"]
    assert held["leak"]
    assert not held["cicids-mtc-lite-attack"]  # 97.1 is above 97, but not by as much as splits differ
    assert held["cicids2017-mtc-lite-above-forest-attack"]
    assert held["embedded-packets-forest-by-row-above-forest-by-flow-app"]
    alike = {claim.id: claim for claim in claims(SETS, outcomes(MTCScale(), lambda *of: 0.5), RULE)}
    lost = alike["iscx-mtc-lite-above-forest-tra"]
    assert not lost.holds
    assert (lost.paper, lost.ours) == ("not tried", "50.0 against 50.0")
    assert alike["aux-by-sum"].holds
    assert not alike["cicids-mtc-lite-mal-by-sum"].holds
    assert not alike["leak"].holds


def test_networks_far_from_convergence_are_in_a_table_of_their_own_and_decide_nothing():
    found = outcomes(MTCScale(), as_the_paper_says)
    short = {"mtc", "transformer", "cnn"}
    for claim in claims(SETS, found, RULE):
        assert not short & set(claim.id.replace("mtc-lite", "lite").split("-")), claim.id
        assert not {"layers", "weights", "dropout", "after"} & set(re.findall(r"[a-z]+", claim.statement)), claim
    tables = {name: table for section in sections(SETS, found, RULE) for name, table in section.tables.items()}
    for name in (SESSIONS, TABLES):
        assert {row["arm"] for row in tables[f"budget_{name}"].rows} == short
        assert not short & {row["arm"] for row in tables[f"table_4_{name}"].rows}
        assert not any("paper" in heading for heading in tables[f"budget_{name}"].columns.values())
    with pytest.raises(ValueError, match="must be trained near convergence, got mtc-lite and cnn"):
        mtc_claims._above(found, SESSIONS, "mtc-lite", "cnn", "tra", "", "")


def test_one_repeat_decides_no_difference():
    judged = claims(SETS, outcomes(MTCScale.quick(), as_the_paper_says), RULE)
    assert not any(claim.holds for claim in judged if "above" in claim.id)


def test_sets_that_are_not_there_are_left_out():
    found = outcomes(MTCScale(), as_the_paper_says)
    assert all(claim.id.startswith("cicids") for claim in claims([SETS[2]], found, None))
    assert [section.title for section in sections([SETS[3]], found, None)] == ["Packets or flows"]


def test_cells_have_names_and_settings_of_their_own_and_networks_follow_each_other():
    planned = grid(SETS, MTCScale(), repeats(MTCScale()))
    assert (len(planned), len(grid(SETS, MTCScale.quick(), repeats(MTCScale.quick())))) == (96, 24)
    assert len({each.name for each in planned}) == len({each.key for each in planned}) == len(planned)
    others = grid(SETS, MTCScale(), repeats(MTCScale(), 8))
    assert {each.key for each in others}.isdisjoint(each.key for each in planned)
    networks = [each.together for each in planned if each.together]
    assert len(set(networks)) == sum(one != other for one, other in itertools.pairwise(networks)) + 1


def test_what_is_compared_has_the_same_budget():
    for name in (SESSIONS, TABLES):
        found = arms(name, MTCScale())
        assert found["dense"]["updates"] == found["mtc-lite"]["updates"]
        half = arms(name, dataclasses.replace(MTCScale(), budget=0.5))
        for arm, settings in found.items():
            if "updates" in settings and "moments" not in settings:
                assert half[arm]["updates"] == settings["updates"] / 2
    compared = [settings for settings in arms(SESSIONS, MTCScale()).values() if "moments" in settings]
    assert len(compared) == 4 + 5 + 2 + 2
    assert {each["updates"] for each in compared} == {MTCScale().ablation_updates}
    assert all(each["method"].startswith("mtc-lite") for each in compared)
