"""The laboratory of one session: hosts as network namespaces around an impaired link, and a capture on that link.

    clients, attackers, reflectors -- bridge -- [tap  link.py  tap] -- bridge -- server, VPN gateway
                                                 ^ capture

Everything a session makes lives in namespaces whose names start with `loom`; leaving the laboratory ends every process
inside them and deletes them. Nothing in them has a route to anywhere else.
"""

import contextlib
import dataclasses
import ipaddress
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
SERVER_NET = ipaddress.ip_network("203.0.113.0/24")
"""Network of servers and VPN gateways: TEST-NET-3 of RFC 5737."""
CLIENT_NET = ipaddress.ip_network("10.0.0.0/8")
DOMAIN = "flowloom.example"
COMMAND_SECONDS = 60.0
"""Longest time one client command may take."""


def command(words: Sequence[str], seconds: float = COMMAND_SECONDS, check: bool = True) -> str:
    """Runs one command of the host system, without input, and returns what it printed."""
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, text=True
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {done.stdout.strip()}")
    return done.stdout


@dataclasses.dataclass(frozen=True)
class Impairment:
    """Delay, jitter, loss and rate of the path between clients and server."""

    delay_ms: float
    jitter_ms: float
    loss_percent: float
    down_kbit: int
    up_kbit: int

    @classmethod
    def drawn(cls, draws: random.Random) -> Self:
        """Draws a path between a good office line and a poor mobile one."""
        down = int(2 ** draws.uniform(12, 15.3))
        return cls(
            delay_ms=round(2 ** draws.uniform(1, 5), 1),
            jitter_ms=round(draws.choice([0.0, 0.3, 1.0, 3.0]), 1),
            loss_percent=draws.choice([0.0, 0.0, 0.1, 0.5]),
            down_kbit=down,
            up_kbit=max(1500, down // draws.choice([1, 2, 4])),
        )


class Host:
    """One machine: a network namespace with a host name of its own."""

    def __init__(self, namespace: str, name: str, address: str, home: Path):
        self.namespace, self.name, self.address, self.home = namespace, name, address, home
        self.inner = address
        """The address its own traffic comes from: that of the tunnel, where it has one."""
        home.mkdir(parents=True, exist_ok=True)
        command(["ip", "netns", "add", namespace])
        self.ip("link", "set", "lo", "up")
        self.sysctl("net.ipv6.conf.all.disable_ipv6", "1")

    def knows(self, other: "Host") -> None:
        """Lets this host find another by its name, without a look-up on the wire."""
        names = Path("/etc/netns", self.namespace)
        names.mkdir(parents=True, exist_ok=True)
        lines = f"127.0.0.1 localhost {self.name}.{DOMAIN}\n{other.address} {other.name}.{DOMAIN}\n"
        (names / "hosts").write_text(lines)

    def ip(self, *words: str) -> str:
        """Runs `ip` on this host's network."""
        return command(["ip", "-n", self.namespace, *words])

    def sysctl(self, key: str, value: str) -> None:
        """Sets one network parameter of this host."""
        command(["ip", "netns", "exec", self.namespace, "sysctl", "-q", "-w", f"{key}={value}"])

    def inside(self, words: Sequence[str]) -> list[str]:
        """Returns the command that runs `words` on this host: own network, own host name."""
        hosted = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', f"{self.name}.{DOMAIN}", *words]
        return ["ip", "netns", "exec", self.namespace, *hosted]

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of programs on this host; nothing of the recording machine's."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "HOME": str(self.home), "LANG": "C", "TERM": "xterm", "USER": "root"}

    def start(self, words: Sequence[str], **keywords: object) -> "subprocess.Popen[bytes]":
        """Starts a program in the background; the laboratory ends it. Its output goes to `<home>/<program>.log`."""
        log = (self.home / f"{Path(words[0]).name}.log").open("ab")
        settings = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **keywords}
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            self.inside(words), env=self.environment, start_new_session=True, cwd=self.home, **settings
        )

    def run(self, words: Sequence[str], seconds: float = COMMAND_SECONDS) -> int:
        """Runs a client program to its end, or stops it after some seconds, and returns its exit code."""
        started = self.start(words)
        try:
            return started.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGTERM)
            return started.wait(5)

    def wait_for_port(self, port: int, kind: str = "tcp", seconds: float = 15.0) -> None:
        """Waits until something on this host listens on a port, looked up without sending a packet."""
        end = time.monotonic() + seconds
        flags = "-Htln" if kind == "tcp" else "-Huln"
        while time.monotonic() < end:
            if command(["ip", "netns", "exec", self.namespace, "ss", flags, "sport", "=", f":{port}"]).strip():
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self.name}: nothing listens on {kind} port {port} after {seconds:g} s; see {self.home}")


