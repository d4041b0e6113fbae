"""Fixtures for all tests: the real captures beside the repository, outside tools, and synthetic datasets."""

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import find_browser
from synthetic_datasets import Synthetic

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real captures beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real captures in {folder.name}/ beside the repository")
    return folder


@pytest.fixture(scope="session")
def tshark() -> str:
    """The path of tshark, the decoder to agree with."""
    return _tool(shutil.which("tshark"), "tshark", "tshark")


@pytest.fixture(scope="session")
def browser() -> str:
    """The path of a headless browser, which lays out pages."""
    return _tool(find_browser(), "a headless browser", "chromium-headless-shell")


def _tool(path: str | None, what: str, package: str) -> str:
    """Returns the path of an outside tool; without it the test is skipped, and fails in CI."""
    if path is None:
        reason = f"needs {what} (Debian package {package})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A writer of synthetic datasets: `synthetic(layout="rainbow", rows=(60, 20, 20))` returns the directory."""
    written: dict[Synthetic, Path] = {}

    def write(**fields: object) -> Path:
        wanted = Synthetic(**fields)  # type: ignore[arg-type]
        if wanted not in written:
            written[wanted] = wanted.write(tmp_path_factory.mktemp("dataset"))
        return written[wanted]

    return write


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that have slow tests, so that no process is left alone with one in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def extra_library() -> Callable[[str], object]:
    """A function that imports a library of an optional extra, whose absence skips the test, and fails it in CI."""

    def imported(name: str) -> object:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            reason = f"needs the library {name} of requirements-extras.lock"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)

    return imported
