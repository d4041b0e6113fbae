"""Published files as a manifest's user writes them: one model per format, and what its words mean for tasks."""

from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic

from flowloom.schemas.arrow.feature_tables import CICIDS_FEATURES
from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.label_sources import WindowSpec, Words
from flowloom.schemas.corpus.tasks import LabelValue, Task
from flowloom.schemas.errors import did_you_mean

Header = Literal["strip", "keep"]
"""Whether images of `AllLayers` keep the headers of pcap files, records and frames."""
Mask = Literal["none", "addresses", "strict"]
"""What is zeroed in the IP packets of such images, from nothing to all that tells a connection."""


def _several(names: object) -> object:
    if isinstance(names, dict):
        return {name: (tasks,) if isinstance(tasks, str) else tasks for name, tasks in names.items()}
    return names


class PublishedSource(pydantic.BaseModel):
    """Rows out of an author's own processed files, and what their words mean; paths are relative to the manifest."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    view: ClassVar[View] = "flows"
    """The view that the format has rows of."""
    tells: ClassVar[tuple[str, ...]] = ()
    """What the format says words of."""
    knows_start: ClassVar[bool] = False
    knows_hosts: ClassVar[bool] = False

    published: str
    path: str
    labels: dict[str, LabelValue] = {}
    """What holds for all rows; it comes before their own words."""
    labels_as: Annotated[dict[str, tuple[str, ...]], pydantic.BeforeValidator(_several)] = {}
    """The task, or tasks, that the words of a kind (`tells`) label; one of the same name unless said otherwise."""
    words: dict[str, Words] = {}
    """By task, what words mean; null is unknown. Words of the vocabulary mean themselves unless listed."""
    unknown_words: Literal["error", "unknown"] = "error"

    @property
    def name(self) -> str:
        """What the source is called in messages and in the card."""
        return self.path

    @property
    def files(self) -> tuple[str, ...]:
        """Everything it reads."""
        return (self.path,)

    @property
    def group(self) -> str:
        """Each of its files is a vantage point of its own."""
        return "file"

    @property
    def window_specs(self) -> tuple[WindowSpec, ...]:
        """None: its rows have labels of their own."""
        return ()

    def told(self, task: str) -> str | None:
        """Return the kind of words that label a task, None for a task that has no words here."""
        named = (kind for kind, tasks in self.labels_as.items() if task in tasks)
        unnamed = (kind for kind in self.tells if kind == task and kind not in self.labels_as)
        return next(named, next(unnamed, None))

    def source_name(self, task: str) -> str:
        """Return what its words of a task are called in the card."""
        return f"{self.path} ({self.told(task)})"

    def check_words(self, tasks: dict[str, Task]) -> None:
        """Check that the tasks and words it names are known.

        Raises:
          ValueError: naming what is not, and the nearest word that is.
        """
        for kind, named in self.labels_as.items():
            if kind not in self.tells:
                raise ValueError(
                    f"labels_as of {self.path!r} must name what {self.published} tells, {', '.join(self.tells)}; got "
                    f"{kind!r}{did_you_mean(kind, self.tells)}"
                )
            for name in named:
                _named_task(name, tasks, f"labels_as of {self.path!r}")
                if self.told(name) != kind:
                    raise ValueError(
                        f"labels_as of {self.path!r} gives task {name!r} the words of {self.told(name)} and of {kind}; "
                        "name it once"
                    )
        for name, words in self.words.items():
            task = _named_task(name, tasks, f"words of {self.path!r}")
            if self.told(name) is None:
                raise ValueError(
                    f"words of {self.path!r} are for task {name!r}, which has no words of {self.published}; write "
                    f"labels_as: {{{self.tells[0]}: {name}}}"
                )
            for word, value in words.items():
                try:
                    if value is not None:
                        task.index(value)
                except ValueError as error:
                    raise ValueError(f"words of {self.path!r}: {word!r}: {error}") from None
        if not self.labels and not any(self.told(name) for name in tasks):
            raise ValueError(
                f"{self.path!r} labels no task: {self.published} tells {', '.join(self.tells)}, tasks are "
                f"{', '.join(tasks)}; write labels_as: {{{self.tells[0]}: {next(iter(tasks))}}}"
            )


def _named_task(name: str, tasks: dict[str, Task], where: str) -> Task:
    if name not in tasks:
        raise ValueError(f"{where} names the task {name!r}; tasks are {', '.join(tasks)}{did_you_mean(name, tasks)}")
    if tasks[name].kind == "auto":
        raise ValueError(f"{where} names the task {name!r}, which is measured; remove it there")
    return tasks[name]


class QuicTexts(PublishedSource):
    """Flows of the UC Davis QUIC set: a text file of each, in a folder or archive."""

    tells = ("service",)
    knows_start = True
    published: Literal["quic-ucdavis"]


class QuicArrays(PublishedSource):
    """Processed flows of the same set, without directions: an array of packets and one of labels."""

    tells = ("service",)
    published: Literal["quic-ucdavis-arrays"]
    label_path: str

    @property
    def files(self) -> tuple[str, ...]:
        """Everything it reads."""
        return self.path, self.label_path


class CerttaFlows(PublishedSource):
    """Flows of CertTA: the first 30 to 100 packets of each, in JSON."""

    tells = ("class",)
    published: Literal["certta"]


class KitsuneFlows(PublishedSource):
    """Packets of a Kitsune set as a table, to be metered, with a label for each."""

    tells = ("attack",)
    knows_start = True
    knows_hosts = True
    published: Literal["kitsune"]
    label_path: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Everything it reads."""
        return (self.path,) if self.label_path is None else (self.path, self.label_path)


