"""Flowloom builds multi-task datasets from packet captures, and trains multi-task traffic models on them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    """Returns a public name, imported at its first use (PEP 562), so that `import flowloom` loads nothing else."""
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("flowloom")
    raise AttributeError(f"module 'flowloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns the public names, including lazy ones."""
    return sorted({*globals(), *__all__})
