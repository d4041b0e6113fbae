"""The corpus manifest: which captures, which labels, which tasks, which layout; checked as a whole when it is made."""

from typing import Annotated, Any, Literal, Self

import pydantic

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.label_sources import Dpi, LabelTable, PacketTable, WindowSpec, check_words
from flowloom.schemas.corpus.manifest_errors import CAPTURED, explain
from flowloom.schemas.corpus.packet_view import PacketView
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

Identity = Literal["keep", "pseudonym", "drop"]
"""What becomes of addresses: kept, replaced by pseudonyms of a key that keep common prefixes, or left out."""

Deduplicate = Literal["none", "split", "all"]
"""Which of the rows of equal sizes and directions stay: all of them, the first of each split, or the first of all."""

FILE_GROUP = "file"
ROTATED_GROUP = "rotated"

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")


class CaptureSource(pydantic.BaseModel):
    """Captures by glob, relative to the manifest or by URL, and what is known of their flows.

    `labels` are those of all flows; the other sources label flow by flow, and come after it.
    """

    model_config = _STRICT

    glob: str
    labels: dict[str, LabelValue] = {}
    label_table: LabelTable | None = None
    label_tables: tuple[LabelTable, ...] = ()
    packet_table: PacketTable | None = None
    dpi: Dpi | None = None
    group: str = pydantic.Field(FILE_GROUP, min_length=1)
    """`file`: each capture is its own vantage point; `rotated`: captures whose names differ by a counter or a time only
    are one timeline; any other name: one timeline over all captures of that name."""

    @property
    def name(self) -> str:
        """What the source is called in messages and in the card."""
        return self.glob

    @property
    def window_specs(self) -> tuple[WindowSpec, ...]:
        """The sources that label single flows, in order of precedence; `labels` comes before them."""
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
"""Captures, or published files: an entry with `published` is of the format that this names."""


class Output(pydantic.BaseModel):
    """How the dataset lies on disk."""

    model_config = _STRICT

    shards: int = pydantic.Field(8, ge=1, le=99_999, description="shards per stripe and split")
    split_bytes: pydantic.ByteSize = pydantic.Field(
        pydantic.ByteSize(256 << 20), ge=1024, description="larger captures are read in stretches of this size"
    )
    row_group_rows: int = pydantic.Field(16_384, ge=1)


def _task_named(tasks: object) -> object:
    if isinstance(tasks, dict):
        return [{"name": name, **task} if isinstance(task, dict) else task for name, task in tasks.items()]
    return tasks


