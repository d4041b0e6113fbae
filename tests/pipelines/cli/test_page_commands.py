"""The commands and scripts of README and all pages run as written, and print the figures of the pages."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from page_blocks import ROOT, blocks, pages
from page_figures import fresh_lines, numbers
from page_folder import Stock
from page_runner import flowloom, run_page

ALL = [block for page in pages() for block in blocks(page)]
PAGES = [page for page in pages() if any(block.runs for block in blocks(page))]
TOLERANCE = {"rel": 0.02, "abs": 0.05}
"""Difference of a figure on another kind of processor; most are scores of small splits."""
EPOCH = re.compile(r"(?<=kept epoch )\d+ of \d+")
METRICS_PAGE = ROOT / "docs/reference/metrics.md"


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Stock:
    """The things that pages presuppose."""

    def run(folder: Path, *arguments: str) -> None:
        with contextlib.chdir(folder):
            flowloom(list(arguments))

    return Stock(tmp_path_factory.mktemp("stock"), run)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_and_print_its_figures(page, stock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block, output in run_page(page, stock):
        fresh = EPOCH.sub("", fresh_lines(block.text, output))
        assert numbers(fresh) == pytest.approx(numbers(EPOCH.sub("", block.text)), **TOLERANCE), block.place


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_reference_has_every_key_of_metrics(stock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stock.put("RUN", Path("RUN"))
    flowloom(["evaluate", "RUN"])
    found = set(keys(json.loads(Path("RUN/metrics.json").read_text())))
    assert found == set(re.findall(r"`([\w.]+)`(?=[^|]*\| [^|]+\| [^|]+\|$)", METRICS_PAGE.read_text(), re.MULTILINE))


def keys(value: object, path: tuple[str, ...] = ()) -> list[str]:
    """Returns the keys of metrics, with `TASK`, `CLASS`, `BASELINE`, `INPUTS` and `CANDIDATE` for names."""
    if not isinstance(value, dict):
        return [".".join(path)]
    names = {
        "tasks": "TASK", "classes": "CLASS", "baselines": "BASELINE", "ceiling": "INPUTS",
        "validation_macro_f1": "CANDIDATE",
    }  # fmt: skip
    return [each for key in value for each in keys(value[key], (*path, names.get(path[-1] if path else "", key)))]


def test_at_most_one_block_in_ten_does_not_run():
    run, exempt = [block for block in ALL if block.runs], [block.place for block in ALL if block.exempt]
    assert len(run) > 40
    assert len(exempt) <= (len(run) + len(exempt)) / 10, exempt


def test_a_block_that_does_not_run_has_a_reason():
    for block in ALL:
        if block.exempt:
            assert len(block.comments["not run"].split()) > 2, block.place


def test_comments_stand_directly_before_a_block():
    for page in pages():
        found = re.findall(r"^<!-- (?:given|file|not run|figures): .*-->$", page.read_text(), re.MULTILINE)
        assert len(found) == sum(len(block.comments) for block in blocks(page)), page


def test_lines_of_another_run_replace_those_of_a_page():
    output = "epoch 1 of 2: 0.5\n a  1 0.250 \nepoch 2 of 2: 0.75, in 3 s\n ───── ──\n"
    fresh = "epoch 2 of 2: 0.75\n\n a  1 0.250\n ───── ──\n"
    assert fresh_lines("epoch 9 of 9: 1\n\n a   7   0.1\n ── ─\n", output) == fresh
    with pytest.raises(ValueError, match="a line such as 'b 1'"):
        fresh_lines("b 1\n", output)
