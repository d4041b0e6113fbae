"""Features of flows: the representation F = {M_k} of MULTA (section III-A), k packets of C scaled features."""

import functools
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pydantic

from flowloom.schemas.arrow.rows import SEQUENCES, View
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.logarithm import natural_log
from flowloom.trainers.arrow_views import arrow_array, list_offsets, numbers
from flowloom.trainers.feed.augmentation import Augmentation, Draws
from flowloom.trainers.feed.flow_kernels import (
    FROM_THE_FIRST,
    FirstFeatures,
    PacketColumns,
    ScalingTables,
    gather_augmented,
    gather_packets,
    logarithms,
    scale_packets,
)
from flowloom.trainers.feed.row_spec import Input, aligned_empty, require_view


class Channel(NamedTuple):
    """A group of features that a recipe selects as a whole."""

    column: str
    """The flow column that it reads."""
    features: tuple[str, ...]
    """Names of its features of one packet, in order."""


CHANNELS: dict[str, Channel] = {
    "size": Channel("pkt_size", ("size",)),
    "gap": Channel("pkt_gap_ns", ("gap",)),
    "direction": Channel("pkt_dir", ("direction",)),
    "tcp_flags": Channel("pkt_tcp_flags", ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")),
    "protocol": Channel("protocol", ("tcp", "udp", "icmp", "other")),
    "ttl": Channel("pkt_ttl", ("ttl",)),
    "window": Channel("pkt_tcp_window", ("window",)),
    "payload": Channel("pkt_payload", ("payload",)),
}
"""s_k, i_k, d_k and h_k of equation (2): size, interval, direction, and five selected header fields."""

STANDARDISED = ("size", "gap", "window", "payload")
"""Heavy-tailed channels, which the scaling `standard` turns into z-scores of ln(1 + x)."""

_SEQUENCE = "sequence"
"""Column of prepared flows that holds the scaled features."""

FIXED_SIZE = 1500.0  # bytes: the Ethernet MTU; larger values are clipped to 1
FIXED_GAP_US = 6e7  # microseconds: one minute maps to 1
FIXED_WINDOW = 65_535.0  # the largest unscaled TCP window maps to 1
FIXED_TTL = 255.0
LINEAR_SIZE = 1434.0  # bytes: the largest of the QUIC captures (Rezaei and Liu, section IV-C)
LINEAR_GAP_S = 1.0  # seconds; longer gaps are clipped to it

Scaling = Literal["standard", "fixed", "linear", "code_compat", "none"]


class FeatureSpec(pydantic.BaseModel):
    """Input features of flows: float32 [k, C] from k packets of C features, and the number of packets.

    Every run stores its spec, because export and scoring must repeat the features to the bit.

    The five scalings:
      standard: the z-score of ln(1 + x), with the moments of the train split.
      fixed: the constants of this module.
      linear: Rezaei and Liu (section IV-C): size / 1,434 bytes with the sign of the direction, and gap / 1 s,
        both clipped at 1.
      code_compat: published code of Rezaei and Liu: size / 1,434 bytes, unsigned and not clipped; gap mapped
        to [-1, 1]; the padding comes before the packets.
      none: size and payload in bytes, gap in microseconds, window and ttl as in the header, for models whose first
        layer reads packets in units.

    Under all five, direction is -1 or +1, and flags and protocol are 0 or 1; under the first four ttl lies in [0, 1].

    Example:

    >>> spec = FeatureSpec(k=20, channels=("size", "direction"), scaling="fixed")
    >>> spec.features
    ('size', 'direction')
    >>> spec.inputs["sequence"].shape
    (20, 2)
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    view: ClassVar[View] = "flows"

    k: int = pydantic.Field(ge=1)
    """Packets per flow."""
    channels: tuple[str, ...]
    scaling: Scaling
    moments: dict[str, tuple[float, float]] = {}
    """Mean and standard deviation of ln(1 + x) of each standardised channel."""
    signed: bool = True
    """Under `linear`, gives sizes the sign of the direction; false for published flows without directions."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for channel in self.channels:
            if channel not in CHANNELS:
                raise ValueError(
                    f"channels must be among {', '.join(CHANNELS)}, got {channel!r}{did_you_mean(channel, CHANNELS)}"
                )
        if len(set(self.channels)) != len(self.channels):
            raise ValueError(f"channels must not repeat, got {list(self.channels)}")
        if not any(CHANNELS[channel].column in SEQUENCES for channel in self.channels):
            raise ValueError(f"channels must hold at least one per-packet channel, got {list(self.channels)}")
        needed = {channel for channel in self.channels if channel in STANDARDISED}
        if self.scaling == "standard" and needed - set(self.moments):
            raise ValueError(f"standard scaling needs the moments of {sorted(needed)}, got {sorted(self.moments)}")
        return self

    @classmethod
    def of(cls, card: DatasetCard, k: int, channels: tuple[str, ...], scaling: Scaling, signed: bool = True) -> Self:
        """Returns the spec for a dataset's flows, with the card's moments where the scaling needs them.

        Raises:
          FlowloomError: if the dataset has no flows, keeps fewer than `k` packets per flow, or lacks the moments.
        """
        require_view(card, cls.view)
        if k > card.definition.k:
            raise FlowloomError(
                f"k must be at most {card.definition.k}, the packets that dataset {card.name!r} keeps of every flow, "
                f"got {k}; set k={card.definition.k}, or build the dataset with a larger k"
            )
        moments = {}
        if scaling == "standard":
            for channel in (name for name in channels if name in STANDARDISED):
                statistics = card.normalisation.get(CHANNELS[channel].column)
                if statistics is None:
                    raise FlowloomError(
                        f"the card of dataset {card.name!r} has no normalisation of {CHANNELS[channel].column}; "
                        "set scaling=fixed, or build the dataset again"
                    )
                moments[channel] = (statistics.log1p_mean, statistics.log1p_std)
        try:
            return cls(k=k, channels=channels, scaling=scaling, moments=moments, signed=signed)
        except pydantic.ValidationError as error:
            raise FlowloomError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None

    @property
    def seen(self) -> str:
        """The input in words, for reports."""
        return f"its first {self.k} packets"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the C features of one packet, in order."""
        return self.features

    @property
    def columns(self) -> tuple[str, ...]:
        """The flow columns to decode."""
        columns = [CHANNELS[channel].column for channel in self.channels]
        if self._signed:
            columns.append(CHANNELS["direction"].column)
        return tuple(dict.fromkeys(columns))

    @property
    def _signed(self) -> bool:
        """True if sizes carry the sign of the direction."""
        return self.signed and self.scaling == "linear" and "size" in self.channels

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the C features of one packet, in order."""
        return tuple(feature for channel in self.channels for feature in CHANNELS[channel].features)

    @property
    def inputs(self) -> dict[str, Input]:
        """The model inputs of one flow: `sequence` and `length`."""
        return {"sequence": Input((self.k, len(self.features)), np.float32), "length": Input((), np.int32)}

    def render(
        self, flows: pa.RecordBatch, rows: npt.NDArray[np.int64], starts: npt.NDArray[np.int64] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features of some flows, zero-padded to k packets.

        Args:
          flows: a batch with at least `columns`.
          rows: int64 [N], positions in `flows`.
          starts: int64 [N], the packet that each flow begins at (at most its last one), which then has the gap of a
            first packet; None begins every flow at its first packet.

        Returns:
          The sequences, float32 [N, k, C], and the lengths, int32 [N], each at most k. The padding comes after the
          packets, except under `code_compat`.

        Raises:
          FlowloomError: if the lists of a flow differ in length, or a column is unknown for some flows.
        """
        furthest = 0 if starts is None else int(starts.max(initial=0))
        return self.renderer(self.prepared(flows, furthest))(rows, starts)

    def prepared(self, flows: pa.RecordBatch, further: int = 0) -> pa.RecordBatch:
        """Scales the packets of flows once for all epochs.

        Args:
          flows: a batch with at least `columns`.
          further: packets of each flow to keep beyond the first k.

        Returns:
          The batch with one column `sequence` in place of `columns`: for each flow a list of float32 [C], the features
          of its first k + `further` packets. A packet takes 4 C bytes, against 13 to 17 bytes in the columns.

        Raises:
          FlowloomError: for the reasons of `render`.
        """
        for column in self.columns:
            if flows[column].null_count:
                raise FlowloomError(
                    f"column {column} is unknown for {flows[column].null_count} of {flows.num_rows} flows; "
                    f"remove its channel from channels={','.join(self.channels)}"
                )
        values, offsets = self._buffers(flows)
        protocol = numbers(flows["protocol"]) if "protocol" in self.channels else np.empty(0, np.uint8)
        kept = np.zeros(len(offsets), np.int32)
        np.cumsum(np.minimum(np.diff(offsets), self.k + further), out=kept[1:])
        scaled = np.empty((kept[-1], len(self.features)), np.float32)
        scale_packets(offsets, kept, values, protocol, self._tables, self._signed, self._first, scaled)
        packets = pa.FixedSizeListArray.from_arrays(arrow_array(scaled.reshape(-1), pa.float32()), len(self.features))
        others = {name: flows[name] for name in flows.schema.names if name not in self.columns}
        return pa.RecordBatch.from_pydict(
            {**others, _SEQUENCE: pa.ListArray.from_arrays(arrow_array(kept, pa.int32()), packets)}
        )

    def renderer(self, rows: pa.RecordBatch) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        """Returns a function that renders `prepared` flows as `render` does."""
        lists = rows[_SEQUENCE]
        offsets = list_offsets(lists)
        packets = numbers(lists.values.flatten())  # includes packets before a slice, which its offsets count

        def gathered(
            positions: npt.NDArray[np.int64],
            starts: npt.NDArray[np.int64] | None = None,
            seeds: npt.NDArray[np.uint64] | None = None,
            augmentation: Augmentation | None = None,
        ) -> tuple[np.ndarray, np.ndarray]:
            if augmentation is not None and augmentation.changes_packets:
                assert starts is not None
                assert seeds is not None
                bounds, draws = (offsets[:-1], offsets[1:]), Draws(starts, seeds)
                return self.augmented(packets, bounds, positions, draws, augmentation)
            sequence = aligned_empty((len(positions), self.k, len(self.features)), np.float32)
            lengths = aligned_empty((len(positions),), np.int32)
            gather_packets(
                positions, FROM_THE_FIRST if starts is None else starts, offsets, packets,
                self.scaling == "code_compat", self._first.gap, self._no_gap, sequence, lengths,
            )  # fmt: skip
            return sequence, lengths

        return gathered

    def augmented(
        self,
        packets: npt.NDArray[np.float32],
        bounds: tuple[np.ndarray, np.ndarray],
        positions: npt.NDArray[np.int64],
        draws: Draws,
        augmentation: Augmentation,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns augmented sequences, float32 [N, k, C], and their lengths, int32 [N].

        Args:
          packets: float32 [packets * C], the scaled features of flows.
          bounds: int [flows] each, the first packet of each flow and the packet behind its last one.
          positions: int64 [N], the flows to render; positions may repeat.
          draws: the random choices of the N rows.
          augmentation: settings that fit the scaling and the channels.
        """
        sequence = aligned_empty((len(positions), self.k, len(self.features)), np.float32)
        lengths = aligned_empty((len(positions),), np.int32)
        gather_augmented(
            positions, *draws, *bounds, packets, augmentation.packet_loss, augmentation.most_lost(self.k),
            *augmentation.gap_scale, augmentation.mirror, self._first.gap, self._first.direction, sequence, lengths,
        )  # fmt: skip
        return sequence, lengths

    def _buffers(self, flows: pa.RecordBatch) -> tuple[PacketColumns, np.ndarray]:
        """Returns the flat values of the sequence columns and their common offsets."""
        values = []
        offsets: np.ndarray | None = None
        for column, item in SEQUENCES.items():
            if column not in self.columns:
                values.append(np.empty(0, str(item)))
                continue
            lists = flows[column]
            starts = list_offsets(lists)
            first, last = starts[0], starts[-1]
            starts = starts - first
            if offsets is None:
                offsets = starts
            elif not np.array_equal(offsets, starts):
                raise FlowloomError(
                    f"column {column} must have lists as long as the other sequence columns; build the dataset again"
                )
            values.append(numbers(lists.values)[first:last])
        assert offsets is not None  # a spec has at least one per-packet channel
        return PacketColumns(*values), offsets

    @functools.cached_property
    def _first(self) -> FirstFeatures:
        """Position of the first feature of each channel, -1 where not selected."""
        return FirstFeatures(
            *(
                self.features.index(channel.features[0]) if name in self.channels else -1
                for name, channel in CHANNELS.items()
            )
        )

    @property
    def _no_gap(self) -> np.float32:
        """Scaled gap of a first packet, which is 0 ns."""
        return np.float32((0.0 - self._tables.gap_shift) * self._tables.gap_scale)

    @functools.cached_property
    def _tables(self) -> ScalingTables:
        sixteen_bits = np.arange(65_536, dtype=np.float64)
        ttl = (np.arange(256) / FIXED_TTL).astype(np.float32)
        logs = logarithms(1.0 + sixteen_bits)
        window = (logs / natural_log(1.0 + FIXED_WINDOW)).astype(np.float32)
        if self.scaling == "fixed":
            clipped = np.minimum(sixteen_bits / FIXED_SIZE, 1.0).astype(np.float32)
            return ScalingTables(clipped, window, ttl, clipped, 1e-3, 0.0, 0.0, 1 / natural_log(1.0 + FIXED_GAP_US))
        if self.scaling == "linear":
            clipped = np.minimum(sixteen_bits / LINEAR_SIZE, 1.0).astype(np.float32)
            return ScalingTables(clipped, window, ttl, clipped, 1e-9, LINEAR_GAP_S, 0.0, 1 / LINEAR_GAP_S)
        if self.scaling == "none":
            units = sixteen_bits.astype(np.float32)
            return ScalingTables(units, units, units[:256], units, 1e-3, np.inf, 0.0, 1.0)
        if self.scaling == "code_compat":
            size = (sixteen_bits / LINEAR_SIZE).astype(np.float32)
            return ScalingTables(size, window, ttl, size, 1e-9, LINEAR_GAP_S, 0.5 * LINEAR_GAP_S, 2 / LINEAR_GAP_S)

        def standardised(channel: str) -> np.ndarray:
            shift, scale = _shift_and_scale(self.moments, channel)
            return ((logs - shift) * scale).astype(np.float32)

        gap = _shift_and_scale(self.moments, "gap")
        return ScalingTables(standardised("size"), standardised("window"), ttl, standardised("payload"), 1.0, 0.0, *gap)


def _shift_and_scale(moments: Mapping[str, tuple[float, float]], channel: str) -> tuple[float, float]:
    """Returns (mean, 1 / standard deviation); a constant channel is only centred, an unselected one unchanged."""
    mean, deviation = moments.get(channel, (0.0, 1.0))
    return mean, 1.0 / deviation if deviation > 0 else 1.0
