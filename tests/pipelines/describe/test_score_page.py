"""The page of scores: complete, escaped, and small for any number of rows."""

import html
import re

import made_up_pages
import pytest

from flowloom.pipelines.describe.score_page import render_scores


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


@pytest.fixture(scope="module")
def page() -> str:
    return made_up_pages.score_page()


def test_it_shows_classes_probabilities_skew_rejects_and_captures(page):
    text = text_of(page)
    card = made_up_pages.score_card()
    assert f"{card.scored:,} flows scored by multa" in text
    for task, counts in card.classes.items():
        assert task in text
        for name, rows in counts.items():
            assert name in text
            assert f"{rows:,}" in text
    assert "0.870 0.100" in text, "mean probability of predicted flows, and of all"
    assert "The flows differ from the training data in 3 of 7 features: pkt_size, pkt_dir, pkt_gap_ns" in text
    assert "16.8 ms to 33.6 ms" in text
    assert "malformed 60,000 < 0.1 % the flow's sequences have different lengths" in text
    assert "70 more" not in text
    assert "30 more in rejects.parquet" in text
    assert page.count('class="bins"') == sum(map(len, card.classes.values()))


def test_older_cards_and_inputs_without_captures_have_a_page():
    card = made_up_pages.score_card().model_copy(
        update={
            "probabilities": {},
            "captures": None,
            "skew": None,
            "skew_missing": "there is no profile",
            "rejected": {},
        }
    )
    empty = made_up_pages.captures_table(1).slice(0, 0)
    text = text_of(render_scores(card, empty, made_up_pages.rejects_table(0)))
    assert "Skew was not measured: there is no profile." in text
    assert "score again to get them" in text
    assert "All flows come from datasets or tables." in text
    assert "Every flow has a score." in text


def test_names_are_text_and_never_markup():
    card = made_up_pages.score_card()
    model = card.model.model_copy(update={"recipe": "<script>x</script>", "path": "<b>model"})
    page = render_scores(
        card.model_copy(update={"model": model}), made_up_pages.captures_table(1), made_up_pages.rejects_table(1)
    )
    assert "<script" not in page
    assert "<b>model" not in page


def test_pages_of_100_million_flows_stay_below_2_mb():
    for page in (
        made_up_pages.score_page(classes=300, groups=20_000),
        made_up_pages.dataset_page(classes=300, sources=5_000, groups=20_000),
    ):
        assert "100,000,000" in page
        assert len(page.encode()) < 2_000_000
