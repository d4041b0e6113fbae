"""Options of the packets view, whose rows are the bytes of one packet after the link layer."""

from typing import Literal

import pydantic

NAME_SERVICE_PORTS = (53,)
"""DNS (RFC 1035). Multicast DNS (5353) and LLMNR (5355) can be added."""


class PacketView(pydantic.BaseModel):
    """Rule that turns a packet into a row of bytes.

    `paper` is the preprocessing of MTC, section 3.2.1: link layer stripped, IP addresses zeroed, transport header of 20
    bytes. `strict` also zeroes what identifies a connection or a host: ports, sequence and acknowledgement numbers, IP
    identification, time to live, checksums and IP options (Zhao et al., "The Sweet Danger of Sugar", SIGCOMM 2025), and
    the payload of services that name hosts (DNS, multicast DNS, LLMNR, NetBIOS, DHCP, SSDP and the like). Other payload
    stays, with names that an application may send.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    preset: Literal["paper", "strict"] = "paper"
    """Bytes that are zeroed: addresses, or also ports, sequence numbers and TTL."""
    length: int = pydantic.Field(1500, ge=80, le=65_535, description="bytes of a row; 80 hold the longest headers")
    name_service_ports: tuple[int, ...] = NAME_SERVICE_PORTS
    """Ports of name services, whose packets are dropped and counted."""

    @pydantic.field_validator("name_service_ports")
    @classmethod
    def _ports(cls, ports: tuple[int, ...]) -> tuple[int, ...]:
        if not all(0 < port <= 65_535 for port in ports):
            raise ValueError(f"name_service_ports must be from 1 to 65535, got {list(ports)}")
        return tuple(sorted(set(ports)))
