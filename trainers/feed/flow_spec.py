"""The traffic feature representation F = {M_k} of MULTA (section III-A): what a model sees of a packet, how scaled."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pydantic

from flowloom.schemas.arrow.rows import SEQUENCES, View
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.logarithm import LN_2, natural_log
from flowloom.trainers.feed.arrow_views import arrow_array, list_offsets, numbers
from flowloom.trainers.feed.row_spec import Input, aligned_empty, require_view


class Channel(NamedTuple):
    """A group of features that is switched on or off as a whole."""

    column: str
    """The flow column it is made of."""
    features: tuple[str, ...]
    """Names of the features of one packet, in order."""


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
"""Channels with a heavy tail, which scaling `standard` turns into z-scores of ln(1 + x)."""

FIXED_SIZE = 1500.0  # bytes: the Ethernet MTU; larger values are clipped to 1
FIXED_GAP_US = 6e7  # microseconds: one minute maps to 1
FIXED_WINDOW = 65_535.0  # the largest unscaled TCP window maps to 1
FIXED_TTL = 255.0
LINEAR_SIZE = 1434.0  # bytes: the largest of the QUIC captures (Rezaei and Liu, section IV-C)
LINEAR_GAP_S = 1.0  # seconds; longer gaps are clipped to it

Scaling = Literal["standard", "fixed", "linear", "code_compat"]


class FeatureSpec(pydantic.BaseModel):
    """What a model sees of a flow; stored with every run, because export and scoring must repeat it to the bit.

    `standard` scaling is the z-score of ln(1 + x) with the moments of the train split, `fixed` uses the constants
    above. `linear` is as Rezaei and Liu write (section IV-C): size over 1,434 bytes with the sign of the direction, gap
    over 1 s, both clipped at 1. `code_compat` is as their published code computes: size over 1,434 bytes unsigned and
    not clipped, gap mapped to [-1, 1], and sequences at the end of the tensor, the padding in front. Direction is -1 or
    +1, flags and protocol are 0 or 1, ttl lies in [0, 1] under all.
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
    """Whether `linear` gives sizes the sign of the direction; some published flows do not tell directions."""

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
        """Return the representation of a dataset's flows, with the card's moments where the scaling needs them.

        Raises:
          FlowloomError: if the dataset has no flows, keeps fewer than `k` packets of each, or lacks the moments.
        """
        require_view(card, cls.view)
        if k > card.definition.k:
            raise FlowloomError(
                f"k must be at most {card.definition.k}, which dataset {card.name!r} keeps of every flow, got {k}; "
                f"set k={card.definition.k}, or build the dataset with a larger k"
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
        """What of a row a model sees, in words."""
        return f"its first {self.k} packets"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the C features of one packet, in order."""
        return self.features

    @property
    def columns(self) -> tuple[str, ...]:
        """The flow columns that must be decoded."""
        columns = [CHANNELS[channel].column for channel in self.channels]
        if self._signed:
            columns.append(CHANNELS["direction"].column)
        return tuple(dict.fromkeys(columns))

    @property
    def _signed(self) -> bool:
        """Whether sizes carry the direction as their sign."""
        return self.signed and self.scaling == "linear" and "size" in self.channels

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the C features of one packet, in order."""
        return tuple(feature for channel in self.channels for feature in CHANNELS[channel].features)

    @property
    def inputs(self) -> dict[str, Input]:
        """What a model is given of a flow."""
        return {"sequence": Input((self.k, len(self.features)), np.float32), "length": Input((), np.int32)}

    def render(
        self, flows: pa.RecordBatch, rows: npt.NDArray[np.int64], starts: npt.NDArray[np.int64] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gather flows into a zero-padded tensor, in the order of `rows`.

        Args:
          flows: a batch with at least `columns`.
          rows: int64 [N], positions in `flows`.
          starts: int64 [N], the packet of each flow that is seen first, its last one at most, with the gap of a first
            packet; None: the first.

        Returns:
          float32 [N, k, C] and the lengths, int32 [N], each at most k. Padding is behind the packets, but in front of
          them under `code_compat`.

        Raises:
          FlowloomError: if the sequences of a flow differ in length, or a column is not known of some flows.
        """
        furthest = 0 if starts is None else int(starts.max(initial=0))
        return self.renderer(self.prepared(flows, furthest))(rows, starts)

    def prepared(self, flows: pa.RecordBatch, furthest_start: int = 0) -> pa.RecordBatch:
        """Scale the packets of flows once for all epochs; every other column stays.

        Args:
          flows: a batch with at least `columns`.
          furthest_start: the latest packet that a flow may be rendered from.

        Returns:
          instead of `columns` one column `sequence`: of each flow the features, float32 [C], of its first k packets and
          `furthest_start` more. It is as wide as the features, where the columns are 13 to 17 bytes a packet.

        Raises:
          FlowloomError: as `render`.
        """
        for column in self.columns:
            if flows[column].null_count:
                raise FlowloomError(
                    f"column {column} is not known of {flows[column].null_count} of {flows.num_rows} flows; "
                    f"leave its channel out of channels={','.join(self.channels)}"
                )
        values, offsets = self._buffers(flows)
        tables = self._tables
        protocol = numbers(flows["protocol"]) if "protocol" in self.channels else np.empty(0, np.uint8)
        kept = np.zeros(len(offsets), np.int32)
        np.cumsum(np.minimum(np.diff(offsets), self.k + furthest_start), out=kept[1:])
        scaled = np.empty((kept[-1], len(self.features)), np.float32)
        _scale(
            offsets, kept, *values, protocol,
            tables.size, tables.window, tables.ttl, tables.payload,
            tables.gap_unit, tables.gap_limit, tables.gap_shift, tables.gap_scale,
            self._signed, self._positions, scaled,
        )  # fmt: skip
        packets = pa.FixedSizeListArray.from_arrays(arrow_array(scaled.reshape(-1), pa.float32()), len(self.features))
        others = {name: flows[name] for name in flows.schema.names if name not in self.columns}
        return pa.RecordBatch.from_pydict(
            {**others, _SEQUENCE: pa.ListArray.from_arrays(arrow_array(kept, pa.int32()), packets)}
        )

    def renderer(self, rows: pa.RecordBatch) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        """Return `render` of `prepared` flows, for many calls."""
        lists = rows[_SEQUENCE]
        offsets = list_offsets(lists)
        packets = numbers(lists.values.flatten())  # of a slice those before it, too, as its offsets count them
        at_gap = self._positions[list(CHANNELS).index("gap")]

        def gathered(
            positions: npt.NDArray[np.int64], starts: npt.NDArray[np.int64] | None = None
        ) -> tuple[np.ndarray, np.ndarray]:
            sequence = aligned_empty((len(positions), self.k, len(self.features)), np.float32)
            lengths = aligned_empty((len(positions),), np.int32)
            _gather(
                positions, _FROM_THE_FIRST if starts is None else starts, offsets, packets,
                self.scaling == "code_compat", at_gap, self._no_gap, sequence, lengths,
            )  # fmt: skip
            return sequence, lengths

        return gathered

    def _buffers(self, flows: pa.RecordBatch) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the flat values of every sequence column (empty where not selected) and their common offsets."""
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
                raise FlowloomError(f"column {column} has lists of other lengths than the columns before it")
            values.append(numbers(lists.values)[first:last])
        assert offsets is not None  # a per-packet channel is always there
        return values, offsets

    @functools.cached_property
    def _positions(self) -> tuple[int, ...]:
        """The first feature of each channel in the order of `CHANNELS`, -1 where not selected."""
        return tuple(
            self.features.index(channel.features[0]) if name in self.channels else -1
            for name, channel in CHANNELS.items()
        )

    @property
    def _no_gap(self) -> np.float32:
        """What a first packet's gap of 0 is scaled to."""
        return np.float32((0.0 - self._tables.gap_shift) * self._tables.gap_scale)

    @functools.cached_property
    def _tables(self) -> "_Tables":
        sixteen_bits = np.arange(65_536, dtype=np.float64)
        ttl = (np.arange(256) / FIXED_TTL).astype(np.float32)
        logarithms = _logarithms(1.0 + sixteen_bits)
        window = (logarithms / natural_log(1.0 + FIXED_WINDOW)).astype(np.float32)
        if self.scaling == "fixed":
            clipped = np.minimum(sixteen_bits / FIXED_SIZE, 1.0).astype(np.float32)
            return _Tables(clipped, window, ttl, clipped, 1e-3, 0.0, 0.0, 1 / natural_log(1.0 + FIXED_GAP_US))
        if self.scaling == "linear":
            clipped = np.minimum(sixteen_bits / LINEAR_SIZE, 1.0).astype(np.float32)
            return _Tables(clipped, window, ttl, clipped, 1e-9, LINEAR_GAP_S, 0.0, 1 / LINEAR_GAP_S)
        if self.scaling == "code_compat":
            size = (sixteen_bits / LINEAR_SIZE).astype(np.float32)
            return _Tables(size, window, ttl, size, 1e-9, LINEAR_GAP_S, 0.5 * LINEAR_GAP_S, 2 / LINEAR_GAP_S)

        def standardised(channel: str) -> np.ndarray:
            shift, scale = _shift_and_scale(self.moments, channel)
            return ((logarithms - shift) * scale).astype(np.float32)

        gap = _shift_and_scale(self.moments, "gap")
        return _Tables(standardised("size"), standardised("window"), ttl, standardised("payload"), 1.0, 0.0, *gap)


class _Tables(NamedTuple):
    """The scaled value of every possible field value, and the constants of the one field too wide for a table."""

    size: np.ndarray
    window: np.ndarray
    ttl: np.ndarray
    payload: np.ndarray
    gap_unit: float
    gap_limit: float
    """Where gaps are clipped; 0: their logarithm is taken instead."""
    gap_shift: float
    gap_scale: float


def _shift_and_scale(moments: Mapping[str, tuple[float, float]], channel: str) -> tuple[float, float]:
    """Return (mean, 1 / standard deviation); a constant channel is only centred, an unselected one left alone."""
    mean, deviation = moments.get(channel, (0.0, 1.0))
    return mean, 1.0 / deviation if deviation > 0 else 1.0


_SEQUENCE = "sequence"
_FROM_THE_FIRST = np.empty(0, np.int64)

_MANTISSA_BITS = 52
_LOG_BITS = 11  # of the mantissa that the tables know
_MANTISSAS = 1.0 + np.arange(1 << _LOG_BITS) / (1 << _LOG_BITS)
_RECIPROCALS = 1.0 / _MANTISSAS
_LOGARITHMS = np.array([natural_log(mantissa) for mantissa in _MANTISSAS.tolist()])

_natural_log = numba.njit(nogil=True)(natural_log)


@numba.njit(nogil=True, cache=True)
def _logarithms(values: Any) -> Any:
    logarithms = np.empty(len(values))
    for at, value in enumerate(values):
        logarithms[at] = _natural_log(value)
    return logarithms


@numba.njit(nogil=True, cache=True, inline="always")
def _log1p(x: float) -> float:
    """Return ln(1 + x) of x >= 0 to 1e-12, by a table of mantissas: the C library's costs half of the gather."""
    bits = np.float64(1.0 + x).view(np.int64)
    near = (bits >> (_MANTISSA_BITS - _LOG_BITS)) & ((1 << _LOG_BITS) - 1)
    mantissa = np.int64((bits & ((1 << _MANTISSA_BITS) - 1)) | (1023 << _MANTISSA_BITS)).view(np.float64)
    rest = mantissa * _RECIPROCALS[near] - 1.0  # below 2^-11
    return ((bits >> _MANTISSA_BITS) - 1023) * LN_2 + _LOGARITHMS[near] + rest * (1.0 - rest * (0.5 - rest / 3.0))


@numba.njit(nogil=True, cache=True)
def _scale(
    offsets: Any, kept: Any,
    size: Any, direction: Any, gap: Any, flags: Any, window: Any, ttl: Any, payload: Any, protocol: Any,
    size_table: Any, window_table: Any, ttl_table: Any, payload_table: Any,
    gap_unit: float, gap_limit: float, gap_shift: float, gap_scale: float,
    signed: bool, positions: Any, scaled: Any,
) -> None:  # fmt: skip
    """Write every selected channel of the first packets of each flow, in the places that `kept` gives them.

    Positions are in the order of `CHANNELS`.
    """
    at_size, at_gap, at_direction, at_flags, at_protocol, at_ttl, at_window, at_payload = positions
    for row in range(kept.shape[0] - 1):
        for place in range(kept[row], kept[row + 1]):
            packet = offsets[row] + place - kept[row]
            out = scaled[place]
            if at_size >= 0:
                out[at_size] = size_table[size[packet]]
                if signed and direction[packet] < 0:
                    out[at_size] = -out[at_size]
            if at_gap >= 0:
                since = max(gap[packet], 0) * gap_unit
                since = min(since, gap_limit) if gap_limit > 0 else _log1p(since)
                out[at_gap] = (since - gap_shift) * gap_scale
            if at_direction >= 0:
                out[at_direction] = direction[packet]
            if at_flags >= 0:
                for bit in range(8):
                    out[at_flags + bit] = (flags[packet] >> bit) & 1
            if at_protocol >= 0:
                out[at_protocol : at_protocol + 4] = 0.0
                number = protocol[row]
                kind = 0 if number == 6 else 1 if number == 17 else 2 if number == 1 or number == 58 else 3
                out[at_protocol + kind] = 1.0
            if at_ttl >= 0:
                out[at_ttl] = ttl_table[ttl[packet]]
            if at_window >= 0:
                out[at_window] = window_table[window[packet]]
            if at_payload >= 0:
                out[at_payload] = payload_table[payload[packet]]


@numba.njit(nogil=True, cache=True)
def _gather(
    positions: Any, starts: Any, offsets: Any, packets: Any,
    padded_in_front: bool, at_gap: int, no_gap: Any, sequence: Any, lengths: Any,
) -> None:  # fmt: skip
    """Copy k packets of each flow, from its first on unless there are starts, and write zeros around them."""
    _, k, features = sequence.shape
    flat = sequence.reshape(-1, k * features)
    for n in range(positions.shape[0]):
        start, stop = np.int64(offsets[positions[n]]), np.int64(offsets[positions[n] + 1])
        if starts.shape[0] > 0:
            start += max(min(starts[n], stop - start - 1), 0)
        length = min(stop - start, k)
        lengths[n] = length
        first = k - length if padded_in_front else 0
        flat[n, : first * features] = 0.0
        flat[n, first * features : (first + length) * features] = packets[
            start * features : (start + length) * features
        ]
        flat[n, (first + length) * features :] = 0.0
        if starts.shape[0] > 0 and at_gap >= 0 and length > 0:
            sequence[n, first, at_gap] = no_gap
