"""Text of a drafted manifest: entries, label tables and tasks as YAML, with a comment beside every guess."""

import dataclasses
import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from flowloom.pipelines.draft.found_files import FoundFiles
from flowloom.pipelines.draft.guess_groups import counted_names, rotated_sets
from flowloom.pipelines.draft.guess_labels import PathGuess
from flowloom.pipelines.draft.guess_tables import PacketTableGuess, TableGuess, benign_first, guess_offset
from flowloom.schemas.corpus.manifest_schema import SCHEMA_LINE
from flowloom.transforms.captures.inventory import glob_names

_COMMENT_AT = 44
"""Column of the comments beside keys."""
_SHOWN = 5
"""Largest number of tables that are not used and listed."""
_ROTATED = "    group: rotated"
_TRUTH = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
"""Texts that YAML reads as other values."""


@dataclasses.dataclass
class DraftText:
    """Writer of a drafted manifest.

    Attributes:
      name: name of the corpus.
      found: the files of the folder.
      guess: labels that paths name; None if they name none.
      tasks: tasks that paths label with more than one class.
      tables: tables by path, or the reasons why they are not used.
      flows: flows of the sample, to compare the clocks of tables.
    """

    name: str
    found: FoundFiles
    guess: PathGuess | None
    tasks: Sequence[str]
    tables: Mapping[str, TableGuess | PacketTableGuess | str]
    flows: pa.Table

    def text(self) -> str:
        """Returns the manifest."""
        tasks = dict.fromkeys(self.tasks, "{kind: multiclass}")
        lines = [
            SCHEMA_LINE,
            "# A draft of `flowloom init`: check what is guessed. The first line is for editors; write its schema with",
            "#   flowloom schema manifest > manifest.schema.json",
            f"name: {quoted(self.name)}",
            "captures:",
            *self._captures(),
        ]
        for table in self.tables.values():
            if isinstance(table, TableGuess):
                lines += self._table(table, tasks)
            elif isinstance(table, PacketTableGuess):
                lines += self._packet_table(table, tasks)
        unused = [(path, table) for path, table in self.tables.items() if isinstance(table, str)]
        lines += [f"  # {path}: not used, because {_one_line(reason)}" for path, reason in unused[:_SHOWN]]
        if len(unused) > _SHOWN:
            lines.append(f"  # {len(unused) - _SHOWN:,} more tables: not used")
        lines += self._tasks(tasks)
        lines.append(_beside("splits: {by: auto}", "by capture if every class has 3 captures, else by flow"))
        return "\n".join(lines) + "\n"

    def _captures(self) -> Iterator[str]:
        """Yields the lines of the entry of all captures, and of entries for rotated ones."""
        paths = [capture.path for capture in self.found.captures]
        rotated = rotated_sets(paths)
        yield _beside(f"  - glob: {quoted(self._glob())}", f"captures: {len(paths):,}")
        yield from self._label_from()
        continued = "guessed: files whose names continue each other are one recording"
        if sum(rotated.values()) == len(paths):
            yield _beside(_ROTATED, continued)
            return
        if pair := counted_names(paths):
            one, other = (_one_line(os.path.basename(path)) for path in pair)
            yield f"    # are {one} and {other} parts of one recording? then write group: rotated"
        for pattern, files in rotated.items():
            yield _beside(f"  - glob: {quoted(pattern)}", f"{files:,} of these captures")
            yield from self._label_from()
            yield _beside(_ROTATED, continued)

    def _label_from(self) -> Iterator[str]:
        if self.guess is None:
            return
        rules = {key: value if key != "pattern" else quoted(value) for key, value in self.guess.label_from.items()}
        if len(rules) == 1:
            ((key, value),) = rules.items()
            yield _beside(f"    label_from: {{{key}: {value}}}", "guessed")
            return
        yield _beside("    label_from:", "guessed")
        yield from (f"      {key}: {value}" for key, value in rules.items())

    def _glob(self) -> str:
        """Returns the glob that matches all captures and as few other files as possible."""
        captures = {capture.path for capture in self.found.captures}
        folders = [path.split("/")[:-1] for path in captures]
        same = len({len(parts) for parts in folders}) == 1
        levels = zip(*folders, strict=True) if same else ()
        parts = [glob.escape(names[0]) if len(set(names)) == 1 else "*" for names in levels]
        prefix = "".join(f"{part}/" for part in parts) if same else "**/"
        matched = {
            prefix + name: {path for path in self.found.paths if glob_names(prefix + name, path)}
            for name in ("*.pcap", "*.pcapng", "*.cap", "*.pcap*", "*.*cap*", "*")
        }
        whole = {pattern: paths for pattern, paths in matched.items() if captures <= paths}
        return min(whole, key=lambda pattern: len(whole[pattern]))

    def _table(self, table: TableGuess, tasks: dict[str, str]) -> Iterator[str]:
        """Yields the lines of an entry with a label table, and adds its tasks to `tasks`."""
        folder = os.path.dirname(table.path)
        beside = [capture for capture in self.found.captures if os.path.dirname(capture.path) == folder]
        yield f"  - glob: {quoted(f'{folder}/*.*cap*' if folder and beside else self._glob())}"
        yield _beside("    label_tables:", "guessed: columns, format and clock of times, classes")
        columns = ", ".join(f"{key}: {_place(column)}" for key, column in table.columns.items())
        for column, values in table.tasks.items():
            task, words = _task_name(str(column), tasks), table.words.get(column) or benign_first(values)
            yield _beside(f"      - path: {quoted(table.path)}", f"{table.rows:,} rows")
            yield f"        task: {task}"
            yield f"        columns: {{{columns}, label: {_place(column)}}}"
            fits = f"{table.ambiguous} fits too" if table.ambiguous else ""
            if not table.header:
                yield _beside("        header: false", "guessed: the first line has an address or numbers")
            formats = ", ".join(map(quoted, table.time_formats))
            yield _beside(f"        time_format: {formats if len(table.time_formats) == 1 else f'[{formats}]'}", fits)
            if table.twelve_hour_from is not None:
                told = "guessed: hours go back from morning to afternoon, and none is above 12"
                yield _beside(f"        twelve_hour_from: {table.twelve_hour_from}", told)
            yield self._clock(table)
            yield f"        tolerance_s: {table.tolerance_s:g}"
            if table.separator != "," and not table.self_described:
                yield f"        separator: {json.dumps(table.separator)}"
            if words:
                yield f"        {_words(words)}"
            tasks[task] = _fields(values, words)

    def _packet_table(self, table: PacketTableGuess, tasks: dict[str, str]) -> Iterator[str]:
        """Yields the lines of an entry with a table of packets, and adds its task to `tasks`."""
        task, words = _task_name(table.column, tasks), benign_first(table.values)
        yield f"  - glob: {quoted(glob.escape(table.capture))}"
        yield _beside("    packet_table:", f"guessed: it has a row for each of the {table.rows:,} records")
        yield f"      path: {quoted(table.path)}"
        yield f"      task: {task}"
        yield _beside("      rule: any", "a flow has the commonest label of its packets other than the first one")
        yield f"      header: {json.dumps(table.header)}"
        if words:
            yield f"      {_words(words)}"
        tasks[task] = _fields(table.values, words)

    def _clock(self, table: TableGuess) -> str:
        """Returns the line of the difference between the clocks of a table and of the captures."""
        if (offset := guess_offset(table, self.flows)) is None:
            few = "not compared: too few rows of the table are in a sample of the captures"
            return _beside("        clock_offset_s: 0", few)
        seconds, matches = offset
        return _beside(f"        clock_offset_s: {seconds:g}", f"guessed from {matches:,} flows that are in both")

    def _tasks(self, tasks: Mapping[str, str]) -> Iterator[str]:
        yield _beside("tasks:", "guessed names: rename them here and above" if tasks else "")
        for task, fields in tasks.items():
            reason = self.guess.reasons.get(task, "") if self.guess else ""
            yield _beside(f"  {task}: {fields}", _one_line(reason))
        if not tasks:
            yield "  # folders, names and tables name no classes: give entries labels, such as labels: {label: a}"
            yield "  label: {kind: multiclass, vocabulary: [a, b]}"


