"""Inventory: globs match paths without a filesystem as `glob` does with one."""

import glob
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.transforms.captures.inventory import glob_names

PATHS = ("a.pcap", "b.pcap", "ab.pcap", "x/a.pcap", "x/y/a.pcap", "x/y/[1].pcap", "x/a-1.pcap", "y/b2.pcap")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("paths")
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    return root


WORDS = ("*", "?", "**", "a", "b", "x", "/", ".pcap", "[ab]", "[!a]", "[0-9]", "-", "y")


@given(parts=st.lists(st.sampled_from(WORDS), max_size=6))
def test_patterns_match_what_globs_find(folder, parts):
    pattern = "".join(parts)
    if pattern.startswith("/") or "//" in pattern or pattern.endswith("/") or "***" in pattern or not pattern:
        return
    found = {path for path in glob.glob(pattern, root_dir=folder, recursive=True) if os.path.isfile(folder / path)}
    assert {path for path in PATHS if glob_names(pattern, path)} == found


@pytest.mark.parametrize(
    "pattern", ["**/*.pcap", "**/y/*", "x/**/a.pcap", "**", "x/**", "*/[[]1].pcap", "x/*/[[]1].pcap"]
)
def test_folders_are_crossed_where_globs_cross_them(folder, pattern):
    found = {path for path in glob.glob(pattern, root_dir=folder, recursive=True) if os.path.isfile(folder / path)}
    assert {path for path in PATHS if glob_names(pattern, path)} == found
