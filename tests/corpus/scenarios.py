"""The applications: which server each one needs, and what a client of it does.

`serve` starts the server program on the server host, once a session. `visit` is one client's whole visit; it blocks,
draws its think times and sizes from the given generator and moves more or less by the laboratory's `scale`.
"""

import dataclasses
import random
from collections.abc import Callable

import dialogues
import media
import web
from lab import Host, Lab

Serve = Callable[[Lab], None]
Visit = Callable[[Lab, Host, random.Random], None]


@dataclasses.dataclass(frozen=True)
class App:
    """One application of the corpus."""

    traffic: str
    serve: Serve
    visit: Visit
    clients: int = 3
    """Hosts that use it at the same time in one session."""


APPS: dict[str, App] = {
    "nginx": App("web", web.serve_nginx, web.browse_pages),
    "http3": App("web", web.serve_http3, web.browse_http3),
    "download": App("transfer", web.serve_nginx, web.download),
    "ftp": App("transfer", web.serve_ftp, web.fetch_by_ftp),
    "scp": App("transfer", dialogues.serve_ssh, dialogues.copy_by_scp),
    "ssh": App("terminal", dialogues.serve_ssh, dialogues.type_in_ssh),
    "dns": App("lookup", dialogues.serve_dns, dialogues.look_up),
    "websocket": App("chat", dialogues.serve_websocket, dialogues.chat_by_websocket),
    "mqtt": App("chat", dialogues.serve_mqtt, dialogues.chat_by_mqtt),
    "smtp": App("mail", dialogues.serve_smtp, dialogues.send_mail),
    "imap": App("mail", dialogues.serve_imap, dialogues.read_mail),
    "hls": App("streaming", web.serve_nginx, media.watch_hls),
    "rtmp": App("streaming", media.serve_rtmp, media.watch_rtmp),
    "sip": App("voip", media.serve_sip, media.call),
}
