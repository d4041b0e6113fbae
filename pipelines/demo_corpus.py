"""Folder of the corpus that the demo and two reproductions read."""

from pathlib import Path

CORPUS = Path(__file__).resolve().parent.parent / "tests" / "corpus"
"""Folder of the demo corpus in the source tree; an installed package does not have it."""
