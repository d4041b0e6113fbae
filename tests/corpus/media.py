"""Streaming and telephony: HLS over HTTPS, RTMP, and SIP calls with RTP both ways."""

import random
from pathlib import Path

from lab import Host, Lab, command
from pace import think
from web import url

VARIANTS = (60, 110, 180)
"""Video bit rates in kbit/s."""
FFMPEG = ("ffmpeg", "-nostdin", "-loglevel", "error")


def make_media(directory: Path) -> None:
    """Encodes the films (HLS and FLV, 16 s, per bit rate) and the voice (G.711 mu-law) that all sessions share."""
    directory.mkdir()
    for rate in VARIANTS:
        film = str(directory / f"film-{rate}.flv")
        command([
            *FFMPEG, "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=15,noise=alls=12:allf=t",
            "-f", "lavfi", "-i", "anoisesrc=color=brown:amplitude=0.3,tremolo=f=3", "-t", "16",
            "-c:v", "libx264", "-preset", "veryfast", "-g", "30", "-b:v", f"{rate}k", "-maxrate", f"{rate}k",
            "-bufsize", f"{rate}k", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "32k", film,
        ])  # fmt: skip
        command([*FFMPEG, "-i", film, "-c", "copy", "-hls_time", "2", "-hls_list_size", "0",
                 "-hls_segment_filename", str(directory / f"part-{rate}-%02d.ts"),
                 str(directory / f"film-{rate}.m3u8")])  # fmt: skip
    command([*FFMPEG, "-f", "lavfi", "-i", "anoisesrc=color=pink:amplitude=0.4,tremolo=f=4", "-t", "8",
             "-ar", "8000", "-ac", "1", "-f", "mulaw", str(directory / "voice.raw")])  # fmt: skip


def watch_hls(lab: Lab, host: Host, draws: random.Random) -> None:
    """Plays parts of a film at its own speed, over one connection or one a segment."""
    for _ in range(2 if lab.scale == 1 else 1):
        rate = draws.choice(VARIANTS)
        seconds = draws.uniform(3, 7) * max(lab.scale, 0.4)
        host.run([*FFMPEG, "-re", "-http_persistent", str(draws.randrange(2)), "-ca_file",
                  f"{lab.shared}/keys/ca.crt", "-tls_verify", "1", "-i", url(lab, f"media/film-{rate}.m3u8"),
                  "-t", f"{seconds:.1f}", "-c", "copy", "-f", "null", "-"], 40)  # fmt: skip
        think(draws, 1.0)


RTMP = """
load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
pid {home}/nginx.pid; error_log {home}/error.log; worker_processes 1; daemon off; user root;
events {{ worker_connections 64; }}
rtmp {{ access_log off; server {{ listen 1935; application live {{ live on; }} }} }}
"""


def serve_rtmp(lab: Lab) -> None:
    """Starts nginx with its RTMP module, and one live publisher per bit rate on the server itself."""
    home = lab.server.home
    settings = home / "rtmp.conf"
    settings.write_text(RTMP.format(home=home))
    lab.server.start(["nginx", "-c", str(settings), "-p", str(home)])
    lab.server.wait_for_port(1935)
    for rate in VARIANTS:
        lab.server.start([*FFMPEG, "-re", "-stream_loop", "-1", "-i", f"{lab.shared}/media/film-{rate}.flv",
                          "-t", "60", "-c", "copy", "-f", "flv", f"rtmp://127.0.0.1/live/film-{rate}"])  # fmt: skip


def watch_rtmp(lab: Lab, host: Host, draws: random.Random) -> None:
    """Watches live streams for some seconds each; now and then send one instead."""
    for turn in range(2):
        rate, seconds = draws.choice(VARIANTS), f"{draws.uniform(2, 4) * max(lab.scale, 0.4):.1f}"
        if draws.random() < 0.25:
            host.run([*FFMPEG, "-re", "-i", f"{lab.shared}/media/film-{rate}.flv", "-t", seconds, "-c", "copy",
                      "-f", "flv", url(lab, f"live/{host.name}-{turn}", "rtmp")], 30)  # fmt: skip
        else:
            host.run([*FFMPEG, "-i", url(lab, f"live/film-{rate}", "rtmp"), "-t", seconds,
                      "-c", "copy", "-f", "null", "-"], 30)  # fmt: skip
        think(draws, 0.8)


SDP = """v=0
o=- 1 1 IN IP4 [local_ip]
s=call
c=IN IP4 [local_ip]
t=0 0
m=audio [rtpstream_audio_port] RTP/AVP 0
a=rtpmap:0 PCMU/8000
a=sendrecv"""
CALL = """<?xml version="1.0" encoding="UTF-8"?>
<scenario name="call">
<send retrans="500"><![CDATA[
{invite}

]]></send>
<recv response="100" optional="true"/><recv response="180" optional="true"/><recv response="183" optional="true"/>
<recv response="200" rtd="true"/>
<send><![CDATA[
{ack}

]]></send>
<nop><action><exec rtp_stream="{voice},-1,0"/></action></nop>
<pause milliseconds="{milliseconds}"/>
<nop><action><exec rtp_stream="pause"/></action></nop>
<send retrans="500"><![CDATA[
{bye}

]]></send>
<recv response="200" crlf="true"/>
</scenario>
"""
HEAD = """{method} sip:{callee}@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:{caller}@[local_ip]>;tag=[pid]T[call_number]
To: <sip:{callee}@[remote_ip]>{tag}
Call-ID: [call_id]
CSeq: {number} {method}
Contact: <sip:{caller}@[local_ip]:[local_port]>
Max-Forwards: 70
"""


def serve_sip(lab: Lab) -> None:
    """Starts SIPp as the called side; it answers every call and sends the caller's voice back."""
    address = lab.server.address
    lab.server.start(["sipp", "-sn", "uas", "-i", address, "-p", "5060", "-mp", "16384", "-rtp_echo", "-nostdin"])
    lab.server.wait_for_port(5060, "udp")


def call(lab: Lab, host: Host, draws: random.Random) -> None:
    """Makes a few calls of some seconds, each from a signalling and a media port of its own."""
    for _ in range(3 if lab.scale == 1 else 2):
        names = {"caller": f"u{draws.randrange(100, 999)}", "callee": f"u{draws.randrange(100, 999)}"}
        invite = HEAD.format(method="INVITE", tag="", number=1, **names)
        text = CALL.format(
            invite=f"{invite}Content-Type: application/sdp\nContent-Length: [len]\n\n{SDP}",
            ack=HEAD.format(method="ACK", tag="[peer_tag_param]", number=1, **names) + "Content-Length: 0",
            bye=HEAD.format(method="BYE", tag="[peer_tag_param]", number=2, **names) + "Content-Length: 0",
            voice=f"{lab.shared}/media/voice.raw",
            milliseconds=int(1000 * draws.uniform(1.0, 3.0) * max(lab.scale, 0.4)),
        )
        scenario = host.home / "call.xml"
        scenario.write_text(text)
        host.run(["sipp", "-sf", str(scenario), "-i", host.inner, "-p", str(draws.randrange(20000, 60000)), "-m", "1",
                  "-mp", str(2 * draws.randrange(6000, 30000)), "-nostdin", "-timeout", "15",
                  f"{lab.server.address}:5060"], 20)  # fmt: skip
        think(draws, 0.8)
