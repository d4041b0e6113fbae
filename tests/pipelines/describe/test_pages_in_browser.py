"""Every page in a headless browser: nothing is cut off, and all text is readable, in light and dark."""

import made_up_pages
import pytest
from browser import SCHEMES, WIDTHS, find_browser, lay_out

pytestmark = pytest.mark.timeout(240)

BROKEN = """<!doctype html><html><body style="margin: 0; background: #fff; color: #ccc">
<p style="width: 900px">too wide</p><div style="overflow-x: auto"><p style="width: 900px; color: #000">scrolls</p></div>
<p style="width: 40px; overflow: hidden; color: #000; white-space: nowrap">hides its end</p></body></html>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """Every page by the command that writes it."""
    return {
        "evaluate": made_up_pages.run_report(classes=20),
        "evaluate, few classes": made_up_pages.run_report(classes=3, rows=200),
        "describe": made_up_pages.dataset_page(classes=20),
        "score": made_up_pages.score_page(classes=20),
        "show": made_up_pages.flow_page(),
        "show, short flow": made_up_pages.flow_page(packets=1),
        "tune": made_up_pages.tuning_page(),
        "retrain": made_up_pages.retrain_page(tmp_path_factory.mktemp("retrain")),
        "reproduce": made_up_pages.reproduction_page(),
    }


@pytest.fixture(scope="module", params=SCHEMES)
def layouts(request, pages, browser):
    """The scheme, and the layouts of all pages by page and width."""
    return request.param, lay_out(browser, pages, request.param)


@pytest.mark.slow
def test_nothing_is_cut_off_at_any_width(layouts, pages):
    _, found = layouts
    assert set(found) == set(pages)
    for page, by_width in found.items():
        assert set(by_width) == set(WIDTHS)
        for width, layout in by_width.items():
            assert layout.scroll_width <= layout.client_width, f"{page} at {width} px"
            assert layout.out == [], f"{page} at {width} px"
            assert layout.cut == [], f"{page} at {width} px"
            assert layout.tiny == [], f"{page} at {width} px"


@pytest.mark.slow
def test_text_is_readable_on_light_and_on_dark_paper(layouts):
    scheme, found = layouts
    for page, by_width in found.items():
        for width, layout in by_width.items():
            ink, paper = ((sum(map(int, color[4:-1].split(",")))) for color in (layout.ink, layout.paper))
            assert (paper > ink) == (scheme == "light"), f"{page} at {width} px"
            assert layout.pale == [], f"{page} at {width} px"


def test_the_measures_find_what_is_wrong(browser):
    layout = lay_out(browser, {"broken": BROKEN}, "light", [420])["broken"][420]
    assert layout.scroll_width == 900
    assert [line.partition(">")[2] for line in layout.out] == [f" too wide: 0 to {900} px"]
    assert [line.partition(">")[2] for line in layout.cut] == [" hides its end"]
    assert len(layout.pale) == 1
    assert find_browser() == browser