def quoted(text: str) -> str:
    """Returns a text as YAML reads it back; backslashes stay as they are in single quotes."""
    if re.fullmatch(r"[A-Za-z][\w.-]*", text) and text.lower() not in _TRUTH:
        return text
    return f"'{text}'" if "'" not in text and text.isprintable() else json.dumps(text)


def _place(column: str | int) -> str:
    """Returns the name of a column, or its position, as YAML reads it back."""
    return str(column) if isinstance(column, int) else quoted(column)


def _words(words: Mapping[str, str]) -> str:
    return f"words: {{{', '.join(f'{_key(old)}: {new}' for old, new in words.items())}}}"


def _fields(values: Sequence[str], words: Mapping[str, str] | None) -> str:
    """Returns the fields of a task with the label values of a table."""
    return "{kind: binary}" if words else f"{{kind: multiclass, vocabulary: [{', '.join(map(_key, values))}]}}"


def _key(text: str) -> str:
    return json.dumps(text) if text[:1].isdigit() else quoted(text)


def _beside(line: str, comment: str) -> str:
    """Returns a line with a comment in the column of all comments, or behind a longer line."""
    return f"{line:<{_COMMENT_AT}}  # {comment}" if comment else line


def _task_name(column: str, taken: Mapping[str, str]) -> str:
    """Returns a name for the task of a column that no other task has."""
    name = re.sub(r"[^a-z0-9]+", "_", column.strip().lower()).strip("_")
    name = name if name[:1].isalpha() and name.isascii() else "label"
    return next(each for each in (name, *(f"{name}{at}" for at in range(2, len(taken) + 3))) if each not in taken)


def _one_line(text: str) -> str:
    return " ".join(text.split())
