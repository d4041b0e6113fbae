"""SSH, scp, DNS, chat and mail: dialogues of mostly small messages."""

import contextlib
import os
import random
import subprocess
import time

from lab import DOMAIN, HERE, Host, Lab
from pace import size, think
from web import FILES, OBJECTS, curl, site, url


def peer(lab: Lab, *words: str) -> list[str]:
    """Returns the command of one of the programs in `peers.py`."""
    return [f"{lab.shared}/venv/bin/python", str(HERE / "peers.py"), *words]


def server_name(lab: Lab) -> str:
    """Returns the name by which clients know the server."""
    return f"{lab.server.name}.{DOMAIN}"


def serve_ssh(lab: Lab) -> None:
    """Starts OpenSSH with key authentication, and files for scp to fetch."""
    site(lab)
    keys, settings = lab.shared / "keys", lab.server.home / "sshd.conf"
    settings.write_text(
        f"Port 22\nHostKey {keys}/ssh_host\nAuthorizedKeysFile {keys}/ssh_client.pub\nPidFile none\nUsePAM no\n"
        "StrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    lab.server.start(["/usr/sbin/sshd", "-D", "-e", "-f", str(settings)])
    lab.server.wait_for_port(22)


def _ssh_options(lab: Lab) -> list[str]:
    quiet = ["-F", "/dev/null", "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no"]
    return [*quiet, "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10", "-i", f"{lab.shared}/keys/ssh_client"]


LINES = (
    "date", "ls -l /usr/share | head -40", "uptime", "seq 1 120", "cat /etc/services | tail -30", "df -h /tmp",
    "for i in 1 2 3 4; do echo $i; sleep 0.3; done", "ls /usr/bin | wc -l", "grep -c tcp /etc/services",
    "ls -la /etc | head -60", "head -c 3000 /dev/urandom | base64", "free -m", "cal 2>/dev/null || echo none",
)  # fmt: skip


def type_in_ssh(lab: Lab, host: Host, draws: random.Random) -> None:
    """Logs in twice and type commands key by key, with pauses between keys and lines."""
    for _ in range(2):
        shell = "cd /; exec env -i TERM=xterm PATH=/usr/bin:/bin PS1='$ ' bash --norc --noprofile"
        terminal = host.start(["ssh", "-tt", *_ssh_options(lab), f"root@{server_name(lab)}", shell],
                              stdin=subprocess.PIPE)  # fmt: skip
        assert terminal.stdin
        with contextlib.suppress(BrokenPipeError):
            time.sleep(1.0)
            for line in [*draws.sample(LINES, max(1, int(draws.randrange(2, 4) * lab.scale))), "exit"]:
                for key in f"{line}\r":
                    terminal.stdin.write(key.encode())
                    terminal.stdin.flush()
                    time.sleep(min(draws.lognormvariate(-2.6, 0.5), 0.5))
                think(draws, 1.0)
            terminal.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            terminal.wait(10)


def copy_by_scp(lab: Lab, host: Host, draws: random.Random) -> None:
    """Copies a few files from and to the server."""
    root = lab.server.home / "www"
    for _ in range(3):
        large = draws.random() < lab.scale and lab.scale > 0.3  # whole packets of large files would be too many
        name = f"file-{draws.randrange(FILES)}" if large else f"object-{draws.randrange(OBJECTS)}"
        here, there = str(host.home / "copy"), f"root@{server_name(lab)}:{root}"
        ends = [f"{there}/{name}", here] if draws.random() < 0.6 else [str(root / name), f"{there}/up-{host.name}"]
        host.run(["scp", *_ssh_options(lab), *ends])
        think(draws, 1.0)


def serve_dns(lab: Lab) -> None:
    """Starts dnsmasq with a few hundred names of its own and no upstream."""
    zone = lab.server.home / "zone"
    draws = lab.draws
    zone.write_text("".join(
        f"10.{draws.randrange(256)}.{draws.randrange(256)}.{draws.randrange(1, 255)} name-{number}.flowloom.test\n"
        for number in range(300)
    ))  # fmt: skip
    lab.server.start([
        "dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--user=root", f"--addn-hosts={zone}",
        "--local=/flowloom.test/", f"--pid-file={lab.server.home}/dnsmasq.pid",
        "--mx-host=flowloom.test,mx.flowloom.test,10", "--txt-record=flowloom.test,v=spf1 mx -all",
        f"--txt-record=long.flowloom.test,{'thread ' * 30}",
    ])  # fmt: skip
    lab.server.wait_for_port(53, "udp")


def look_up(lab: Lab, host: Host, draws: random.Random) -> None:
    """Asks for names and a few other records, one process and port a question, some over TCP."""
    for _ in range(draws.randrange(15, 28)):
        name, kind = draws.choice([
            (f"name-{draws.randrange(330)}.flowloom.test", "A"), (f"name-{draws.randrange(300)}.flowloom.test", "A"),
            (f"name-{draws.randrange(300)}.flowloom.test", "AAAA"), ("flowloom.test", "MX"),
            (draws.choice(["flowloom.test", "long.flowloom.test"]), "TXT"),
        ])  # fmt: skip
        way = ["+tcp"] if draws.random() < 0.1 else []
        host.run(["dig", f"@{lab.server.address}", "+tries=2", "+time=2", *way, name, kind], 10)
        think(draws, 0.25)


def serve_websocket(lab: Lab) -> None:
    """Starts the WebSocket chat server."""
    keys = lab.shared / "keys"
    lab.server.start(peer(lab, "chat-server", f"{keys}/server.crt", f"{keys}/server.key"))
    lab.server.wait_for_port(443)


def chat_by_websocket(lab: Lab, host: Host, draws: random.Random) -> None:
    """Is in two chat rooms at once, and come back once more to one of them."""
    words = ["chat-client", server_name(lab), f"{lab.shared}/keys/ca.crt"]
    other = host.start(peer(lab, *words, "room-2", str(draws.uniform(6, 12)), str(draws.random())))
    for seconds in (draws.uniform(3, 6), draws.uniform(2, 5)):
        host.run(peer(lab, *words, "room-1", str(seconds), str(draws.random())))
        think(draws, 1.0)
    with contextlib.suppress(subprocess.TimeoutExpired):
        other.wait(15)


def serve_mqtt(lab: Lab) -> None:
    """Starts Mosquitto with TLS on port 8883."""
    keys, settings = lab.shared / "keys", lab.server.home / "mosquitto.conf"
    settings.write_text(
        f"user root\nlistener 8883\nallow_anonymous true\ncafile {keys}/ca.crt\n"
        f"certfile {keys}/server.crt\nkeyfile {keys}/server.key\n"
    )
    lab.server.start(["mosquitto", "-c", str(settings)])
    lab.server.wait_for_port(8883)


def chat_by_mqtt(lab: Lab, host: Host, draws: random.Random) -> None:
    """Subscribes to all topics while publishing short messages, each from a connection of its own."""
    at = ["--cafile", f"{lab.shared}/keys/ca.crt", "-h", server_name(lab), "-p", "8883"]
    reader = host.start(["mosquitto_sub", *at, "-t", "loom/#", "-W", "12", "-q", str(draws.randrange(3))])
    message = host.home / "message"
    for _ in range(draws.randrange(4, 8)):
        message.write_bytes(os.urandom(size(draws, 60, 0.9, 3000)))
        host.run(["mosquitto_pub", *at, "-t", f"loom/{draws.randrange(9)}", "-q", str(draws.randrange(3)),
                  "--repeat", str(draws.randrange(1, 4)), "--repeat-delay", "0.4", "-f", str(message)], 20)  # fmt: skip
        think(draws, 0.8)
    with contextlib.suppress(subprocess.TimeoutExpired):
        reader.wait(15)


def serve_smtp(lab: Lab) -> None:
    """Starts the mail server."""
    keys = lab.shared / "keys"
    lab.server.start(peer(lab, "smtp-server", f"{keys}/server.crt", f"{keys}/server.key", server_name(lab)))
    lab.server.wait_for_port(587)


def send_mail(lab: Lab, host: Host, draws: random.Random) -> None:
    """Sends a few mails over STARTTLS, some with an attachment."""
    for number in range(draws.randrange(3, 6)):
        mail = host.home / "mail"
        mail.write_bytes(letter(draws, number, lab.scale))
        readers = [f"r{draws.randrange(99)}@{DOMAIN}" for _ in range(draws.randrange(1, 4))]
        to = [word for reader in readers for word in ("--mail-rcpt", reader)]
        curl(lab, host, "--ssl-reqd", "--mail-from", f"s{draws.randrange(99)}@{DOMAIN}", *to,
             "--upload-file", str(mail), url(lab, "", "smtp", ":587"))  # fmt: skip
        think(draws, 1.2)


def letter(draws: random.Random, number: int, scale: float) -> bytes:
    """Returns a mail of a drawn length whose body is random letters."""
    head = f"From: sender@{DOMAIN}\r\nTo: reader@{DOMAIN}\r\nSubject: thread {number}\r\n\r\n"
    body = os.urandom(size(draws, 1500 if draws.random() < 0.7 else 15_000 * scale, 0.7, 40_000)).hex()
    return (head + "\r\n".join(body[at : at + 76] for at in range(0, len(body), 76)) + "\r\n").encode()


DOVECOT = """
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/imap.log
protocols = imap
listen = 0.0.0.0
ssl = required
ssl_cert = <{keys}/server.crt
ssl_key = <{keys}/server.key
first_valid_uid = 8
mail_location = maildir:{home}/mail
passdb {{
  driver = static
  args = password=loom
}}
userdb {{
  driver = static
  args = uid=8 gid=8 home={home}/mail
}}
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = 993
    ssl = yes
  }}
}}
"""


def serve_imap(lab: Lab) -> None:
    """Starts Dovecot with a mailbox of drawn mails; user 8 is Debian's `mail`."""
    home = lab.server.home
    for part in ("mail", "mail/new", "mail/cur", "mail/tmp"):
        (home / part).mkdir()
        os.chown(home / part, 8, 8)
    for number in range(12):
        mail = home / "mail" / "cur" / f"1700000000.{number}.node:2,"
        mail.write_bytes(letter(lab.draws, number, 0.3))
        os.chown(mail, 8, 8)
    settings = home / "dovecot.conf"
    settings.write_text(DOVECOT.format(home=home, keys=lab.shared / "keys"))
    lab.server.start(["dovecot", "-F", "-c", str(settings)])
    lab.server.wait_for_port(993)


def read_mail(lab: Lab, host: Host, draws: random.Random) -> None:
    """Reads mail with a mail program's dialogue, and fetch single mails by curl."""
    for _ in range(2 if lab.scale == 1 else 1):
        host.run(peer(lab, "imap-client", server_name(lab), f"{lab.shared}/keys/ca.crt", str(draws.random())))
        for _ in range(draws.randrange(1, 3)):
            think(draws, 0.8)
            curl(lab, host, "--user", "reader:loom", url(lab, f"INBOX;MAILINDEX={draws.randrange(1, 12)}", "imaps"))
