"""The two tunnels: OpenVPN and WireGuard in user space, from client hosts to a gateway beside the server.

Both take only traffic to the server; seen from the capture point there is one UDP flow per client and tunnel start.
"""

import itertools
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

from lab import Host, Lab, command

PORTS = (443, 1194, 4500, 8443, 51820)
"""Ports of gateways; both tunnels draw from the same ports, so the port does not tell them apart."""
WIREGUARD_MTU = "1420"
_numbers = itertools.count()


def open_tunnels(kind: str, lab: Lab, clients: Sequence[Host], draws: random.Random) -> None:
    """Starts a gateway and one tunnel from each client to it, and routes the server's address through them."""
    gateway = lab.add_host("gateway", "servers")
    gateway.sysctl("net.ipv4.ip_forward", "1")
    prefix = f"10.{draws.randrange(1, 255)}.{draws.randrange(255)}"
    lab.server.ip("route", "add", f"{prefix}.0/24", "via", gateway.address, "dev", "eth0")
    port = draws.choice(PORTS)
    {"openvpn": _openvpn, "wireguard": _wireguard}[kind](lab, gateway, clients, port, prefix)


def _openvpn(lab: Lab, gateway: Host, clients: Sequence[Host], port: int, prefix: str) -> None:
    keys = lab.shared / "keys"
    common = ["--dev", "tun0", "--ca", f"{keys}/ca.crt", "--disable-dco", "--verb", "3"]
    gateway.start([
        "openvpn", *common, "--server", f"{prefix}.0", "255.255.255.0", "--topology", "subnet", "--port", str(port),
        "--cert", f"{keys}/server.crt", "--key", f"{keys}/server.key", "--dh", "none", "--duplicate-cn",
        "--keepalive", "10", "60",
    ])  # fmt: skip
    gateway.wait_for_port(port, "udp")
    for client in clients:
        client.start([
            "openvpn", *common, "--client", "--nobind", "--remote", gateway.address, str(port), "--remote-cert-tls",
            "server", "--cert", f"{keys}/client.crt", "--key", f"{keys}/client.key",
            "--route", lab.server.address, "255.255.255.255",
        ])  # fmt: skip
    for client in clients:
        _await_line(client.home / "openvpn.log", "Initialization Sequence Completed")
        client.inner = client.ip("-4", "-o", "address", "show", "dev", "tun0").split()[3].partition("/")[0]


def _await_line(log: Path, line: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if log.exists() and line in log.read_text(errors="replace"):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{log} does not say {line!r} after {seconds:g} s")


def _wireguard(lab: Lab, gateway: Host, clients: Sequence[Host], port: int, prefix: str) -> None:
    device, public = _wireguard_device(gateway, f"{prefix}.1", ["listen-port", str(port)])
    for number, client in enumerate(clients, 2):
        client.inner = f"{prefix}.{number}"
        peer = ["peer", public, "endpoint", f"{gateway.address}:{port}", "allowed-ips", f"{lab.server.address}/32"]
        own, own_public = _wireguard_device(client, client.inner, peer)
        command(["ip", "netns", "exec", gateway.namespace, "wg", "set", device,
                 "peer", own_public, "allowed-ips", f"{client.inner}/32"])  # fmt: skip
        client.ip("route", "add", f"{lab.server.address}/32", "dev", own)


def _wireguard_device(host: Host, address: str, settings: list[str]) -> tuple[str, str]:
    """Makes a WireGuard device on a host and returns its name and public key."""
    device = f"wg{os.getpid() % 100000}n{next(_numbers)}"  # control sockets lie in one directory for all hosts
    inside = ["ip", "netns", "exec", host.namespace]
    private = command([*inside, "wg", "genkey"]).strip()
    key = host.home / "wireguard.key"
    key.write_text(private)
    host.start(["wireguard-go", "-f", device])
    end = time.monotonic() + 10
    while not Path(f"/var/run/wireguard/{device}.sock").exists() and time.monotonic() < end:
        time.sleep(0.05)
    command([*inside, "wg", "set", device, "private-key", str(key), *settings])
    host.ip("address", "add", f"{address}/24", "dev", device)
    host.ip("link", "set", device, "mtu", WIREGUARD_MTU, "up")
    return device, command([*inside, "wg", "show", device, "public-key"]).strip()