class IscxImages(PublishedSource):
    """Images of ISCX VPN-nonVPN: a pair of files, or all 12 classes of a variant out of the set's folder."""

    view = "packets"
    tells = ("traffic", "tunnel", "tunnel_traffic")
    published: Literal["iscx-wang2017"]
    label_path: str | None = None
    variant: Literal["SessionAllLayers", "SessionL7", "FlowAllLayers", "FlowL7"] | None = None
    """With it `path` is the set's folder."""
    part: Literal["train", "test"] = "train"
    """Which of the variant's two published parts."""
    classes: Literal[2, 6, 12] = 12
    tunnel: Literal["plain", "vpn"] | None = None
    header: Header = "strip"
    mask: Mask = "addresses"

    @property
    def files(self) -> tuple[str, ...]:
        """Everything it reads."""
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
                "give label_path with the path of an image file, or variant with the path of the set's folder, got "
                f"label_path={self.label_path!r}, variant={self.variant!r}"
            )
        if self.variant is not None and self.classes != 12:
            raise ValueError(f"a variant is put together to 12 classes, got classes={self.classes}")
        if self.tunnel is not None and self.classes != 6:
            raise ValueError(f"tunnel goes with classes: 6, got classes: {self.classes}")
        return self


class CicidsTables(PublishedSource):
    """Tables of CICIDS2017: rows of flow features."""

    view = "tables"
    tells = ("attack", "family")
    published: Literal["cicids2017"]
    features: tuple[str, ...] = CICIDS_FEATURES
    non_finite: Literal["set-aside", "zero", "null"] = "set-aside"

    @pydantic.field_validator("features")
    @classmethod
    def _known(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        for at, name in enumerate(features):
            if name not in CICIDS_FEATURES:
                raise ValueError(
                    f"features must be among the {len(CICIDS_FEATURES)} common ones, got {name!r}"
                    f"{did_you_mean(name, CICIDS_FEATURES)}"
                )
            if name in features[:at]:
                raise ValueError(f"features must differ, got {name!r} twice")
        return features


FORMATS: dict[str, type[PublishedSource]] = {
    "quic-ucdavis": QuicTexts,
    "quic-ucdavis-arrays": QuicArrays,
    "certta": CerttaFlows,
    "kitsune": KitsuneFlows,
    "iscx-wang2017": IscxImages,
    "cicids2017": CicidsTables,
}
"""Every published format by the word that names it in a manifest."""


def published_format(entry: Any, other: str) -> str:
    """Return the word that says which format a manifest's entry is of, `other` without one."""
    named = entry.get("published", other) if isinstance(entry, dict) else getattr(entry, "published", other)
    return str(named)
