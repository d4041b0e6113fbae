"""Programs made of Python libraries that run inside the laboratory: HTTP/3, WebSocket chat, SMTP server, IMAP client.

Each is a subcommand, `python peers.py NAME ARGUMENT...`; they need aioquic, websockets and aiosmtpd, which the
recorder installs into an environment of its own.
"""

import asyncio
import imaplib
import logging
import os
import random
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def client_context(authority: str) -> ssl.SSLContext:
    """Returns a TLS client context that trusts one authority alone."""
    return ssl.create_default_context(cafile=authority)


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Returns a TLS server context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def http3_server(certificate: str, key: str, root: str) -> None:
    """Serve the files of a directory over HTTP/3 on UDP port 443."""
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.asyncio.server import serve
    from aioquic.h3.connection import H3_ALPN, H3Connection
    from aioquic.h3.events import H3Event, HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import ProtocolNegotiated, QuicEvent

    class Server(QuicConnectionProtocol):
        http: H3Connection | None = None

        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, ProtocolNegotiated):
                self.http = H3Connection(self._quic)
            for answer in self.http.handle_event(event) if self.http else []:
                self.answer(answer)

        def answer(self, event: H3Event) -> None:
            if isinstance(event, HeadersReceived) and self.http:
                name = dict(event.headers)[b":path"].decode().lstrip("/")
                body = Path(root, Path(name).name).read_bytes()
                headers = [(b":status", b"200"), (b"content-length", str(len(body)).encode())]
                self.http.send_headers(event.stream_id, headers)
                self.http.send_data(event.stream_id, body, end_stream=True)
                self.transmit()

    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(certificate, key)
    await serve("0.0.0.0", 443, configuration=configuration, create_protocol=Server)
    await asyncio.Future()


async def http3_client(server: str, authority: str, *paths: str) -> None:
    """Get paths over one HTTP/3 connection: the first alone, the others together."""
    from aioquic.asyncio.client import connect
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.h3.connection import H3_ALPN, H3Connection
    from aioquic.h3.events import DataReceived, HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import QuicEvent

    class Client(QuicConnectionProtocol):
        def __init__(self, *arguments: object, **keywords: object) -> None:
            super().__init__(*arguments, **keywords)  # type: ignore[arg-type]
            self.http = H3Connection(self._quic)
            self.done: dict[int, asyncio.Future[None]] = {}

        def quic_event_received(self, event: QuicEvent) -> None:
            for answer in self.http.handle_event(event):
                if isinstance(answer, DataReceived | HeadersReceived) and answer.stream_ended:
                    self.done[answer.stream_id].set_result(None)

        async def get(self, path: str) -> None:
            stream = self._quic.get_next_available_stream_id()
            words = {":method": "GET", ":scheme": "https", ":authority": server, ":path": path, "user-agent": "loom"}
            self.http.send_headers(stream, [(k.encode(), v.encode()) for k, v in words.items()], end_stream=True)
            self.done[stream] = asyncio.get_running_loop().create_future()
            self.transmit()
            await asyncio.wait_for(self.done[stream], 20)

    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, cafile=authority, server_name=server)
    async with connect(server, 443, configuration=configuration, create_protocol=Client) as client:
        assert isinstance(client, Client)
        await client.get(paths[0])
        await asyncio.gather(*map(client.get, paths[1:]))


async def chat_server(certificate: str, key: str) -> None:
    """Passes every message of a WebSocket chat room on to the others in the room."""
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    rooms: dict[str, set[ServerConnection]] = {}

    async def talk(connection: ServerConnection) -> None:
        room = rooms.setdefault(connection.request.path if connection.request else "", set())
        room.add(connection)
        try:
            async for message in connection:
                broadcast(room - {connection}, message)
        finally:
            room.discard(connection)

    async with serve(talk, "0.0.0.0", 443, ssl=server_context(certificate, key)):
        await asyncio.Future()


async def chat_client(server: str, authority: str, room: str, seconds: str, seed: str) -> None:
    """Takes part in a chat: say something every few seconds, in bursts, and read what the others say."""
    from websockets.asyncio.client import connect

    draws = random.Random(seed)
    end = time.monotonic() + float(seconds)
    async with connect(f"wss://{server}/{room}", ssl=client_context(authority)) as connection:

        async def listen() -> None:
            async for _ in connection:
                pass

        listener = asyncio.create_task(listen())
        while time.monotonic() < end:
            for _ in range(draws.choice([1, 1, 1, 2, 3])):
                await connection.send(os.urandom(int(min(draws.lognormvariate(4.2, 0.9), 4000))).hex())
                await asyncio.sleep(draws.uniform(0.1, 0.6))
            await asyncio.sleep(min(draws.expovariate(0.7), 4))
        listener.cancel()


def smtp_server(certificate: str, key: str, domain: str) -> None:
    """Accepts all mail on port 587, with STARTTLS, and forgets it."""
    from aiosmtpd.controller import UnthreadedController
    from aiosmtpd.handlers import Sink

    loop = asyncio.new_event_loop()
    context = server_context(certificate, key)
    UnthreadedController(
        Sink(), hostname="0.0.0.0", port=587, loop=loop, server_hostname=domain, tls_context=context, ident="ESMTP"
    ).begin()
    loop.run_forever()


def imap_client(server: str, authority: str, seed: str) -> None:
    """Reads mail like a mail program: list, read some messages with pauses, look for new ones, flag, leave."""
    draws = random.Random(seed)
    mailbox = imaplib.IMAP4_SSL(server, ssl_context=client_context(authority), timeout=20)
    mailbox.login("reader", "loom")
    mailbox.list()
    count = int((mailbox.select("INBOX")[1][0] or b"1").decode())
    mailbox.fetch(f"1:{count}", "(UID FLAGS RFC822.SIZE BODY.PEEK[HEADER.FIELDS (FROM SUBJECT DATE)])")
    for _ in range(draws.randrange(2, 5)):
        time.sleep(min(draws.expovariate(0.8), 4))
        number = str(draws.randrange(1, count + 1))
        mailbox.fetch(number, "(BODY[TEXT])")
        mailbox.store(number, "+FLAGS", "\\Seen")
        mailbox.noop()
    mailbox.logout()


PROGRAMS: dict[str, Callable[..., Any]] = {
    "http3-server": http3_server,
    "http3-client": http3_client,
    "chat-server": chat_server,
    "chat-client": chat_client,
    "smtp-server": smtp_server,
    "imap-client": imap_client,
}

if __name__ == "__main__":
    program = PROGRAMS[sys.argv[1]]
    outcome = program(*sys.argv[2:])
    if outcome is not None:
        asyncio.run(outcome)
