"""The page and the JSON of a reproduction, from invented results of the whole grid."""

import json
import re

import numpy as np
import pytest

from flowloom.pipelines.reproduce.engine.options import Repeat
from flowloom.pipelines.reproduce.engine.reproduction_page import PAGE, RESULTS, Reproduction
from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_claims import LabelledTotals, claims
from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_grid import (
    FlowSet,
    RezaeiLiuOutcomes,
    RezaeiLiuScale,
    arms,
    grid,
)
from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_tables import sections

WORDS = ("a", "b", "c", "d", "e")
SETS = [
    FlowSet("quic", "", "service", WORDS, "QUIC", "1", False, 120, paper_dividers=True),
    FlowSet("certta", "", "traffic", WORDS, "CertTA", "2", True, 100),
    FlowSet("quic-texts", "", "service", WORDS, "QUIC texts", "3", True, 65_535, texts_only=True),
]


def repeats(scale, seed=7):
    return [Repeat(seed, number) for number in range(scale.repeats)]


def outcomes(scale, accuracy):
    """Results with `accuracy(arm, repeat)` as the accuracy of each arm."""
    results = {}
    for flows in SETS:
        for arm, settings in arms(flows, scale).items():
            for repeat in repeats(scale):
                scores = {"class": accuracy(arm, repeat.number), "bandwidth": 0.9, "duration": 0.8}
                confusion = np.eye(5, dtype=int).tolist()
                scores = {settings["trained"]: 0.9} if "trained" in settings else scores
                results[f"{flows.name}__{arm.replace(' ', '__')}__{repeat.name}"] = {
                    "accuracy": scores, "parameters": 296_847, "labelled": 50, "confusion": confusion,
                    "dividers": {"bandwidth": [1e5, 2e5], "duration": [1.0, 2.0]},
                    "history": [{"validation_accuracy": {"class": 0.2}}, {"validation_accuracy": {"class": 0.5}}],
                }  # fmt: skip
    return RezaeiLiuOutcomes(results, scale, repeats(scale))


def totals():
    classes = np.repeat(np.arange(5, dtype=np.int32), 20)
    means = np.array([2.77, 9.83, 32.08, 56.44, 114.10])[classes]
    return LabelledTotals(WORDS, classes, 8e3 * means, means)


def better(arm, repeat):
    return {"multi-task": 0.9, "multi-task-windows": 0.95}.get(arm.split()[0], 0.6) + 0.01 * repeat


@pytest.mark.parametrize("scale", [RezaeiLiuScale(), RezaeiLiuScale.quick()], ids=["whole", "quick"])
def test_the_page_has_every_table_and_the_json_every_claim(scale, tmp_path):
    found = outcomes(scale, better)
    judged = claims(SETS, found, totals())
    reproduction = Reproduction(
        "A paper", ["450 flows."], {"seed": 7}, judged, sections(SETS, found, totals()), "again"
    )
    document = reproduction.write(tmp_path)
    assert json.loads((tmp_path / RESULTS).read_text()) == document
    page = (tmp_path / PAGE).read_text()
    tables = {
        "table_3_quic", "table_4_dividers", "table_5_certta", "figure_5_k_quic", "figure_6_lambda_quic",
        "figure_7_k_certta", "figure_8_lambda_certta", "dividers_certta", "directions_quic-texts", "confound",
    }  # fmt: skip
    assert set(document["tables"]) == tables
    for name in tables:
        assert f'id="{name}"' in page
        assert document["tables"][name]
    assert page.index("450 flows.") < page.index("claims hold")
    shortened = [flows.packets for flows in SETS if flows.packets < 65_535 and not flows.texts_only]
    assert re.findall(r"statistics cover the first (\d+) packets of a flow", page) == [str(k) for k in shortened]
    assert not re.search(r'(src|href)="http', page)
    ids = [claim["id"] for claim in document["claims"]]
    assert len(set(ids)) == len(ids)
    assert reproduction.page() == page


def test_claims_are_decided_by_paired_differences():
    held = {claim.id: claim.holds for claim in claims(SETS, outcomes(RezaeiLiuScale(), better), totals())}
    assert held["parameters"]
    assert held["divider-rule"]
    assert held["duration-dividers"]
    assert all(
        held[f"multi-task-above-{other}-{labels}-quic"]
        for other in ("transfer", "cnn-rnn2", "single-task-converged")
        for labels in (10, 20)
    )
    worse = {claim.id: claim for claim in claims(SETS, outcomes(RezaeiLiuScale(), lambda arm, repeat: 0.5), None)}
    lost = worse["multi-task-above-transfer-10-quic"]
    assert not lost.holds
    assert (lost.paper, lost.ours) == ("93.33 against 85.33", "50.0 against 50.0")
    assert "duration-dividers" not in worse


def test_experiments_have_distinct_names_and_settings():
    planned = grid(SETS, RezaeiLiuScale(), repeats(RezaeiLiuScale()))
    assert len({each.name for each in planned}) == len({each.key for each in planned}) == len(planned)
    others = grid(SETS, RezaeiLiuScale(), repeats(RezaeiLiuScale(), 8))
    assert {each.key for each in others}.isdisjoint(each.key for each in planned)