class Lab:
    """A context: hosts on the two sides of the impaired link."""

    def __init__(self, name: str, home: Path, shared: Path, draws: random.Random, scale: float):
        self.name, self.home, self.shared, self.draws = name, home, shared, draws
        self.scale = scale
        """Amount of traffic, as a share of the usual."""
        self.hosts: list[Host] = []
        self.impairment = Impairment.drawn(draws)
        self._client_net = ipaddress.ip_network((int(CLIENT_NET[0]) | draws.randrange(1 << 16) << 8, 24))

    def __enter__(self) -> Self:
        try:
            self.router = self._host("router", "router", "")
            for bridge, tap in (("clients", "tapc"), ("servers", "taps")):
                self.router.ip("link", "add", bridge, "type", "bridge")
                self.router.ip("tuntap", "add", "dev", tap, "mode", "tap")
                self.router.ip("link", "set", tap, "master", bridge)
                for device in (bridge, tap):
                    self.router.ip("link", "set", device, "up")
            self.server = self.add_host("server", "servers", str(SERVER_NET[self.draws.randrange(10, 20)]))
            self.router.start([
                sys.executable, str(HERE / "link.py"), "tapc", "taps",
                "--delay", str(self.impairment.delay_ms), "--jitter", str(self.impairment.jitter_ms),
                "--loss", str(self.impairment.loss_percent), "--seed", str(self.draws.randrange(1 << 30)),
            ])  # fmt: skip
            for tap, rate in (("taps", self.impairment.down_kbit), ("tapc", self.impairment.up_kbit)):
                command(["tc", "-n", self.router.namespace, "qdisc", "add", "dev", tap, "root", "tbf",
                         "rate", f"{rate}kbit", "burst", "8kb", "latency", "200ms"])  # fmt: skip
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in reversed(self.hosts):
            for signal_number in (signal.SIGTERM, signal.SIGKILL):
                for process in command(["ip", "netns", "pids", host.namespace], check=False).split():
                    with contextlib.suppress(ProcessLookupError, ValueError):
                        os.kill(int(process), signal_number)
                if signal_number == signal.SIGTERM:
                    time.sleep(0.1)
            command(["ip", "netns", "del", host.namespace], check=False)
            shutil.rmtree(Path("/etc/netns", host.namespace), ignore_errors=True)
        self.hosts.clear()

    def _host(self, role: str, name: str, address: str) -> Host:
        host = Host(f"loom{os.getpid() % 10000}-{self.name}-{role}", name, address, self.home / role)
        self.hosts.append(host)
        return host

    def add_host(self, role: str, side: str, address: str = "", prefix: int = 32) -> Host:
        """Adds a machine to one side (`clients` or `servers`), its address, TTL and ports drawn where not given."""
        draws = self.draws
        taken = {host.address for host in self.hosts}
        while not address or address in taken:
            pool = self._client_net if side == "clients" else SERVER_NET
            address = str(pool[draws.randrange(2, 250) if side == "clients" else draws.randrange(10, 20)])
        host = self._host(role, f"node-{draws.randrange(1000, 9999)}", address)
        self.router.ip("link", "add", role, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        for namespace, device in ((self.router.namespace, role), (host.namespace, "eth0")):
            offload = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"]
            command(["ip", "netns", "exec", namespace, "ethtool", "-K", device, *offload])
        self.router.ip("link", "set", role, "master", side, "up")
        host.ip("address", "add", f"{address}/{prefix}", "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        host.ip("route", "replace", str(SERVER_NET), "dev", "eth0", "src", address)
        host.ip("route", "replace", str(CLIENT_NET), "dev", "eth0", "src", address)
        if side == "clients":
            host.knows(self.server)
        first = draws.randrange(20000, 50000)
        host.sysctl("net.ipv4.ip_local_port_range", f"{first} {first + 9999}")
        host.sysctl("net.ipv4.ip_default_ttl", str(draws.choice([64, 64, 128]) - draws.randrange(1, 20)))
        return host

    def capture(self, file: Path, bpf: str, snap: int, nanoseconds: bool) -> "subprocess.Popen[bytes]":
        """Starts a capture on the clients' end of the link; ending the process completes the file."""
        words = ["tcpdump", "-i", "tapc", "-n", "-U", "-Z", "root", "-s", str(snap), "-w", str(file)]
        precision = ["--time-stamp-precision", "nano"] if nanoseconds else []
        return self.router.start([*words, *precision, f"ip and ({bpf})"])
