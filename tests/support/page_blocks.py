"""Fenced blocks of Markdown pages, with the comments before them that direct the tests.

`<!-- given: web DATASET gateway=web -->` lists what the folder of the page has before the block,
`<!-- file: corpus.yaml -->` makes the block a file of that folder, `<!-- not run: REASON -->` exempts it, and
`<!-- figures: REMARK -->` says that it has lines of the output of the block before it. A page's blocks share a folder.
"""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = ("sh", "python")
"""Languages of blocks that run."""

_BLOCK = re.compile(
    r"(?P<comments>(?:^<!--[^\n]*-->\n)*)^```(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)
_COMMENT = re.compile(r"<!-- (given|file|not run|figures): (.*?) -->")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page: language, text, line of the page, and the comments before it by their key."""

    page: Path
    line: int
    language: str
    text: str
    comments: dict[str, str]

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def given(self) -> list[tuple[str, str]]:
        """Names that the folder must have, each with the name of what it is a copy of."""
        pairs = (name.partition("=") for name in self.comments.get("given", "").split())
        return [(name, source or name) for name, _, source in pairs]

    @property
    def runs(self) -> bool:
        """True for a command or a script that is not exempt."""
        return self.language in RUN and "not run" not in self.comments

    @property
    def exempt(self) -> bool:
        """True for a command or a script that is exempt."""
        return self.language in RUN and "not run" in self.comments


def pages() -> list[Path]:
    """Returns all pages that users read, in order."""
    folders = (ROOT / "docs").rglob("*.md")
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(folders)]


def blocks(page: Path) -> list[Block]:
    """Returns the blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["text"],
            dict(_COMMENT.findall(found["comments"])),
        )
        for found in _BLOCK.finditer(text)
    ]


def commands(text: str) -> list[str]:
    """Returns the commands of a shell block, continued lines joined and lines of comments left out."""
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
