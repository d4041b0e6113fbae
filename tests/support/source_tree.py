"""Folders of the source: files, lines and imports between folders, for `tests/test_architecture.py` and for people.

python tests/support/source_tree.py
"""

import ast
import collections
import functools
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HALVES = ("schemas", "transforms", "trainers", "pipelines")


def modules() -> list[Path]:
    """Returns every module of the package, relative to the root, at every depth."""
    return sorted(path.relative_to(ROOT) for half in HALVES for path in (ROOT / half).rglob("*.py"))


@functools.cache
def imported(path: Path) -> set[str]:
    """Returns every dotted name that a module imports: at its top, inside a function, or for types alone."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(name: str) -> Path | None:
    """Returns the module of the package that holds a dotted name; None for names from elsewhere."""
    parts = name.split(".")
    if parts[0] != "flowloom":
        return None
    for length in range(len(parts), 1, -1):
        place = Path(*parts[1:length])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if (ROOT / path).is_file():
                return path
    return None


@functools.cache
def edges() -> dict[str, dict[str, int]]:
    """Returns by folder which other folders its modules import from, and by how many imports."""
    found: dict[str, dict[str, int]] = {}
    for path in modules():
        counts = found.setdefault(path.parent.as_posix(), collections.Counter())
        for target in map(module_of, imported(path)):
            if target is not None and target.parent != path.parent:
                counts[target.parent.as_posix()] += 1
    return found


def layers(edges: dict[str, dict[str, int]]) -> list[list[str]]:
    """Returns the folders in layers: those of each import only from layers before it.

    Raises:
      ValueError: if some folders import each other in a circle.
    """
    left, done = dict(edges), []
    while left:
        layer = sorted(folder for folder, targets in left.items() if not set(targets) & set(left))
        if not layer:
            raise ValueError(f"folders import each other in a circle: {', '.join(sorted(left))}")
        done.append(layer)
        for folder in layer:
            del left[folder]
    return done


def main() -> None:
    """Prints the table of folders."""
    files: dict[str, list[Path]] = collections.defaultdict(list)
    for path in modules():
        if path.name != "__init__.py":
            files[path.parent.as_posix()].append(path)
    found = edges()
    print("| layer | folder | files | lines | imports from (number) |")
    print("|---|---|---|---|---|")
    for number, layer in enumerate(layers(found), 1):
        for folder in layer:
            lines = sum(len((ROOT / path).read_text().splitlines()) for path in files[folder])
            targets = ", ".join(f"{target} ({count})" for target, count in sorted(found[folder].items()))
            print(f"| {number} | {folder} | {len(files[folder])} | {lines:,} | {targets} |")


if __name__ == "__main__":
    main()
