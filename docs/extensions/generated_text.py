"""Sphinx directive `generated`: text of a reference page, made from the code that it describes."""

from collections.abc import Callable
from typing import Any

from docutils import nodes
from model_tables import model_tables, preset_table, recipe_table
from public_names import beam_names, public_names
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.models.score_card import ScoreCard
from flowloom.trainers.recipes.recipe import Recipe

TEXTS: dict[str, Callable[[], str]] = {
    "python": public_names,
    "beam": beam_names,
    "manifest": lambda: model_tables(CorpusManifest),
    "recipe": lambda: model_tables(Recipe),
    "recipes": recipe_table,
    "presets": preset_table,
    "card": lambda: model_tables(DatasetCard),
    "scores": lambda: model_tables(ScoreCard),
}
"""By the directive's argument, a function that returns Markdown."""


class Generated(SphinxDirective):
    """Inserts the text that its argument names, as if the page contained it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Returns the parsed text; an unknown name is an error of the build."""
        if self.arguments[0] not in TEXTS:
            raise self.error(f"generated text must be one of {', '.join(TEXTS)}, got {self.arguments[0]!r}")
        return self.parse_text_to_nodes(TEXTS[self.arguments[0]](), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directive; drawings in Mermaid, which browsers of repositories render, are shown as text."""
    app.add_directive("generated", Generated)
    app.add_lexer("mermaid", TextLexer)
    return {"parallel_read_safe": True}
