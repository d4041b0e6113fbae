"""Record the embedded corpus: real programs in network namespaces, one capture a session.

Usage, as root on Debian 12:  python tests/corpus/record.py --out DIR [--only SCENARIO] [--sessions N]

A session is one application (or attack) once: new hosts, addresses, ports, sizes, think times, line. Its draws come
from `--seed` and the session's name; the timing of real programs does not repeat.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import gzip
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import attacks
import media
from lab import DOMAIN, Host, Lab, command
from scenarios import APPS, Visit
from tunnels import open_tunnels

TOOLS = {
    "nginx": "nginx-light libnginx-mod-rtmp", "curl": "curl", "openvpn": "openvpn", "wireguard-go": "wireguard-go",
    "wg": "wireguard-tools", "dnsmasq": "dnsmasq-base", "dig": "bind9-dnsutils", "vsftpd": "vsftpd", "lftp": "lftp",
    "sipp": "sip-tester", "dovecot": "dovecot-imapd", "mosquitto": "mosquitto", "mosquitto_pub": "mosquitto-clients",
    "sshd": "openssh-server", "ssh": "openssh-client", "ffmpeg": "ffmpeg", "stunnel4": "stunnel4", "hping3": "hping3",
    "minidlnad": "minidlna", "iptables": "iptables", "openssl": "openssl", "ethtool": "ethtool", "ip": "iproute2",
    "sysctl": "procps", "tcpdump": "tcpdump", "xz": "xz-utils", "zstd": "zstd",
}  # fmt: skip
"""Program -> Debian package(s) that bring it."""
LIBRARIES = ("aioquic==1.7.2", "websockets==17.4", "aiosmtpd==1.4.6")
"""Requirements of `peers.py` from the Python package index, installed in a separate environment."""

TUNNELS = ("plain", "openvpn", "wireguard")
FULL_PACKETS = 262_144
SNAP = {"plain": 74, "openvpn": 50, "wireguard": 50, "attack": 74, "benign": 74}
"""Bytes kept of a packet in most sessions, by what is captured: headers (50 has those of tunnels) and little more."""
LONG_SNAP = {
    ("plain", 1): FULL_PACKETS, ("plain", 2): 192, ("openvpn", 1): 160, ("wireguard", 1): 160,
    ("attack", 1): 320, ("benign", 1): 320,
}  # fmt: skip
"""Bytes kept of a packet in sessions for models of bytes; those sessions move less."""
SMALL_SCALE, ATTACK_SCALE, TUNNEL_SCALE = 0.25, 0.5, 0.5
"""Amount of traffic of clients in those sessions, during an attack, and in a tunnel, as a share of the usual."""
SMALL_CLIENTS, TUNNEL_CLIENTS = 2, 6
"""Clients in those sessions and in tunnels, where each is one flow."""
ENDINGS = {1: ".pcap.zst", 2: ".pcapng.gz", 3: ".pcap.zst", 4: ".pcap.xz", 5: ".pcap.zst", 6: ".pcap.zst"}
UNPACKED = {("dns", 6): ".pcap", ("mqtt", 6): ".pcapng", ("ssh", 6): ".pcap"}
"""Sessions of small applications that stay unpacked, for readers of plain files to have some."""
LEAST_BYTES = 2000
"""A capture with less than this is a session that failed."""
NANOSECONDS = 5
"""The session whose time stamps have nanoseconds."""


@dataclasses.dataclass(frozen=True)
class Session:
    """One session: `app` names an application or an attack, `tunnel` is "attack" for the latter."""

    traffic: str
    app: str
    tunnel: str
    number: int

    @property
    def name(self) -> str:
        """Short name, unique among the sessions of a recording."""
        return f"{self.app.replace('_', '')}-{self.tunnel[0]}{self.number}"

    def file(self, out: Path, what: str) -> Path:
        """Returns where the capture goes: its path says what it is."""
        ending = UNPACKED.get((self.app, self.number)) if self.tunnel == "plain" else None
        return out / self.traffic / self.app / f"{what}-{self.number:02d}{ending or ENDINGS[(self.number - 1) % 6 + 1]}"


def plan(only: str, count: int, seed: int) -> list[Session]:
    """Returns the sessions to record in random order, so that no class has a typical time of day."""
    sessions = [
        Session(app.traffic, name, tunnel, number)
        for name, app in APPS.items() for tunnel in TUNNELS for number in range(1, count + 1)
    ]  # fmt: skip
    sessions += [Session("attack", name, "attack", n) for name in attacks.ATTACKS for n in range(1, count + 1)]
    names = set(only.split(",")) - {""}
    chosen = [session for session in sessions if not names or names & {session.app, session.name}]
    random.Random(seed).shuffle(chosen)
    return chosen


def prepare(shared: Path) -> None:
    """Makes what all sessions share: keys, the environment of `peers.py`, media."""
    keys = shared / "keys"
    keys.mkdir(parents=True)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command(["openssl", "req", "-x509", *curve, "-days", "3650", "-subj", "/CN=Laboratory authority",
             "-keyout", f"{keys}/ca.key", "-out", f"{keys}/ca.crt"])  # fmt: skip
    for role, usage in (("server", "serverAuth"), ("client", "clientAuth")):
        command(["openssl", "req", *curve, "-subj", f"/CN={role}.{DOMAIN}", "-keyout", f"{keys}/{role}.key",
                 "-out", f"{keys}/{role}.csr"])  # fmt: skip
        extensions = keys / f"{role}.ext"
        extensions.write_text(f"subjectAltName=DNS:*.{DOMAIN}\nextendedKeyUsage={usage}\nkeyUsage=digitalSignature\n")
        authority = ["-CA", f"{keys}/ca.crt", "-CAkey", f"{keys}/ca.key"]
        command(["openssl", "x509", "-req", "-in", f"{keys}/{role}.csr", *authority, "-days", "3650",
                 "-extfile", str(extensions), "-out", f"{keys}/{role}.crt"])  # fmt: skip
    for role in ("ssh_host", "ssh_client"):
        command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "laboratory", "-f", f"{keys}/{role}"])
    command([sys.executable, "-m", "venv", f"{shared}/venv"])
    command([f"{shared}/venv/bin/pip", "install", "--quiet", *LIBRARIES], 600)
    media.make_media(shared / "media")


def record(session: Session, work: Path, out: Path, seed: int) -> None:
    """Records one session and packs its captures."""
    draws = random.Random(f"{seed}/{session.app}/{session.tunnel}/{session.number}")
    home = Path(tempfile.mkdtemp(prefix=f"{session.name}-", dir=work))
    home.chmod(0o755)
    small = (session.tunnel, session.number) in LONG_SNAP
    scale = {"attack": ATTACK_SCALE, "plain": 1.0}.get(session.tunnel, TUNNEL_SCALE)
    scale = SMALL_SCALE if small else scale
    captures: dict[str, Path] = {}

    with Lab(session.name, home, work / "shared", draws, scale) as lab:
        recorders = []

        def capture(what: str, bpf: str) -> None:
            captures[what] = home / f"{what}.pcap"
            snap = LONG_SNAP.get((what, session.number), SNAP[what])
            recorders.append(lab.capture(captures[what], bpf, snap, session.number == NANOSECONDS))

        if session.tunnel == "attack":
            attacks.serve_all(lab)
            attack = attacks.ATTACKS[session.app](lab, draws)
            clients = [lab.add_host(f"client{number}", "clients") for number in range(len(attacks.BENIGN))]
            capture("attack", attack.bpf)
            capture("benign", f"(tcp or udp) and not udp port 1900 and not ({attack.bpf})")
            visits: list[Callable[[], None]] = [attack.run]
            jobs = list(zip(attacks.BENIGN, clients, strict=True))
        else:
            app = APPS[session.app]
            app.serve(lab)
            count = SMALL_CLIENTS if small else app.clients if session.tunnel == "plain" else TUNNEL_CLIENTS
            clients = [lab.add_host(f"client{number}", "clients") for number in range(count)]
            capture(session.tunnel, "tcp or udp")
            time.sleep(0.5)
            if session.tunnel != "plain":
                open_tunnels(session.tunnel, lab, clients, draws)
            visits = []
            jobs = [(app.visit, client) for client in clients]
        for visit, client in jobs:
            own = random.Random(draws.random())
            visits.append(functools.partial(visit_later, visit, lab, client, own))
        time.sleep(0.5)
        run_together(visits)
        time.sleep(0.5)
        for recorder in recorders:
            os.killpg(recorder.pid, signal.SIGTERM)
            recorder.wait(10)
    for what, file in captures.items():
        if file.stat().st_size < LEAST_BYTES:
            raise RuntimeError(f"{what} has {file.stat().st_size} bytes; see {home}")
        pack(file, session.file(out, what))


def visit_later(visit: Visit, lab: Lab, client: Host, draws: random.Random) -> None:
    """Makes one client's visit, after a pause of its own, so that clients do not start in step."""
    time.sleep(draws.uniform(0, 1.5))
    visit(lab, client, draws)


