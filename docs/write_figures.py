"""Writes the figures of README and the pages from a run on this machine: `make figures`, about 3 minutes.

Each block after `<!-- figures: ... -->` gets its lines anew from the output of the block before it.
"""

import contextlib
import tempfile
from pathlib import Path

from page_blocks import blocks, pages
from page_figures import fresh_lines
from page_folder import Stock
from page_runner import flowloom, run_page


def _make(folder: Path, *arguments: str) -> None:
    with contextlib.chdir(folder):
        flowloom(list(arguments))


def write_figures() -> None:
    """Runs all pages that have figures, each in a temporary folder, and replaces their lines."""
    for page in (page for page in pages() if any("figures" in block.comments for block in blocks(page))):
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as stock, tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for block, output in run_page(page, Stock(Path(stock), _make)):
                text = text.replace(block.text, fresh_lines(block.text, output))
        page.write_text(text, encoding="utf-8")
        print(page)


if __name__ == "__main__":
    write_figures()