class CorpusManifest(pydantic.BaseModel):
    """A corpus as its user describes it in YAML."""

    model_config = _STRICT

    name: str = pydantic.Field(min_length=1)
    captures: tuple[Entry, ...] = pydantic.Field(min_length=1)
    definition: FlowDefinition = FlowDefinition()
    views: tuple[View, ...] = pydantic.Field(("flows",), min_length=1)
    packets: PacketView = PacketView()
    """What a row of the packets view out of captures is."""
    tasks: Annotated[tuple[Task, ...], pydantic.BeforeValidator(_task_named)] = pydantic.Field(min_length=1)
    layout: Literal["aurora", "rainbow"] = "aurora"
    missing: Literal["unknown", "negative"] = "unknown"
    """What an absent label means in the Aurora layout: unknown (masked), or the first word of the vocabulary. Rainbow
    has no absent labels."""
    on_conflict: dict[str, Literal["first", "error", "unknown"]] = {}
    """By task, what becomes of a flow of which two sources, or two windows of one source, say different words: it has
    the first source's word (so unless said otherwise), there is no dataset, or it has no label."""
    splits: Splits = Splits()
    deduplicate: Deduplicate = "none"
    leakage: Literal["measure", "skip"] = "measure"
    """Whether the card tells what comes again across splits."""
    identity: Identity = "keep"
    key_file: str | None = None
    """Where the 32 bytes of the key for `identity: pseudonym` are, relative to the manifest."""
    output: Output = Output()

    @property
    def published(self) -> tuple[PublishedSource, ...]:
        """The entries that are published files."""
        return tuple(entry for entry in self.captures if isinstance(entry, PublishedSource))

    @property
    def published_only(self) -> bool:
        """Whether no entry is one of captures."""
        return len(self.published) == len(self.captures)

    @property
    def has_captured_packets(self) -> bool:
        """Whether packets of captures become rows."""
        return "packets" in self.views and not self.published_only

    @property
    def claimed_tasks(self) -> tuple[Task, ...]:
        """The tasks whose labels come from sources; those of the others are measured."""
        return tuple(task for task in self.tasks if task.kind != "auto")

    @property
    def looks_twice(self) -> bool:
        """Whether all flows have to be seen before the first of them can be written."""
        found = any(task.dividers is not None and task.dividers.method != "given" for task in self.tasks)
        return found or self.splits.by in ("time", "host_pair") or self.deduplicate != "none"

    @property
    def absent_code(self) -> int | None:
        """The label number of flows of which no source says anything; None for unknown."""
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
                        f"labels of {source.name!r} name the task {name!r}; tasks are {', '.join(tasks)}"
                        f"{did_you_mean(name, tasks)}"
                    )
                try:
                    tasks[name].index(value)
                except ValueError as error:
                    raise ValueError(f"labels of {source.name!r}: {error}") from None
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
                    f"dividers of task {task.name!r} need a reference among the tasks that are not automatic, "
                    f"{', '.join(claimed) or 'of which there are none'}; got {reference!r}"
                    f"{did_you_mean(reference, claimed)}"
                )
            if task.dividers.method != "given" and task.dividers.at:
                raise ValueError(
                    f"dividers of task {task.name!r} by {task.dividers.method} are found, got at: "
                    f"{list(task.dividers.at)}; remove at, or write method: given"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _packets_of_a_flow_stay_together(self) -> Self:
        found = [task.name for task in self.tasks if task.dividers is not None and task.dividers.method != "given"]
        if self.splits.by == "packet" and found:
            raise ValueError(
                f"dividers of task {found[0]!r} are found on the flows of the train split, and splits by packet give "
                "flows to none; write method: given, or by: flow"
            )
        if self.splits.by == "packet" and self.views != ("packets",):
            raise ValueError(
                "splits by packet leak: packets of one flow lie in train and test, and a model knows them again; they "
                f"are for repeating papers with views: [packets], got views {list(self.views)}; write by: flow"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _windows_are_not_divided_unasked(self) -> Self:
        if self.definition.decision == "packet" and self.splits.by == "auto":
            raise ValueError(
                "windows of neighbouring packets overlap, so that dividing rows by flow leaks; with decision: packet "
                "say how to divide: write by: time, host_pair or capture (or by: flow, to repeat papers)"
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
                f"key_file is used with identity: pseudonym only, got identity: {self.identity}; remove key_file, or "
                "write identity: pseudonym"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _sources_know_their_tasks(self) -> Self:
        tasks = {task.name: task for task in self.tasks}
        for name in self.on_conflict:
            if name not in tasks:
                raise ValueError(
                    f"on_conflict names the task {name!r}; tasks are {', '.join(tasks)}{did_you_mean(name, tasks)}"
                )
        for source in self.captures:
            for spec in source.window_specs:
                check_words(spec, tasks)
            if isinstance(source, PublishedSource):
                source.check_words(tasks)
        return self

    @pydantic.model_validator(mode="after")
    def _views_have_entries(self) -> Self:
        if len(set(self.views)) < len(self.views):
            raise ValueError(f"views must differ, got {list(self.views)}")
        given: set[str] = {entry.view for entry in self.published}
        for entry in self.published:
            if entry.view not in self.views:
                raise ValueError(
                    f"{entry.path!r} has rows of the view {entry.view}, views are {', '.join(self.views)}; write "
                    f"views: [{', '.join([*self.views, entry.view])}], or take the entry out"
                )
        captured = [entry for entry in self.captures if isinstance(entry, CaptureSource)]
        if captured:
            given |= {"flows", "packets"}
            if "flows" not in self.views and "packets" not in self.views:
                raise ValueError(
                    f"captures such as {captured[0].glob!r} have flows and packets, views are {', '.join(self.views)}"
                )
        for view in self.views:
            if view not in given:
                raise ValueError(f"no entry of captures has rows of the view {view}; take it out of views")
        return self

    @pydantic.model_validator(mode="after")
    def _published_files_tell_enough(self) -> Self:
        for entry in self.published:
            lacking = {"time": not entry.knows_start, "host_pair": not entry.knows_hosts}.get(self.splits.by, False)
            if lacking:
                told = "starts" if self.splits.by == "time" else "addresses"
                raise ValueError(
                    f"splits by {self.splits.by} need {told}, which {entry.path!r} ({entry.published}) does not tell; "
                    "write by: flow, or by: capture"
                )
            measured = [task.name for task in self.tasks if task.kind == "auto"]
            if measured and entry.view != "flows":
                raise ValueError(
                    f"task {measured[0]!r} is measured of flows, and {entry.path!r} ({entry.published}) has rows of "
                    f"the view {entry.view}; take one of them out"
                )
        features = {entry.features: entry.path for entry in self.published if isinstance(entry, CicidsTables)}
        if len(features) > 1:
            raise ValueError(f"tables need the same features, got other ones for {' and '.join(features.values())}")
        if self.deduplicate != "none" and self.views != ("flows",):
            raise ValueError(
                f"deduplicate compares the sizes and directions of flows, got views {list(self.views)}; write "
                "views: [flows], or deduplicate: none"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _one_timeline_has_one_label(self) -> Self:
        first: dict[tuple[str, str], tuple[str, LabelValue]] = {}
        for source in self.captures:
            if isinstance(source, PublishedSource) or source.group == FILE_GROUP:
                continue
            for task, value in source.labels.items():
                glob, known = first.setdefault((source.group, task), (source.glob, value))
                if known != value:
                    raise ValueError(
                        f"captures of group {source.group!r} are one timeline, so their labels must agree; got {task}: "
                        f"{known!r} for {glob!r} and {value!r} for {source.glob!r}; give them groups of their own"
                    )
        return self


def parse_manifest(document: Any, where: str) -> CorpusManifest:
    """Check a manifest that was read from YAML.

    Args:
      document: what the YAML holds.
      where: the manifest's path, for messages.

    Raises:
      FlowloomError: naming every invalid key, what was expected there, and the nearest known word.
    """
    if not isinstance(document, dict):
        raise FlowloomError(f"{where}: expected a corpus manifest (a YAML mapping), got {type(document).__name__}")
    try:
        return CorpusManifest.model_validate(document)
    except pydantic.ValidationError as error:
        raise FlowloomError(f"{where}: {explain(error, CorpusManifest)}") from None
