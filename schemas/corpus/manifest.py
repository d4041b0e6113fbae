"""Corpus manifest: captures, labels, tasks, splits and layout of a dataset, validated as a whole."""

from typing import Annotated, Any, Literal, Self

import pydantic

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.capture_limits import NO_LIMITS, CaptureLimits
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.label_sources import Dpi, PacketTable, WindowSpec, check_labels
from flowloom.schemas.corpus.label_table import LabelTable
from flowloom.schemas.corpus.label_words import LabelMapping
from flowloom.schemas.corpus.manifest_errors import CAPTURED, explain
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.schemas.corpus.path_labels import DerivedLabels, LabelFrom, check_label_map, check_path_labels
from flowloom.schemas.corpus.published_sources import (
    CerttaFlows,
    CicidsTables,
    IscxImages,
    KitsuneFlows,
    PublishedSource,
    QuicArrays,
    QuicTexts,
    published_format,
)
from flowloom.schemas.corpus.split_options import Splits
from flowloom.schemas.corpus.tasks import LabelValue, Task
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.secrets import url_fault

Identity = Literal["keep", "pseudonym", "drop"]
"""Treatment of addresses: kept, replaced by prefix-preserving pseudonyms of a key, or dropped."""

Deduplicate = Literal["none", "split", "all"]
"""Rows kept among those with equal sizes and directions: all, the first of each split, or the first of all."""

FILE_GROUP = "file"
ROTATED_GROUP = "rotated"

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")


class CaptureSource(pydantic.BaseModel):
    """Captures by glob, relative to the manifest or by URL, with the sources of their labels.

    `labels` and `label_from` apply to all flows of a capture and take precedence over the other sources, which label
    single flows.
    """

    model_config = _STRICT

    glob: str
    """Path with wildcards, relative to the manifest or to `--data`, or a URL."""
    labels: dict[str, LabelValue] = {}
    """Label values by task, of all flows of these captures."""
    label_from: LabelFrom | None = None
    """Labels in the path of each capture: the name of a folder, or the groups of a pattern."""
    words: dict[str, LabelMapping] = {}
    """By task, label values by the labels that `label_from` finds; others keep their meaning, null means unknown."""
    label_table: LabelTable | None = None
    """Table with labels of single flows."""
    label_tables: tuple[LabelTable, ...] = ()
    """Several such tables; the first that has a label counts."""
    packet_table: PacketTable | None = None
    """Table with a label of each packet of one capture."""
    dpi: Dpi | None = None
    """Labels by deep packet inspection (nDPI)."""
    group: str = pydantic.Field(FILE_GROUP, min_length=1)
    """Captures that form one timeline. `file`: each capture alone; `rotated`: captures whose names differ only by a
    counter or a time; any other name: all captures with that group."""

    @property
    def name(self) -> str:
        """Name of the source in messages and in the card."""
        return self.glob

    @property
    def window_specs(self) -> tuple[WindowSpec, ...]:
        """The sources that label single flows, in order of precedence; `labels` precedes them."""
        tables = () if self.label_table is None else (self.label_table,)
        rest = (spec for spec in (self.packet_table, self.dpi) if spec is not None)
        return (*tables, *self.label_tables, *rest)


Entry = Annotated[
    Annotated[CaptureSource, pydantic.Tag(CAPTURED)]
    | Annotated[QuicTexts, pydantic.Tag("quic-ucdavis")]
    | Annotated[QuicArrays, pydantic.Tag("quic-ucdavis-arrays")]
    | Annotated[CerttaFlows, pydantic.Tag("certta")]
    | Annotated[KitsuneFlows, pydantic.Tag("kitsune")]
    | Annotated[IscxImages, pydantic.Tag("iscx-wang2017")]
    | Annotated[CicidsTables, pydantic.Tag("cicids2017")],
    pydantic.Discriminator(lambda entry: published_format(entry, CAPTURED)),
]
"""Entry of `captures`: captures, or published files of the format that the key `published` names."""


class Output(pydantic.BaseModel):
    """Sizes of the dataset's files."""

    model_config = _STRICT

    shards: int = pydantic.Field(8, ge=1, le=99_999, description="shards per stripe and split")
    split_bytes: pydantic.ByteSize = pydantic.Field(
        pydantic.ByteSize(256 << 20), ge=1024, description="larger captures are read in ranges of this size"
    )
    row_group_rows: int = pydantic.Field(16_384, ge=1)
    """Largest number of rows of a row group."""


