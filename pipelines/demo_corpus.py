"""Folder of the corpus that the demo and two reproductions read."""

from pathlib import Path

CORPUS = Path(__file__).resolve().parent.parent / "tests" / "corpus"
"""Where the source tree has the demo corpus; an installed package does not have it."""
