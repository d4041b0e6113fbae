"""Pages in a headless browser: what its layout engine measures of them at several widths, in light or dark."""

import dataclasses
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

WIDTHS = (420, 800, 1400)
SCHEMES = ("light", "dark")
PROGRAMS = ("chromium-headless-shell", "chrome-headless-shell", "chromium", "google-chrome")
"""Browsers that can be used, all of one engine."""
DEADLINE_S = 120.0
SMALLEST_TEXT_PX = 7.5
"""Smallest height of a line of text in a figure that people can still read."""

_MEASURES = Path(__file__).with_name("browser_measures.js")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A page as a browser lays it out.

    Attributes:
      scroll_width, client_width: width of the content and of the window, in pixels.
      out: elements outside of the window that are not in a box that scrolls.
      cut: elements that hide a part of their content.
      pale: texts with too little contrast (WCAG 2.2, 1.4.3).
      tiny: texts of figures that are too small to read.
      ink, paper: colours of text and background.
    """

    scroll_width: int
    client_width: int
    out: list[str]
    cut: list[str]
    pale: list[str]
    tiny: list[str]
    ink: str
    paper: str


def find_browser() -> str | None:
    """Returns the path of a browser, None if there is none."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


def lay_out(
    browser: str, pages: Mapping[str, str], scheme: str, widths: Sequence[int] = WIDTHS
) -> dict[str, dict[int, Layout]]:
    """Returns the layouts of pages, given as HTML, by name and width of the window in pixels.

    Raises:
      AssertionError: if the browser fails.
    """
    values = {"PAGES": json.dumps(dict(pages)), "SIZES": json.dumps(list(widths)), "SMALLEST": str(SMALLEST_TEXT_PX)}
    values["SCHEME"] = json.dumps(scheme)
    script = _MEASURES.read_text(encoding="utf-8")
    head = "".join(f"const {name} = {value.replace('</', '<' + chr(92) + '/')};\n" for name, value in values.items())
    document = f"<!doctype html><meta charset=utf-8><body><script>{head}{script}</script></body>"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pages.html")
        file.write_text(document, encoding="utf-8")
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
            "--virtual-time-budget=600000", "--window-size=1500,1000", "--dump-dom", file.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    body = done.stdout.partition("<body>")[2].partition("</body>")[0]
    assert body.startswith("{"), f"the browser gave no measures: {done.stdout[:500]} {done.stderr[-2000:]}"
    found = json.loads(body.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert "error" not in found, found
    return {
        page: {int(width): Layout(**measures) for width, measures in sizes.items()} for page, sizes in found.items()
    }