def _task_named(tasks: object) -> object:
    if isinstance(tasks, dict):
        return [{"name": name, **task} if isinstance(task, dict) else task for name, task in tasks.items()]
    return tasks


class CorpusManifest(pydantic.BaseModel):
    """Description of a corpus and of the dataset to build from it; users write it in YAML.

    Example:

    >>> import pathlib, yaml
    >>> import flowloom as fl
    >>> manifest = fl.CorpusManifest.model_validate(yaml.safe_load(pathlib.Path("corpus.yaml").read_text()))
    >>> [task.name for task in manifest.tasks]
    ['app', 'tunnel']
    """

    model_config = _STRICT

    name: str = pydantic.Field(min_length=1)
    """Name of the dataset, in its card and on its pages."""
    captures: tuple[Entry, ...] = pydantic.Field(min_length=1)
    """Captures and published files, each with the sources of its labels."""
    definition: FlowDefinition = FlowDefinition()
    """Rules that turn packets into flows: a preset, and options that differ from it."""
    views: tuple[View, ...] = pydantic.Field(("flows",), min_length=1)
    """Kinds of rows: flows, packets of captures, tables of published files."""
    packets: PacketView = PacketView()
    """Options of the packets view of captures."""
    tasks: Annotated[tuple[Task, ...], pydantic.BeforeValidator(_task_named)] = pydantic.Field(min_length=1)
    """Labels that a model is to predict, by name in YAML."""
    label_map: dict[str, DerivedLabels] = {}
    """By task and label value, labels of other tasks that follow from it; an entry's own labels take precedence."""
    layout: Literal["aurora", "rainbow"] = "aurora"
    """Aurora ("fused"): all labels in each row. Rainbow ("striped"): shards of its own for each task."""
    missing: Literal["unknown", "negative"] = "unknown"
    """Meaning of an absent label in the Aurora ("fused") layout: unknown (masked), or the vocabulary's first value.
    Rainbow ("striped") has no absent labels."""
    on_conflict: dict[str, Literal["first", "error", "unknown"]] = {}
    """By task, treatment of flows for which two sources, or two windows of one source, give different labels: take the
    first source's label (default), stop the build, or leave the label unknown."""
    splits: Splits = Splits()
    """Rule that assigns rows to train, validation and test."""
    deduplicate: Deduplicate = "none"
    """Rows kept among those with equal sizes and directions: all, the first of each split, or the first of all."""
    leakage: Literal["measure", "skip"] = "measure"
    """Whether the card counts flows, hosts and sequences that occur in more than one split."""
    identity: Identity = "keep"
    """Addresses are kept, replaced by prefix-preserving pseudonyms of a key, or dropped."""
    key_file: str | None = None
    """Path of the file with the 32 key bytes for `identity: pseudonym`, relative to the manifest."""
    output: Output = Output()
    """Sizes of the files of the dataset."""
    limits: CaptureLimits = NO_LIMITS
    """Limits of the bytes that a compressed capture may become; none by default."""

    @property
    def published(self) -> tuple[PublishedSource, ...]:
        """The entries of published files."""
        return tuple(entry for entry in self.captures if isinstance(entry, PublishedSource))

    @property
    def published_only(self) -> bool:
        """True if all entries are published files."""
        return len(self.published) == len(self.captures)

    @property
    def has_captured_packets(self) -> bool:
        """True if packets of captures become rows."""
        return "packets" in self.views and not self.published_only

    @property
    def claimed_tasks(self) -> tuple[Task, ...]:
        """The tasks with label sources, without measured (`auto`) tasks."""
        return tuple(task for task in self.tasks if task.kind != "auto")

    @property
    def needs_all_flows(self) -> bool:
        """True if the build must read all flows before it can write the first one."""
        found = any(task.dividers is not None and task.dividers.method != "given" for task in self.tasks)
        return found or self.splits.by in ("time", "host_pair") or self.deduplicate != "none"

    @property
    def absent_code(self) -> int | None:
        """Label number of flows without a label source; None for unknown."""
        return 0 if self.missing == "negative" and self.layout == "aurora" else None

    @pydantic.field_validator("definition", mode="before")
    @classmethod
    def _from_preset(cls, definition: object) -> object:
        return FlowDefinition.of(**definition) if isinstance(definition, dict) else definition

    @pydantic.model_validator(mode="after")
    def _labels_are_known(self) -> Self:
        tasks = {task.name: task for task in self.tasks}
        for source in self.captures:
            for name, value in source.labels.items():
                if name not in tasks:
                    raise ValueError(
                        f"labels of {source.name!r}: task must be one of {', '.join(tasks)}, got {name!r}"
                        f"{did_you_mean(name, tasks)}"
                    )
                try:
                    tasks[name].check(value)
                except ValueError as error:
                    raise ValueError(f"labels of {source.name!r}: {error}") from None
            if isinstance(source, CaptureSource) and source.label_from:
                check_path_labels(source.label_from, source.words, source.labels, tasks, source.name)
            elif isinstance(source, CaptureSource) and source.words:
                raise ValueError(
                    f"words of {source.name!r} need label_from, whose labels they map; add it, or remove words"
                )
        check_label_map(self.label_map, tasks)
        return self

    @pydantic.model_validator(mode="after")
    def _references_are_tasks(self) -> Self:
        claimed = [task.name for task in self.tasks if task.kind != "auto"]
        for task in self.tasks:
            if task.dividers is None:
                continue
            reference = task.dividers.reference
            if reference is not None and reference not in claimed:
                raise ValueError(
                    f"dividers of task {task.name!r}: reference must be a task that is not of kind auto "
                    f"({', '.join(claimed) or 'this manifest has none'}), got {reference!r}"
                    f"{did_you_mean(reference, claimed)}"
                )
            if task.dividers.method != "given" and task.dividers.at:
                raise ValueError(
                    f"dividers of task {task.name!r}: method: {task.dividers.method} finds its dividers, got at: "
                    f"{list(task.dividers.at)}; remove at, or write method: given"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _packets_of_a_flow_stay_together(self) -> Self:
        found = [task.name for task in self.tasks if task.dividers is not None and task.dividers.method != "given"]
        if self.splits.by == "packet" and found:
            raise ValueError(
                f"dividers of task {found[0]!r} need flows in the train split, and splits by packet assign packets "
                "alone; write method: given, or by: flow"
            )
        if self.splits.by == "packet" and self.views != ("packets",):
            raise ValueError(
                "splits by packet leak, because train and test share flows; they must have views: [packets], to repeat "
                f"papers, got views {list(self.views)}; write by: flow"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _windows_name_their_split(self) -> Self:
        if self.definition.decision == "packet" and self.splits.by == "auto":
            raise ValueError(
                "splits.by must not be auto with decision: packet, because windows of neighbouring packets overlap and "
                "splits by flow leak; write by: time, host_pair or capture (or by: flow, to repeat papers)"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _pseudonyms_have_a_key(self) -> Self:
        if self.identity == "pseudonym" and not self.key_file:
            raise ValueError(
                "identity: pseudonym needs key_file, a file of 32 secret bytes; make one with: "
                "head -c 32 /dev/urandom > key"
            )
        if self.identity != "pseudonym" and self.key_file:
            raise ValueError(
                f"key_file needs identity: pseudonym, got identity: {self.identity}; remove key_file, or write "
                "identity: pseudonym"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _sources_know_their_tasks(self) -> Self:
        tasks = {task.name: task for task in self.tasks}
        for name in self.on_conflict:
            if name not in tasks:
                raise ValueError(
                    f"on_conflict: task must be one of {', '.join(tasks)}, got {name!r}{did_you_mean(name, tasks)}"
                )
        for source in self.captures:
            for spec in source.window_specs:
                check_labels(spec, tasks)
            if isinstance(source, PublishedSource):
                source.check_labels(tasks)
        return self

    @pydantic.model_validator(mode="after")
    def _views_have_entries(self) -> Self:
        if len(set(self.views)) < len(self.views):
            raise ValueError(f"views must not repeat, got {list(self.views)}; remove the repeated one")
        given: set[str] = {entry.view for entry in self.published}
        for entry in self.published:
            if entry.view not in self.views:
                raise ValueError(
                    f"{entry.path!r} has rows of the view {entry.view}, views are {', '.join(self.views)}; write "
                    f"views: [{', '.join([*self.views, entry.view])}], or remove the entry"
                )
        captured = [entry for entry in self.captures if isinstance(entry, CaptureSource)]
        if captured:
            given |= {"flows", "packets"}
            if "flows" not in self.views and "packets" not in self.views:
                raise ValueError(
                    f"views must include flows or packets for captures such as {captured[0].glob!r}, got "
                    f"{', '.join(self.views)}; add a view, or remove the captures"
                )
        for view in self.views:
            if view not in given:
                raise ValueError(f"views: no entry of captures has rows of the view {view}; remove it from views")
        return self

    @pydantic.model_validator(mode="after")
    def _published_files_suffice(self) -> Self:
        for entry in self.published:
            lacking = {"time": not entry.has_start, "host_pair": not entry.has_hosts}.get(self.splits.by, False)
            if lacking:
                needed = "start times" if self.splits.by == "time" else "addresses"
                raise ValueError(
                    f"splits by {self.splits.by} need {needed}, which {entry.path!r} ({entry.published}) lacks; write "
                    "by: flow, or by: capture"
                )
            measured = [task.name for task in self.tasks if task.kind == "auto"]
            if measured and entry.view != "flows":
                raise ValueError(
                    f"task {measured[0]!r} is measured from flows, but {entry.path!r} ({entry.published}) has rows of "
                    f"the view {entry.view}; remove the task or the entry"
                )
        features = {entry.features: entry.path for entry in self.published if isinstance(entry, CicidsTables)}
        if len(features) > 1:
            raise ValueError(
                f"features must be the same for all tables, got different ones for {' and '.join(features.values())}"
            )
        if self.deduplicate != "none" and self.views != ("flows",):
            raise ValueError(
                f"deduplicate compares the sizes and directions of flows, got views {list(self.views)}; write "
                "views: [flows], or deduplicate: none"
            )
        if self.definition.reorder_s is not None and "packets" in self.views:
            raise ValueError(
                "reorder_s must be null with the view packets, whose rows are in captured order, got "
                f"{self.definition.reorder_s:g}; remove reorder_s from the definition, or packets from views"
            )
        if self.definition.duplicates == "drop" and "packets" in self.views:
            raise ValueError(
                "duplicates must be count with the view packets, whose rows are all packets of a flow, got drop; "
                "remove duplicates from the definition, or packets from views"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _one_timeline_has_one_label(self) -> Self:
        first: dict[tuple[str, str], tuple[str, LabelValue]] = {}
        for source in self.captures:
            if isinstance(source, PublishedSource) or source.group in (FILE_GROUP, ROTATED_GROUP):
                continue
            for task, value in source.labels.items():
                glob, known = first.setdefault((source.group, task), (source.glob, value))
                if known != value:
                    raise ValueError(
                        f"captures of group {source.group!r} are one timeline, so their labels must agree; got {task}: "
                        f"{known!r} for {glob!r} and {value!r} for {source.glob!r}; give them different groups"
                    )
        return self


def parse_manifest(document: Any, where: str) -> CorpusManifest:
    """Returns the manifest of a YAML document.

    Args:
      document: the parsed YAML.
      where: the manifest's path, for messages.

    Raises:
      FlowloomError: if the document is invalid; the message names every invalid key, the expected ones and the nearest.
    """
    if not isinstance(document, dict):
        raise FlowloomError(f"{where}: expected a corpus manifest (a YAML mapping), got {type(document).__name__}")
    for key, entry in document.items():
        if fault := _secret_in(entry):
            raise FlowloomError(f"{where}: {key}: {fault}")
    try:
        return CorpusManifest.model_validate(document)
    except pydantic.ValidationError as error:
        raise FlowloomError(f"{where}: {explain(error, CorpusManifest)}") from None


def _secret_in(value: Any) -> str | None:
    """Returns a sentence about the first URL in a value of a manifest that may have a secret."""
    if isinstance(value, str):
        return url_fault(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next(filter(None, map(_secret_in, inner)), None)
