"""Web pages, HTTP/3, downloads and FTP."""

import os
import random
from pathlib import Path

from lab import DOMAIN, HERE, Host, Lab
from pace import size, think

OBJECTS = 60
FILES = 8
NGINX = """
pid {home}/nginx.pid; error_log {home}/error.log; worker_processes 1; daemon off; user root;
events {{ worker_connections 256; }}
http {{
  access_log off; types {{ text/html html; application/vnd.apple.mpegurl m3u8; video/mp2t ts; }}
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  server {{
    listen {listen}; root {root};
    ssl_certificate {keys}/server.crt; ssl_certificate_key {keys}/server.key; ssl_protocols TLSv1.2 TLSv1.3;
    location /media {{ alias {shared}/media; }}
  }}
}}
"""


def site(lab: Lab) -> Path:
    """Writes the session's objects and large files, of drawn sizes and incompressible content; return their root."""
    root = lab.server.home / "www"
    root.mkdir(exist_ok=True)
    for number in range(OBJECTS):
        (root / f"object-{number}").write_bytes(os.urandom(size(lab.draws, 4000 * max(lab.scale, 0.4), 1.0, 60_000)))
    for number in range(FILES):
        (root / f"file-{number}").write_bytes(os.urandom(size(lab.draws, 110_000, 0.5, 300_000)))
    return root


def serve_nginx(lab: Lab, listen: str = "443 ssl http2") -> None:
    """Starts nginx, by default with TLS on port 443."""
    home = lab.server.home
    settings = home / "nginx.conf"
    settings.write_text(
        NGINX.format(home=home, root=site(lab), keys=lab.shared / "keys", shared=lab.shared, listen=listen)
    )
    lab.server.start(["nginx", "-c", str(settings), "-p", str(home)])
    lab.server.wait_for_port(int(listen.partition(" ")[0].rpartition(":")[2]))


def curl(lab: Lab, host: Host, *words: str) -> int:
    """Runs curl on a host, trusting the laboratory's authority."""
    common = ["curl", "--silent", "--show-error", "--fail", "--max-time", "40", "--output", "/dev/null"]
    return host.run([*common, "--cacert", f"{lab.shared}/keys/ca.crt", *words])


def url(lab: Lab, path: str, scheme: str = "https", port: str = "") -> str:
    """Returns the address of a path on the session's server."""
    return f"{scheme}://{lab.server.name}.{DOMAIN}{port}/{path}"


def browse_pages(lab: Lab, host: Host, draws: random.Random) -> None:
    """Opens a few pages: a document, then its objects, over several HTTP/1.1 connections or one of HTTP/2."""
    for _ in range(draws.randrange(2, 5) if lab.scale == 1 else 2):
        version = draws.choice(["--http1.1", "--http1.1", "--http2"])
        curl(lab, host, version, url(lab, f"object-{draws.randrange(OBJECTS)}"))
        names = draws.sample(range(OBJECTS), max(3, int(draws.randrange(5, 14) * lab.scale)))
        objects = [word for name in names for word in ("--output", "/dev/null", url(lab, f"object-{name}"))]
        curl(lab, host, version, "--parallel", "--parallel-immediate", "--parallel-max",
             str(draws.choice([4, 6])), *objects[2:])  # fmt: skip
        think(draws, 1.5)


def download(lab: Lab, host: Host, draws: random.Random) -> None:
    """Downloads a few large files, some with a limited rate."""
    for _ in range(draws.randrange(2, 4) if lab.scale > 0.3 else 1):
        limit = draws.choice([[], [], ["--limit-rate", f"{draws.randrange(50, 150)}k"]])
        part = ["--range", f"0-{int(180_000 * lab.scale)}"] if lab.scale < 1 else []
        curl(lab, host, *limit, *part, url(lab, f"file-{draws.randrange(FILES)}"))
        think(draws, 1.5)


def serve_http3(lab: Lab) -> None:
    """Starts the HTTP/3 server of aioquic's protocol stack on UDP port 443."""
    words = ["http3-server", f"{lab.shared}/keys/server.crt", f"{lab.shared}/keys/server.key", str(site(lab))]
    lab.server.start([f"{lab.shared}/venv/bin/python", str(HERE / "peers.py"), *words])
    lab.server.wait_for_port(443, "udp")


def browse_http3(lab: Lab, host: Host, draws: random.Random) -> None:
    """Opens a few pages, each over a QUIC connection of its own."""
    for _ in range(draws.randrange(3, 6) if lab.scale == 1 else 3):
        names = draws.sample(range(OBJECTS), max(3, int(draws.randrange(4, 12) * lab.scale)))
        words = ["http3-client", f"{lab.server.name}.{DOMAIN}", f"{lab.shared}/keys/ca.crt"]
        host.run(
            [f"{lab.shared}/venv/bin/python", str(HERE / "peers.py"), *words, *(f"/object-{name}" for name in names)]
        )
        think(draws, 1.0)


VSFTPD = """
listen=YES
anonymous_enable=YES
anon_root={root}
no_anon_password=YES
ftpd_banner=files
pasv_min_port={first}
pasv_max_port={last}
seccomp_sandbox=NO
background=NO
secure_chroot_dir={home}/empty
xferlog_enable=NO
"""


def serve_ftp(lab: Lab) -> None:
    """Starts vsftpd with anonymous access and passive data connections."""
    home = lab.server.home
    root = site(lab)
    (home / "empty").mkdir(exist_ok=True)
    for directory in (root, *root.parents):
        if directory.is_relative_to(lab.shared.parent):
            directory.chmod(0o755)
    first = lab.draws.randrange(30000, 60000)
    settings = home / "vsftpd.conf"
    settings.write_text(VSFTPD.format(home=home, root=root, first=first, last=first + 500))
    lab.server.start(["vsftpd", str(settings)])
    lab.server.wait_for_port(21)


def fetch_by_ftp(lab: Lab, host: Host, draws: random.Random) -> None:
    """Lists and fetches files; each listing and file is a data connection of its own."""
    for _ in range(2):
        pool = [f"object-{number}" for number in range(OBJECTS)] + [f"file-{number}" for number in range(FILES)]
        names = draws.sample(pool[: OBJECTS + (FILES if lab.scale == 1 else 0)], draws.randrange(3, 7))
        steps = "; ".join(f"get {name} -o /dev/null; sleep {draws.randrange(0, 2)}" for name in names)
        settings = "set ftp:ssl-allow no; set net:timeout 10; set net:max-retries 2; set cmd:fail-exit no"
        server = f"{lab.server.name}.{DOMAIN}"
        host.run(["lftp", "-e", f"{settings}; ls; {steps}; bye", "-u", "anonymous,guest", server])
        think(draws, 1.0)
