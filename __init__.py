"""Flowloom: raw packet captures to multi-task datasets, and those to multi-task traffic models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    """Return a public name, imported when it is first asked for (PEP 562), so that `import flowloom` costs nothing."""
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("flowloom")
    raise AttributeError(f"module 'flowloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, the lazy ones included."""
    return sorted({*globals(), *__all__})
