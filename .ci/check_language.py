"""Checker of the worst language patterns in docstrings, comments, error messages, templates and pages.

`python .ci/check_language.py [path ...]` prints `file:line: message` for each finding and exits with 1 if there is one.
Without arguments it checks the whole tree.
"""

import ast
import io
import math
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("schemas", "transforms", "pipelines", "trainers", "tests", "benchmarks", "docs", ".ci")
MOST_WORDS = 20

HEADLESS = re.compile(
    r"(?:What|How|Which|Whether|Where|When|Why|Who|Whose)\b|(?:All|Everything|Anything|Nothing) (?:that|but)\b"
)
IMPERATIVE = re.compile(r"(?:Add|Build|Check|Count|Find|Make|Print|Raise|Read|Return|Run|Write|Yield) ")
PHRASES = {
    r"ha(?:s|ve) not(?=[.,;:)]| (?:a|an|any|its|one|the|their)\b|$)": "does not have",
    r"be it\b": "whether it is",
    r"roads?\b": "step, pipeline",
    r"(?:kept|keep) readings?\b": "meter cache",
    r"roll call\b": "worker check",
    r"passing folders?\b": "staging folder, temporary files",
    r"header leaks?\b": "byte rules",
    r"(?:set|put) aside\b": "reject, drop",
    r"words? of (?:the|its|a) vocabulary\b": "label value",
    r"(?:is|are) not said\b": "unknown",
    r"unless said\b": "by default",
    r"told\b(?! (?:apart|to|not|never)\b)": "given, listed, named",
    r"woven\b": "combined, striped",
    r"hand(?:s|ed|ing)? over\b": "pass, return",
    r"(?:sighted|shelved)\b": "seen, stored",
    r"by heart\b": "memorise",
    r"know(?:s|n)? (?:\w+ )?again\b": "recognise, memorise",
    r"nobody is asked\b": "a sentence with a subject",
    r"who listens\b": "gate weights",
}
BANNED = [(re.compile(rf"(?<![\w-])(?:{pattern})(?!-\w)", re.I), better) for pattern, better in PHRASES.items()]
OF_WHICH = (re.compile(r"\bof which\b", re.IGNORECASE), "a sentence of its own")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
CODE = re.compile(r"``?[^`]+``?|\]\([^)]*\)")  # quoted names and the targets of links are no prose


def check_text(text: str, banned: list[tuple[re.Pattern[str], str]]) -> Iterator[tuple[int, str]]:
    """Yields the line, from 0, and a message for each banned phrase, wrapped lines included."""
    blank = CODE.sub(lambda found: re.sub(r"[^\n]", "`", found[0]), text)
    joined = re.sub(r"\s", " ", blank)
    for pattern, better in banned:
        for found in pattern.finditer(joined):
            yield blank.count("\n", 0, found.start()), f'"{found[0].lower()}": write {better}'


def check_first_line(text: str, most_words: float = MOST_WORDS) -> Iterator[str]:
    """Yields a message for a headless or long first sentence of a docstring."""
    first = re.split(r"(?<=[.!?])\s+(?=[A-Z`])|\n\s*\n", text.strip(), maxsplit=1)[0]
    if headless := HEADLESS.match(first):
        yield f'"{headless[0]} ...": begin with a noun or a third-person verb'
    if (words := len(first.split())) > most_words:
        yield f"first sentence must have at most {most_words} words, got {words}"


def check_python(source: str, commands: bool = False) -> Iterator[tuple[int, str]]:
    """Yields the line and a message for each finding in a module; the help of commands may use the imperative."""
    phrases, documented, texts = [*BANNED, OF_WHICH], set[int](), list[tuple[int, str]]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            documented.add(id(node.body[0]))
            text = ast.get_docstring(node) or ""
            yield from ((node.body[0].lineno, message) for message in check_first_line(text))
            if isinstance(node, DOCUMENTED[2:]) and not commands and (verb := IMPERATIVE.match(text)):
                yield node.body[0].lineno, f'"{verb[0]}...": begin with a third-person verb'
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            texts.append((node.lineno, node.value.value))
            if id(node) not in documented and not node.value.value.startswith("Whether "):  # of an attribute
                yield from ((node.lineno, message) for message in check_first_line(node.value.value, math.inf))
        if isinstance(node, ast.Raise):
            inner = (part for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))
            texts.extend((part.lineno, part.value) for part in inner)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            texts.append((token.start[0], token.string))
    for line, text in texts:
        yield from ((line + at, message) for at, message in check_text(text, phrases))


def check_page(text: str) -> Iterator[tuple[int, str]]:
    """Yields the line and a message for each finding in a page or template, code blocks apart."""
    prose = re.sub(r"^(```|~~~).*?^\1", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    yield from ((at + 1, message) for at, message in check_text(prose, BANNED))


def check_file(path: Path) -> list[str]:
    """Returns the findings of one file, as `file:line: message` in the order of lines."""
    text = path.read_text(encoding="utf-8")
    found = check_python(text, "cli" in path.parts) if path.suffix == ".py" else check_page(text)
    return [f"{path}:{line}: {message}" for line, message in sorted(found)]


def main(arguments: list[str]) -> int:
    """Checks files and folders, prints the findings, and returns the exit status."""
    given = [Path(argument) for argument in arguments] or [*(ROOT / name for name in FOLDERS), *ROOT.glob("*.md")]
    inner = (sorted(path.rglob("*")) if path.is_dir() else [path] for path in given)
    checked = {".py", ".md", ".j2", ".yaml"}
    found = [line for paths in inner for path in paths if path.suffix in checked for line in check_file(path)]
    print("\n".join(found) or "no findings")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
