"""Published files in a manifest: one model per format, and the meaning of its labels for tasks."""

from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic

from flowloom.schemas.arrow.feature_tables import CICIDS_FEATURES
from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.label_sources import WindowSpec
from flowloom.schemas.corpus.label_words import LabelMapping
from flowloom.schemas.corpus.tasks import LabelValue, Task
from flowloom.schemas.errors import did_you_mean

Header = Literal["strip", "keep"]
"""Treatment of the headers of pcap files, records and frames in images of `AllLayers`."""
Mask = Literal["none", "addresses", "strict"]
"""Fields zeroed in the IP packets of such images: none, addresses, or all that identify a connection."""


def _several(names: object) -> object:
    if isinstance(names, dict):
        return {name: (tasks,) if isinstance(tasks, str) else tasks for name, tasks in names.items()}
    return names


class PublishedSource(pydantic.BaseModel):
    """Processed files that a data set's authors published, and the meaning of their labels.

    Paths are relative to the manifest.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    view: ClassVar[View] = "flows"
    """View of the format's rows."""
    label_kinds: ClassVar[tuple[str, ...]] = ()
    """Kinds of labels in the format, such as `service` or `attack`."""
    has_start: ClassVar[bool] = False
    """Whether rows have a start time."""
    has_hosts: ClassVar[bool] = False
    """Whether rows have addresses."""

    published: str
    """Name of the format."""
    path: str
    """File, folder or archive, relative to the manifest."""
    labels: dict[str, LabelValue] = {}
    """Labels of all rows; they take precedence over the rows' own."""
    labels_as: Annotated[dict[str, tuple[str, ...]], pydantic.BeforeValidator(_several)] = {}
    """Task or tasks that get the labels of a kind (`label_kinds`); by default the task of the same name."""
    words: dict[str, LabelMapping] = {}
    """By task, label values by the rows' own labels; see `LabelMapping`."""
    unknown_words: Literal["error", "unknown"] = "error"
    """Treatment of labels that neither `words` nor the vocabulary has."""

    @property
    def name(self) -> str:
        """Name of the source in messages and in the card."""
        return self.path

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the entry."""
        return (self.path,)

    @property
    def group(self) -> str:
        """Constant `file`: each file is a capture group."""
        return "file"

    @property
    def window_specs(self) -> tuple[WindowSpec, ...]:
        """Empty, because the rows have their own labels."""
        return ()

    def label_kind(self, task: str) -> str | None:
        """Returns the kind of labels that a task gets, None if it gets none from this source."""
        named = (kind for kind, tasks in self.labels_as.items() if task in tasks)
        unnamed = (kind for kind in self.label_kinds if kind == task and kind not in self.labels_as)
        return next(named, next(unnamed, None))

    def source_name(self, task: str) -> str:
        """Returns the card's name for this source's labels of a task."""
        return f"{self.path} ({self.label_kind(task)})"

    def check_labels(self, tasks: dict[str, Task]) -> None:
        """Checks that the source's tasks, kinds of labels and label values exist.

        Raises:
          ValueError: if one does not; the message names the nearest that does.
        """
        for kind, named in self.labels_as.items():
            if kind not in self.label_kinds:
                raise ValueError(
                    f"labels_as of {self.path!r}: key must be a kind of labels of {self.published} "
                    f"({', '.join(self.label_kinds)}), got {kind!r}{did_you_mean(kind, self.label_kinds)}"
                )
            for name in named:
                _named_task(name, tasks, f"labels_as of {self.path!r}")
                if self.label_kind(name) != kind:
                    raise ValueError(
                        f"labels_as of {self.path!r} must name task {name!r} once, got {self.label_kind(name)} and "
                        f"{kind}; remove one"
                    )
        for name, mapping in self.words.items():
            task = _named_task(name, tasks, f"words of {self.path!r}")
            if self.label_kind(name) is None:
                raise ValueError(
                    f"words of {self.path!r}: task {name!r} gets no labels of {self.published}; write "
                    f"labels_as: {{{self.label_kinds[0]}: {name}}}"
                )
            for label, value in mapping.items():
                try:
                    if value is not None:
                        task.check(value)
                except ValueError as error:
                    raise ValueError(f"words of {self.path!r}: {label!r}: {error}") from None
        if not self.labels and not any(self.label_kind(name) for name in tasks):
            raise ValueError(
                f"{self.path!r} labels no task: {self.published} has labels of {', '.join(self.label_kinds)}, tasks "
                f"are {', '.join(tasks)}; write labels_as: {{{self.label_kinds[0]}: {next(iter(tasks))}}}"
            )


def _named_task(name: str, tasks: dict[str, Task], where: str) -> Task:
    if name not in tasks:
        raise ValueError(f"{where}: task must be one of {', '.join(tasks)}, got {name!r}{did_you_mean(name, tasks)}")
    if tasks[name].kind == "auto":
        raise ValueError(f"{where}: task {name!r} is measured and takes no labels; remove it there")
    return tasks[name]


class QuicTexts(PublishedSource):
    """Flows of the UC Davis QUIC set: one text file per flow, in a folder or archive."""

    label_kinds = ("service",)
    has_start = True
    published: Literal["quic-ucdavis"]
    """Name of the format."""


class QuicArrays(PublishedSource):
    """Processed flows of the UC Davis QUIC set, without directions: an array of packets and one of labels."""

    label_kinds = ("service",)
    published: Literal["quic-ucdavis-arrays"]
    """Name of the format."""
    label_path: str
    """File with the array of labels."""

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the entry."""
        return self.path, self.label_path


