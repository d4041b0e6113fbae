"""Flow definitions: `FlowDefinition` and the presets that reproduce known tools."""

import enum
from typing import Annotated, Any, Literal, Self, get_args

import pydantic

from flowloom.schemas.errors import FlowloomError, did_you_mean


class EndReason(enum.IntEnum):
    """Reasons for the end of a flow: IPFIX flowEndReason (RFC 5102, section 5.11.3)."""

    IDLE_TIMEOUT = 1
    ACTIVE_TIMEOUT = 2
    END_DETECTED = 3
    FORCED_END = 4
    LACK_OF_RESOURCES = 5


Tunnel = Literal[
    "ip-in-ip", "gre", "gtp-u", "vxlan", "teredo", "erspan", "pptp", "etherip", "l2tp", "mpls", "vxlan-gpe", "geneve",
    "gue", "tzsp", "capwap", "amt",
]  # fmt: skip
TUNNELS: tuple[Tunnel, ...] = get_args(Tunnel)
"""Kinds of tunnel that the decoder unwraps (docs/manifest.md, "Tunnels")."""

VXLAN_PORTS = (4789, 8472)
"""UDP ports of VXLAN: IANA's, and the one that Linux took before."""


_OF_PACKETS = {
    "active_s": None, "tcp_close": "none", "zero_payload": "keep", "min_packets": 1, "orient": "first-packet",
    "icmp_errors": "packets", "duplicates": "count",
}  # fmt: skip
"""Required values of options with `decision: packet`: only idle time ends windows, and every packet has a row."""


