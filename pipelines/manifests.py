"""Corpus manifests as files: YAML to a checked `CorpusManifest`, with bounds for files that are no manifests."""

import os
import re
import stat
from collections.abc import Hashable, Iterable
from typing import IO, Any, NamedTuple

import yaml

from flowloom.schemas.corpus.manifest import CaptureSource, CorpusManifest, parse_manifest
from flowloom.schemas.corpus.resolve_labels import with_found_labels
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.transforms.captures.groups import MatchedFiles, match_sources
from flowloom.transforms.captures.inventory import glob_names
from flowloom.transforms.labels.find_labels import LabelledFiles, find_labels

LARGEST_BYTES = 64 << 20
"""Largest size of a manifest."""
DEEPEST = 32
"""Largest number of lists and mappings inside each other."""
MOST_VALUES = 2_000_000
"""Largest number of values after all aliases are replaced by what they name."""


class FoundCorpus(NamedTuple):
    """Corpus manifest with the labels of paths, the folder of its relative paths, and the files that it matches."""

    manifest: CorpusManifest
    folder: str
    files: MatchedFiles


def read_manifest(path: str | os.PathLike[str]) -> CorpusManifest:
    """Reads and checks a corpus manifest.

    Raises:
      FlowloomError: if the file cannot be read, is no regular file, is no YAML, or is no valid manifest.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:
            document = yaml.load(_checked(file, path), _Loader)
    except OSError as error:
        raise FlowloomError(f"{path}: cannot read the corpus manifest: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise FlowloomError(f"{path}: expected a corpus manifest (YAML in UTF-8), got other bytes") from None
    except yaml.YAMLError as error:
        raise FlowloomError(f"{path}: expected a corpus manifest (YAML): {_place(error)}") from None
    return parse_manifest(document, os.fspath(path))


def read_corpus(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    known: Iterable[str] = (),
    *,
    allow_empty: bool = False,
) -> FoundCorpus:
    """Reads a corpus manifest with the labels that the paths of its captures name, and lists its files.

    Args:
      data: the folder of relative paths; None for the folder of the manifest.
      known: captures that entries also name although their files are gone.
      allow_empty: whether entries may match no file.

    Raises:
      FlowloomError: as `read_manifest`; if `data` is no folder, an entry matches no file without `allow_empty`, or the
        labels that were found do not fit the tasks.
    """
    manifest = read_manifest(path)
    folder = corpus_folder(path, data)
    if not os.path.isdir(folder):
        raise FlowloomError(f"the folder of the data must exist, got {os.fspath(data or folder)}; correct --data")
    files = match_sources(manifest.captures, folder)
    found: dict[int, list[LabelledFiles]] = {}
    missing: dict[int, str] = {}
    for at, entry in enumerate(manifest.captures):
        if not isinstance(entry, CaptureSource):
            absent = [name for name in entry.files if not os.path.exists(os.path.join(folder, name))]
            if absent:
                missing[at] = absent[0]
            continue
        pattern = os.path.join(folder, entry.glob)
        uris = sorted({*files.uris[at], *(uri for uri in known if glob_names(pattern, uri))})
        if not uris:
            missing[at] = entry.glob
        if entry.label_from is not None:
            try:
                found[at] = find_labels(entry, uris, folder)
            except ValueError as error:
                raise FlowloomError(f"{path}: captures.{at}: {error}") from None
    if missing and not allow_empty:
        places = ", ".join(f"captures.{at} {name!r}{_nearest(name, folder)}" for at, name in missing.items())
        raise FlowloomError(
            f"{path}: every entry of captures must match a file in {folder}, got none for {places}; correct the entry, "
            "name the folder of the data with --data, or add --allow-empty to build without it"
        )
    try:
        labelled = with_found_labels(manifest, {at: [each.source for each in parts] for at, parts in found.items()})
    except ValueError as error:
        raise FlowloomError(f"{path}: {error}") from None
    there = {uri for listed in files.uris for uri in listed}  # without known ones that are gone
    uris_of_entries = [
        tuple(uri for uri in part if uri in there)
        for at, listed in enumerate(files.uris)
        for part in ([each.uris for each in found[at]] if at in found else [listed])
    ]
    return FoundCorpus(labelled, folder, MatchedFiles(tuple(uris_of_entries), files.rejects))


def corpus_folder(path: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> str:
    """Returns the folder of the relative paths of a manifest: `data`, or the folder of the manifest."""
    return os.path.abspath(data) if data is not None else os.path.dirname(os.path.abspath(path))


def _nearest(pattern: str, folder: str) -> str:
    """Returns the nearest name to the first part of a path or glob that does not exist, as a question."""
    place = folder
    for part in () if "://" in pattern else pattern.split("/"):
        if re.search(r"[*?\[]", part) or not os.path.isdir(place):
            break
        if not os.path.exists(os.path.join(place, part)):
            return did_you_mean(part, os.listdir(place)).replace("; did", " (did").replace("?", "?)")
        place = os.path.join(place, part)
    return ""


def _checked(file: IO[str], path: str | os.PathLike[str]) -> str:
    """Returns the text of a regular file of a reasonable size; pipes and devices may have no end."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise FlowloomError(f"{path}: the corpus manifest must be a regular file, got {kind}; write it into a file")
    if status.st_size > LARGEST_BYTES:
        raise FlowloomError(
            f"{path}: the corpus manifest must have at most {LARGEST_BYTES >> 20} MB, got {status.st_size / 1e6:,.0f} "
            "MB; name captures by globs"
        )
    return file.read()


class _Loader(yaml.SafeLoader):
    """YAML loader that rejects duplicate keys, deep nesting, and aliases that stand for very many values."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"more than {DEEPEST} lists inside each other", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if parent is None and node is not None:
            _count_values(node, {})
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, OverflowError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            problem = f"expected a value of type {kind}"
            if isinstance(node, yaml.ScalarNode):
                problem += f", got {_shortened(node.value)!r}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                problem = "a key must be a single value, got a list or a mapping"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key in seen:
                problem = f"key {key!r} for the second time"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Returns the number of values below a node with all aliases replaced.

    Args:
      known: numbers of the nodes counted so far by id; 0 for nodes that contain the present one.
    """
    if (found := known.get(id(node))) == 0:
        raise yaml.constructor.ConstructorError(None, None, "an alias stands for a list that has it", node.start_mark)
    if found is None:
        known[id(node)] = 0
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for pair in inner for part in (pair if isinstance(pair, tuple) else (pair,))]
        found = known[id(node)] = 1 + sum(_count_values(part, known) for part in parts)
        if found > MOST_VALUES:
            problem = f"more than {MOST_VALUES:,} values, as its aliases stand for others"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return found


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or error}{where}"
