"""The language checker finds each pattern where it reads prose, and passes plain English."""

import importlib.util

import pytest
import source_tree

CHECKER = source_tree.ROOT / ".ci" / "check_language.py"


@pytest.fixture(scope="module")
def checker():
    spec = importlib.util.spec_from_file_location("check_language", CHECKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(checker, tmp_path, text, name="module.py"):
    """Returns the findings of a file as (line, message)."""
    path = tmp_path / name
    path.write_text(text)
    lines = (line.removeprefix(f"{path}:").split(": ", 1) for line in checker.check_file(path))
    return [(int(line), message) for line, message in lines]


GOOD = '''"""Captures on a time line, so that nothing is read twice.

How a gap is closed: see `join`. All that follows is detail.
"""

UNIT = 1
"""Whether a unit is one; "of nanoseconds" would be too fine."""


def join(left: str, right: str) -> str:
    """Joins two captures; `set aside` in quotes is a key.

    Raises:
      ValueError: if the two cannot be told apart, or one has not been read.
    """
    # reads the road-map file, with a step that has not finished
    if left == right:
        raise ValueError(f"right must differ from left, got {right!r}; remove one")
    return "woven told road"
'''


def test_plain_english_passes(checker, tmp_path):
    assert found(checker, tmp_path, GOOD) == []


@pytest.mark.parametrize(
    "opening",
    [
        *["What", "How", "Which", "Whether", "Where", "When", "Why", "Who", "Whose"],
        "All that",
        "Nothing but",
        "Everything that",
    ],
)
def test_headless_first_lines_are_found(checker, tmp_path, opening):
    ((line, message),) = found(checker, tmp_path, f'"""Module."""\n\n\ndef call():\n    """{opening} a row is."""\n')
    assert line == 5
    assert message.startswith(f'"{opening} ..."')


def test_headless_attributes_are_found_but_those_of_truth_values(checker, tmp_path):
    text = 'A = 1\n"""What it is."""\nB = 1\n"""Whether it is."""\n'
    assert [line for line, _ in found(checker, tmp_path, text)] == [2]


def test_long_first_sentences_are_found(checker, tmp_path):
    words = " ".join(["Word"] * 20)
    assert found(checker, tmp_path, f'"""{words}. {words}."""\n') == []
    assert found(checker, tmp_path, f'"""{words}\nmore."""\n') == [
        (1, "first sentence must have at most 20 words, got 21")
    ]


PHRASES = [
    "a mode that the step has not",
    "files, of which two are new",
    "a row, be it empty",
    "lay the road",
    "kept readings",
    "keep reading",
    "the roll call",
    "a passing folder",
    "header leaks",
    "rows set aside",
    "rows put aside",
    "the word of the vocabulary",
    "a label that is not said",
    "all, unless said otherwise",
    "told by content",
    "woven sets",
    "handed over",
    "sighted rows",
    "learns by heart",
    "knows it again",
    "that nobody is asked for",
    "who listens to",
]


@pytest.mark.parametrize("phrase", PHRASES)
def test_phrases_are_found_in_docstrings_comments_and_errors(checker, tmp_path, phrase):
    text = f'"""Module.\n\n{phrase.capitalize()}.\n"""\n\nx = 1  # {phrase}\nraise ValueError(f"{{x}}: {phrase}")\n'
    assert [line for line, _ in found(checker, tmp_path, text)] == [3, 6, 7]


@pytest.mark.parametrize("phrase", [phrase for phrase in PHRASES if "of which" not in phrase])
@pytest.mark.parametrize("name", ["page.md", "report.html.j2", "manifest.yaml"])
def test_phrases_are_found_in_pages_wherever_lines_break(checker, tmp_path, phrase, name):
    page = f"# Title\n\n{phrase}.\n\n{phrase.replace(' ', chr(10))}.\n\n```\n{phrase}\n```\n"
    first, second = (line for line, _ in found(checker, tmp_path, page, name))
    assert first == 3
    assert second >= 5


def test_it_prints_places_and_its_status_says_whether_there_are_any(checker, tmp_path, capsys):
    (tmp_path / "good.md").write_text("Rows are counted.\n")
    assert checker.main([str(tmp_path)]) == 0
    (tmp_path / "bad.md").write_text("# Rows\n\nThe road of a build.\n")
    assert checker.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{tmp_path / 'bad.md'}:3: ")


def test_functions_begin_with_a_third_person_verb(checker, tmp_path):
    text = '"""Module."""\n\n\ndef join():\n    """Return a capture."""\n'
    assert found(checker, tmp_path, text) == [(5, '"Return ...": begin with a third-person verb')]
    (tmp_path / "cli").mkdir()
    assert found(checker, tmp_path, text, "cli/commands.py") == []