def run_together(jobs: list[Callable[[], None]]) -> None:
    """Runs jobs at the same time, to their ends; raises the first failure."""
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        for job in [pool.submit(job) for job in jobs]:
            job.result()


def pack(pcap: Path, target: Path) -> None:
    """Writes a finished capture in the format its target's name says."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for older in target.parent.glob(target.name.partition(".")[0] + ".*"):
        older.unlink()
    content = as_pcapng(pcap.read_bytes()) if ".pcapng" in target.name else pcap.read_bytes()
    if target.suffix == ".gz":
        content = gzip.compress(content, 9, mtime=0)
    elif target.suffix in (".zst", ".xz"):
        tool = ["zstd", "-19", "-q", "-c"] if target.suffix == ".zst" else ["xz", "-9e", "-c"]
        content = subprocess.run(tool, input=content, stdout=subprocess.PIPE, check=True).stdout
    target.write_bytes(content)


def as_pcapng(pcap: bytes) -> bytes:
    """Converts a little-endian pcap with microseconds to pcapng: section, interface and packet blocks, no options."""
    magic, _, _, _, _, snap, network = struct.unpack_from("<IHHiIII", pcap)
    if magic != 0xA1B2C3D4:
        raise ValueError(f"pcap magic must be 0xa1b2c3d4, got {magic:#x}")

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)

    section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
    parts = [block(0x0A0D0D0A, section), block(1, struct.pack("<HHI", network, 0, snap))]
    at = 24
    while at < len(pcap):
        seconds, micros, kept, length = struct.unpack_from("<IIII", pcap, at)
        stamp = seconds * 1_000_000 + micros
        head = struct.pack("<IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, kept, length)
        parts.append(block(6, head + pcap[at + 16 : at + 16 + kept]))
        at += 16 + kept
    return b"".join(parts)


def main() -> None:
    """Records what the command line asks for; two tries a session."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for the captures")
    parser.add_argument("--only", default="", help="applications, attacks or sessions, such as dns,sip-p1")
    parser.add_argument("--sessions", type=int, default=6, help="sessions of each application, tunnel and attack")
    parser.add_argument("--jobs", type=int, default=4, help="sessions at the same time")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep-work", action="store_true", help="keep the working directory with the programs' logs")
    wanted = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if absent := [tool for tool in TOOLS if not shutil.which(tool)]:
        sys.exit(f"missing: {', '.join(absent)}; apt-get install {' '.join(TOOLS[tool] for tool in absent)}")
    if os.geteuid():
        sys.exit("network namespaces need root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    out = wanted.out.resolve()
    work = Path(tempfile.mkdtemp(prefix="loom-"))
    work.chmod(0o755)
    sessions = plan(wanted.only, wanted.sessions, wanted.seed)
    failed, lock = [], threading.Lock()

    def attempt(session: Session) -> None:
        for turn in (1, 2):
            start = time.monotonic()
            try:
                record(session, work, out, wanted.seed)
            except Exception:
                print(f"{session.name}: try {turn} failed\n{traceback.format_exc()}", file=sys.stderr)
                continue
            print(f"{session.name}: recorded in {time.monotonic() - start:.0f} s", flush=True)
            return
        with lock:
            failed.append(session.name)

    try:
        prepare(work / "shared")
        with concurrent.futures.ThreadPoolExecutor(wanted.jobs) as pool:
            list(pool.map(attempt, sessions))
    finally:
        if not wanted.keep_work:
            shutil.rmtree(work, ignore_errors=True)
    if failed:
        sys.exit(f"not recorded: {', '.join(failed)}")


if __name__ == "__main__":
    main()