class FlowDefinition(pydantic.BaseModel):
    """Rule that turns packets into bidirectional flows.

    Times are in seconds, sizes in bytes. The clock of a capture group is the running maximum of the times of its
    records. A flow is *idle* when the clock is more than `idle_s` past the flow's last packet. At most `max_open_flows`
    flows are open: whenever an eighth of that many flows has begun, and as many more may not fit, the flows that were
    idle longest end (lack of resources) until they do.

    Example:

    >>> import flowloom as fl
    >>> definition = fl.FlowDefinition.of("nfstream", k=20)
    >>> definition.active_s, definition.k
    (1800.0, 20)
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    preset: str = "default"
    """Preset whose options these replace."""
    k: int = pydantic.Field(60, ge=1, le=65_535, description="packets kept in the sequences of a flow")
    idle_s: float = pydantic.Field(120.0, gt=0, le=1e9)
    """Seconds without a packet after which a flow ends."""
    idle_udp_s: float | None = pydantic.Field(None, gt=0, le=1e9, description="idle timeout of UDP; null = idle_s")
    active_s: float | None = pydantic.Field(None, gt=0, le=1e9, description="cut flows at this age; null = never")
    timeouts: Literal["exceeded", "reached"] = "exceeded"
    """Flows are cut when a gap or an age exceeds its timeout, or when it reaches it."""
    tcp_close: Literal["none", "lifecycle", "fin"] = "lifecycle"
    """End of TCP flows: none, by the lifecycle of the connection, or with the first FIN."""
    size: Literal["ip", "wire", "payload"] = "ip"
    """Size of a packet: IP length, frame on the wire, or payload."""
    zero_payload: Literal["keep", "skip"] = "keep"
    """Packets without payload in sequences."""
    min_packets: int = pydantic.Field(1, ge=1)
    """Flows with fewer packets are no rows, and counted."""
    orient: Literal["first-packet", "syn", "client"] = "first-packet"
    """Forward is the direction of the first packet, of the SYN, or of the client by SYN and port."""
    vlan_in_key: bool = False
    """True if flows of two VLANs are two flows."""
    fragments: Literal["join", "drop"] = "join"
    """Later IP fragments join their flow, or are dropped and counted."""
    tunnels: tuple[Tunnel, ...] = pydantic.Field((), description="tunnels to unwrap, or `all`")
    vxlan_ports: tuple[Annotated[int, pydantic.Field(ge=1, le=65_535)], ...] = pydantic.Field(
        VXLAN_PORTS, min_length=1, max_length=16, description="UDP ports of the tunnel `vxlan`"
    )
    tunnel_in_key: bool = False
    """True if flows of two tunnel identifiers are two flows."""
    icmp_in_key: bool = False
    """True if ICMP messages of two types, codes or identifiers are of two flows; a reply has the key of its request."""
    icmp_errors: Literal["packets", "count"] = "packets"
    """ICMP errors are packets of flows of their own, or are counted in the flow of the packet that they quote."""
    duplicates: Literal["count", "drop"] = "count"
    """Copies of a packet among the 8 before it in its flow are counted, or counted and dropped from the flow."""
    duplicate_window_us: float = pydantic.Field(50.0, ge=0, le=1e9)
    """Microseconds between a packet and its copy at most."""
    reorder_s: float | None = pydantic.Field(None, gt=0, le=60)
    """Packets of a capture are put in the order of their times, as far as they are late by at most these seconds."""
    decoding: Literal["full", "nfstream"] = "full"
    """Headers above IP are read in full, or as NFStream reads them (docs/flow-definitions.md, "Decoding")."""
    max_open_flows: int = pydantic.Field(4_194_304, ge=1, le=2**30, description="open flows at most: bounds memory")
    decision: Literal["flow", "packet"] = pydantic.Field("flow", description="unit of a row")
    key: Literal["five_tuple", "host_pair", "source"] = pydantic.Field(
        "five_tuple", description="owner of the last k packets before a decision"
    )

    @pydantic.field_validator("tunnels", mode="before")
    @classmethod
    def _tunnels_in_order(cls, tunnels: Any) -> Any:
        """Replaces `all` by the kinds, and puts kinds into one order."""
        if tunnels == "all":
            return TUNNELS
        if isinstance(tunnels, (list, tuple)) and set(tunnels) <= set(TUNNELS):
            return tuple(name for name in TUNNELS if name in tunnels)
        return tunnels

    @pydantic.field_validator("vxlan_ports")
    @classmethod
    def _ports_in_order(cls, ports: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(ports)))

    @pydantic.model_validator(mode="after")
    def _fields_agree(self) -> Self:
        for name in ("idle_s", "idle_udp_s"):
            idle = getattr(self, name)
            if idle is not None and self.active_s is not None and idle > self.active_s:
                raise ValueError(f"{name} must be > 0 and <= active_s, got {name}={idle:g}, active_s={self.active_s:g}")
        if self.tunnel_in_key and not self.tunnels:
            raise ValueError("tunnel_in_key needs tunnels, got none; name tunnels, or remove tunnel_in_key")
        if self.decision == "flow" and self.key != "five_tuple":
            raise ValueError(
                f"key must be five_tuple with decision: flow, got {self.key}; write decision: packet, or remove key"
            )
        if self.decision == "packet":
            wrong = [name for name, value in _OF_PACKETS.items() if getattr(self, name) != value]
            if wrong:
                fits = ", ".join(f"{name}: {_shown(_OF_PACKETS[name])}" for name in wrong)
                got = ", ".join(f"{name}: {_shown(getattr(self, name))}" for name in wrong)
                raise ValueError(
                    f"a definition must have {fits} with decision: packet, got {got}; or write decision: flow"
                )
        return self

    @property
    def associative(self) -> bool:
        """True if fragments of split captures merge to exactly the flows of the whole capture.

        False with an active timeout, for packets put in order, and for windows of packets.
        """
        return self.active_s is None and self.reorder_s is None and self.decision == "flow"

    @property
    def idle_ns(self) -> int:
        """`idle_s` in nanoseconds."""
        return round(self.idle_s * 1e9)

    @property
    def reorder_ns(self) -> int:
        """`reorder_s` in nanoseconds, 0 for packets in captured order."""
        return round((self.reorder_s or 0.0) * 1e9)

    @property
    def duplicate_window_ns(self) -> int:
        """`duplicate_window_us` in nanoseconds."""
        return round(self.duplicate_window_us * 1e3)

    @property
    def margin_ns(self) -> int:
        """Nanoseconds that a gap or an age need not exceed its timeout by, 1 if reaching it is enough."""
        return 1 if self.timeouts == "reached" else 0

    @property
    def open_flows_step(self) -> int:
        """Number of flows that begin between two looks at the bound: an eighth of `max_open_flows`."""
        return max(self.max_open_flows // 8, 1)

    @classmethod
    def of(cls, preset: str = "default", **overrides: Any) -> Self:
        """Returns a preset with some fields replaced.

        Raises:
          FlowloomError: if the preset is unknown.
          pydantic.ValidationError: if a field is unknown or out of range.
        """
        if preset not in PRESETS:
            known = ", ".join(PRESETS)
            raise FlowloomError(
                f"flow definition preset must be one of {known}, got {preset!r}{did_you_mean(preset, PRESETS)}"
            )
        return cls.model_validate({**PRESETS[preset], **overrides, "preset": preset})


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "multitask-cnn": {"k": 60, "idle_udp_s": 15.0, "tcp_close": "fin"},
    "nfstream": {
        "active_s": 1800.0,
        "timeouts": "reached",
        "tcp_close": "none",
        "size": "wire",
        "fragments": "drop",
        "vlan_in_key": True,
        "tunnels": ("ip-in-ip", "gtp-u", "tzsp", "capwap"),
        "decoding": "nfstream",
    },
    "packet-windows": {"k": 20, "tcp_close": "none", "size": "wire", "decision": "packet", "key": "host_pair"},
    "datazoo-30": {"k": 30, "idle_s": 65.0, "active_s": 300.0, "zero_payload": "skip"},
}
"""Definitions of known tools and papers; `docs/flow-definitions.md` has a table of states for each.

`default`: idle 120 s, long flows never cut, TCP lifecycle. `multitask-cnn`: Rezaei and Liu, "Multitask Learning for
Network Traffic Classification", section IV-B: the first FIN ends a TCP flow, 15 s without a packet a UDP flow, and the
model sees 60 packets; the paper names no timeout for TCP, so the default applies. `nfstream`: NFStream's defaults
(NFStream has no k; see `docs/conformance.md`). `packet-windows`: a row for each packet with the last
20 packets of its two hosts, to compare MULTA with Kitsune (docs/decisions/0016-per-packet-decisions.md).
`datazoo-30`: the CESNET DataZoo exporter, 30 packets with payload, 65 s idle, 300 s active.
"""

SUMMARIES: dict[str, str] = {
    "default": "idle after 120 s, long flows never cut, TCP ends by its lifecycle, 60 packets in sequences",
    "multitask-cnn": "Rezaei and Liu: the first FIN ends a TCP flow, 15 s without a packet a UDP flow",
    "nfstream": "NFStream's defaults: cut after 1,800 s, no end by TCP, frame sizes, tunnels unwrapped",
    "packet-windows": "a row for each packet with the last 20 packets of its two hosts",
    "datazoo-30": "CESNET DataZoo: 30 packets with payload, idle after 65 s, cut after 300 s",
}
"""A line about each preset."""


def _shown(option: Any) -> str:
    """Returns an option as a manifest writes it."""
    return "null" if option is None else f"{option:g}" if isinstance(option, float) else str(option)
