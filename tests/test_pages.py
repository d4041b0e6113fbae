"""Pages of the repository: links lead somewhere, notebooks are stored without output, the site needs no other host."""

import json
import re
import tomllib

import pytest
import yaml
from page_blocks import ROOT, pages

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
LINKED = [*pages(), ROOT / "CHANGELOG.md", ROOT / "tests/corpus/README.md"]


def anchors(text: str) -> set[str]:
    """Returns the anchors of a page's headings, as repositories make them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    text = page.read_text(encoding="utf-8")
    for place, anchor in re.findall(r"\]\(((?!https?:)[^)#\s]*)#?([^)\s]*)\)", re.sub(r"`[^`]*`", "", text)):
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), place
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{place}#{anchor}"


def test_three_notebooks_are_stored_without_output():
    assert len(NOTEBOOKS) == 3
    for notebook in NOTEBOOKS:
        cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
        assert cells
        assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), notebook.name


def test_locks_name_no_package_index():
    for lock in ROOT.glob("requirements*.lock"):
        assert not re.search(r"://|--(?:extra-)?index", lock.read_text()), lock.name


def test_the_locks_agree_on_versions():
    def versions(name: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for package, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE):
            found.setdefault(package, set()).add(version)
        return found

    whole, docs = versions("requirements.lock"), versions("requirements-docs.lock")
    assert len(whole.keys() & docs.keys()) > 10
    assert {name: docs[name] for name in whole.keys() & docs.keys() if not docs[name] <= whole[name]} == {}


def test_release_files_name_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    released = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == version
