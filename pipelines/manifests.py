"""Corpus manifests as files: YAML to a checked `CorpusManifest`."""

import os
from typing import Any

import yaml

from flowloom.schemas.corpus.manifest import CorpusManifest, parse_manifest
from flowloom.schemas.errors import FlowloomError


def read_manifest(path: str | os.PathLike[str]) -> CorpusManifest:
    """Reads and checks a corpus manifest.

    Raises:
      FlowloomError: if the file cannot be read, is no YAML, or is no valid manifest.
    """
    try:
        with open(path, encoding="utf-8") as file:
            document = yaml.load(file, _Loader)
    except OSError as error:
        raise FlowloomError(f"{path}: cannot read the corpus manifest: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise FlowloomError(f"{path}: expected a corpus manifest (YAML in UTF-8), got other bytes") from None
    except yaml.YAMLError as error:
        raise FlowloomError(f"{path}: expected a corpus manifest (YAML): {_place(error)}") from None
    return parse_manifest(document, os.fspath(path))


class _Loader(yaml.SafeLoader):
    """YAML loader that rejects duplicate keys, where the plain loader silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                problem = f"key {key!r} for the second time"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or error}{where}"
