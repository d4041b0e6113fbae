"""The page of a dataset: complete, with names escaped, and without any other file."""

import html.parser
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.describe.dataset_page import render
from flowloom.pipelines.describe.drawings import draw_strips, draw_timeline
from flowloom.schemas.arrow.accounting import CAPTURES
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, REJECTS_TABLE, DatasetCard, read_card
from flowloom.schemas.dataset.dataset_statistics import DatasetStatistics, ValueStatistics
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.inspection.dataset_sketch import DatasetSketch

pytestmark = pytest.mark.timeout(120)

HOSTILE = "<script>alert('x')</script>"
SECTIONS = (
    "account", "splits", "classes", "sources", "overlap", "profiles", "quantiles", "columns", "leakage", "timelines",
    "rejects", "definition",
)  # fmt: skip


class Outline(html.parser.HTMLParser):
    """Collects the tags, ids and text of a page, and checks that every tag is closed."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("href", "src", "srcset", "data", "action")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def dataset(corpus, manifest, tmp_path_factory) -> Path:
    """A dataset whose name, class, file and reject contain markup."""
    text = manifest.replace("name: small", f'name: "{HOSTILE}"').replace("[web, ssh]", f'[web, "{HOSTILE}"]')
    text = text.replace("app: ssh", f'app: "{HOSTILE}"').replace("tasks:", '  - {glob: "<b>none</b>.pcap"}\ntasks:')
    (corpus / "page.yaml").write_text(text)
    out = tmp_path_factory.mktemp("page") / "dataset"
    build(BuildOptions(corpus / "page.yaml", out, workers=1, allow_empty=True))
    return out


@pytest.fixture(scope="module")
def card(dataset) -> DatasetCard:
    return read_card(dataset)


@pytest.fixture(scope="module")
def statistics(dataset, card) -> DatasetStatistics:
    sketch = DatasetSketch(card.tasks, card.definition.k)
    for shard in card.shards:
        for rows in pq.ParquetFile(dataset / shard.path).iter_batches():
            sketch.add(shard.split, rows)
    return sketch.statistics(card.content_hash)


@pytest.fixture
def page(dataset, statistics):
    """A function that renders the page of a card."""

    def rendered(card: DatasetCard) -> str:
        tables = (pq.read_table(dataset / name) for name in (CAPTURES_TABLE, REJECTS_TABLE))
        return render(card, statistics, *tables)

    return rendered


def text_of(page: str) -> str:
    """Returns the text of a page, with single spaces."""
    return " ".join("".join(Outline(page).texts).split())


def test_every_section_is_present_and_linked(page, card):
    outline = Outline(page(card))
    assert outline.open == []
    assert tuple(name for name in outline.ids if name in SECTIONS) == SECTIONS
    assert outline.links == [f"#{name}" for name in SECTIONS]
    assert {"svg", "circle", "rect", "table"} <= outline.tags


def test_names_are_text_and_never_markup(page, card):
    text = page(card)
    outline = Outline(text)
    assert "script" not in outline.tags
    assert "<b>none" not in text
    assert outline.texts.count(HOSTILE) >= 3, "the title of the page, a class, and a figure"
    assert "<b>none</b>.pcap" in "".join(outline.texts), "the reject"


def test_classes_with_a_dot_in_their_name_are_counted(page, card):
    tasks = tuple(task.model_copy(update={"vocabulary": ("below 0.5 s", "from 0.5 s")}) for task in card.tasks)
    splits = {
        name: split.model_copy(
            update={"classes": {task.name: {"below 0.5 s": 1_111, "from 0.5 s": 2} for task in tasks}}
        )
        for name, split in card.splits.items()
    }
    text = text_of(page(card.model_copy(update={"tasks": tasks, "splits": splits})))
    assert "below 0.5 s" in text
    assert f"{3 * 1_111:,}" in text


def test_it_loads_no_other_file(page, card):
    text = page(card)
    assert not re.search(r"https?:|//|url\(|@import|<link|<img|<script|<iframe", text)


def test_it_shows_the_card(page, card):
    text = text_of(page(card))
    account = card.accounting
    closing = f"{account.records:,} records = {account.metered:,} metered + {account.dropped['not-ip']}"
    assert f"The account closes: {closing}" in text
    assert card.content_hash[:12] in text
    assert card.content_hash in page(card), "the title of the short one"
    for split in card.splits.values():
        assert f"{split.rows:,}" in text
    assert "dropped: not-ip" in text
    assert "unreadable" in text
    assert "app by attack" in text
    assert "sizes and directions" in text
    assert "Leakage was not measured" not in text
    assert "Synthetic traffic" not in text
    assert "None" not in text
    assert "False" not in text


def test_optional_parts_of_a_card_are_shown_if_present(page, card):
    more = card.model_copy(update={"name": "synthetic floods", "leakage": None})
    text = text_of(page(more))
    assert "Synthetic traffic" in text
    assert "sizes and directions" not in text
    assert "Leakage was not measured" in text
    rainbow = card.model_copy(update={"layout": "rainbow"})
    assert "repeated in the stripe of another task" in page(rainbow)


def test_the_account_of_the_page_adds_up(page, card):
    rows = re.findall(r'<tr class="(sum|off)"><th>([^<]*)</th><td>([^<]*)</td>', page(card))
    counts = [(kind, what, int(count.replace(",", ""))) for kind, what, count in rows]
    total = None
    for kind, what, count in counts:
        if kind == "off":
            total += count
        else:
            assert total is None or what == "flows metered" or total == count, what
            total = count
    assert [what for kind, what, _ in counts if kind == "sum"] == [
        "records in captures", "packets metered", "flows metered", "rows",
    ]  # fmt: skip


def captures(*rows: tuple[str, int | None, int | None]):
    """Returns a captures table of groups and times in seconds."""
    blank = {field.name: [] if field.name == "link_types" else 0 for field in CAPTURES}
    texts = dict.fromkeys(("digest", "sha256", "format", "compression"), "")
    times = [
        {"group": group, "uri": f"{group}.pcap"}
        | {"first_ns": first and first * 10**9, "last_ns": last and last * 10**9}
        for group, first, last in rows
    ]
    return batch([{**blank, **texts, **row} for row in times], CAPTURES)


def test_timelines_show_gaps_and_draw_overlapping_groups_on_different_lines():
    drawing = draw_timeline(captures(("a", 100, 200), ("a", 300, 500), ("b", 150, 250), ("c", None, None)))
    assert drawing is not None
    assert [(len(span.captures), len(span.gaps), span.line) for span in drawing.spans] == [(2, 1, 0), (1, 0, 1)]
    ((start, width),) = drawing.spans[0].gaps
    assert (start, width) == (250, 250)
    assert draw_timeline(captures(("c", None, None))) is None


def test_strips_are_in_order_on_one_axis():
    def found(*quantiles: float) -> ValueStatistics:
        return ValueStatistics(mean=0, std=0, minimum=0, maximum=0, quantiles=quantiles)

    drawing = draw_strips("x", {"train": found(0, 0, 1, 10, 100, 1e3, 1e4), "test": found(*[0] * 7)}, 1, "B")
    assert drawing is not None
    train, test = drawing.strips
    places = [train.ends[0], train.inner[0], train.median, train.inner[1], train.ends[1]]
    assert places == sorted(set(places))
    assert test.ends == (train.ends[0],) * 2, "zeros are at the left end"
    assert "75%: 100 B" in train.text
    assert draw_strips("x", {}, 1, "B") is None