class CerttaFlows(PublishedSource):
    """Flows of CertTA: the first 30 to 100 packets of each, in JSON."""

    label_kinds = ("class",)
    published: Literal["certta"]
    """Name of the format."""


class KitsuneFlows(PublishedSource):
    """Packets of a Kitsune set as a table with a label per packet; the build meters them."""

    label_kinds = ("attack",)
    has_start = True
    has_hosts = True
    published: Literal["kitsune"]
    """Name of the format."""
    label_path: str | None = None
    """File with the label of each packet; null where the table has them, or all rows have one label."""

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the entry."""
        return (self.path,) if self.label_path is None else (self.path, self.label_path)


class IscxImages(PublishedSource):
    """Images of ISCX VPN-nonVPN: a pair of files, or all 12 classes of a variant in the set's folder."""

    view = "packets"
    label_kinds = ("traffic", "tunnel", "tunnel_traffic")
    published: Literal["iscx-wang2017"]
    """Name of the format."""
    label_path: str | None = None
    """File with the labels of the images in `path`; null with a variant."""
    variant: Literal["SessionAllLayers", "SessionL7", "FlowAllLayers", "FlowL7"] | None = None
    """Variant of the set; with it `path` is the set's folder."""
    part: Literal["train", "test"] = "train"
    """One of the variant's two published parts."""
    classes: Literal[2, 6, 12] = 12
    """Number of classes of the label file."""
    tunnel: Literal["plain", "vpn"] | None = None
    """Half of the set that the files with 6 classes belong to."""
    header: Header = "strip"
    """Treatment of the headers of pcap files, records and frames in images of AllLayers."""
    mask: Mask = "addresses"
    """Fields zeroed in the IP packets of such images: none, addresses, or all that identify a connection."""

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the entry."""
        if self.label_path is not None:
            return self.path, self.label_path
        part = {"train": "train", "test": "t10k"}[self.part]
        folders = (f"{self.path}/6class/{tunnel}{self.variant}" for tunnel in ("Novpn", "Vpn"))
        kinds = ("images-idx3", "labels-idx1")
        return tuple(f"{folder}/{part}-{kind}-ubyte.gz" for folder in folders for kind in kinds)

    @pydantic.model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.label_path is None) == (self.variant is None):
            raise ValueError(
                "an entry must have either label_path (path is an image file) or variant (path is the set's folder), "
                f"got {'both' if self.variant else 'neither'}; {'remove' if self.variant else 'add'} one"
            )
        if self.variant is not None and self.classes != 12:
            raise ValueError(f"classes must be 12 with variant, got {self.classes}; remove classes")
        if self.tunnel is not None and self.classes != 6:
            raise ValueError(f"tunnel needs classes: 6, got classes: {self.classes}; remove tunnel")
        return self


class CicidsTables(PublishedSource):
    """Tables of CICIDS2017, with flow features as columns."""

    view = "tables"
    label_kinds = ("attack", "family")
    published: Literal["cicids2017"]
    """Name of the format."""
    features: tuple[str, ...] = CICIDS_FEATURES
    """Columns that become features, in this order."""
    non_finite: Literal["set-aside", "zero", "null"] = "set-aside"
    """Treatment of rows with an infinite or missing feature: reject the row, or make the feature zero or null."""

    @pydantic.field_validator("features")
    @classmethod
    def _known(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        for at, name in enumerate(features):
            if name not in CICIDS_FEATURES:
                raise ValueError(
                    f"features must be among the {len(CICIDS_FEATURES)} that all tables have, got {name!r}"
                    f"{did_you_mean(name, CICIDS_FEATURES)}"
                )
            if name in features[:at]:
                raise ValueError(f"features must not repeat, got {name!r} twice; remove one")
        return features


FORMATS: dict[str, type[PublishedSource]] = {
    "quic-ucdavis": QuicTexts,
    "quic-ucdavis-arrays": QuicArrays,
    "certta": CerttaFlows,
    "kitsune": KitsuneFlows,
    "iscx-wang2017": IscxImages,
    "cicids2017": CicidsTables,
}
"""Models of all published formats by their name in a manifest."""


def published_format(entry: Any, other: str) -> str:
    """Returns the published format that an entry of a manifest names, or `other` if it names none."""
    named = entry.get("published", other) if isinstance(entry, dict) else getattr(entry, "published", other)
    return str(named)
