"""Files by URL: found, read and written on any filesystem, and no URL carries a secret."""

import bz2
import functools
import gzip
import http.server
import lzma
import threading

import fsspec
import pytest
import zstandard
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.capture_files import (
    CaptureError,
    capture_digest,
    capture_fingerprint,
    capture_sha256,
    match_captures,
)
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.io.filesystems import download, exists, find, locate, upload

CAPTURE = pcap([(at, ethernet(ipv4(udp(bytes(40), 1000 + at, 53), "10.0.0.1", "10.0.0.2", 17))) for at in range(50)])
STORED = {"plain": CAPTURE, "gz": gzip.compress(CAPTURE), "xz": lzma.compress(CAPTURE), "bz2": bz2.compress(CAPTURE),
          "zst": zstandard.compress(CAPTURE)}  # fmt: skip


@pytest.fixture
def memory():
    """A filesystem in memory, with a few files."""
    files = fsspec.filesystem("memory")
    for name in ("a/1.pcap", "a/2.pcap", "a/b/3.pcap", "a/notes.txt", "a/[x].pcap"):
        files.pipe_file(f"/{name}", name.encode())
    yield files
    files.rm("/a", recursive=True)


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("a/*.pcap", ["a/1.pcap", "a/2.pcap", "a/[x].pcap"]),
        ("a/**/*.pcap", ["a/1.pcap", "a/2.pcap", "a/[x].pcap", "a/b/3.pcap"]),
        ("a/?.pcap", ["a/1.pcap", "a/2.pcap"]),
        ("a/[!1x].pcap", ["a/2.pcap"]),
        ("a/b/3.pcap", ["a/b/3.pcap"]),
        ("a/b", []),
        ("nowhere/*.pcap", []),
    ],
)
def test_globs_find_what_they_find_on_disk(memory, tmp_path, glob, names):
    for path in memory.find("/a"):
        (tmp_path / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.lstrip("/")).touch()
    assert find(f"memory://{glob}") == [f"memory://{name}" for name in names]
    assert match_captures(f"{tmp_path}/{glob}") == [f"{tmp_path}/{name}" for name in names]


@pytest.mark.parametrize("kind", STORED)
def test_captures_are_read_as_from_disk(tmp_path, kind):
    (tmp_path / kind).write_bytes(STORED[kind])
    fsspec.filesystem("memory").pipe_file(f"/stored/{kind}", STORED[kind])
    url = f"memory://stored/{kind}"
    capture = CaptureBytes(url)
    assert capture.window.tobytes() == CAPTURE
    assert (capture.complete, capture.damage, capture.size) == (True, None, len(STORED[kind]))
    capture.close()
    assert capture_digest(url) == capture_digest(str(tmp_path / kind))
    assert capture_fingerprint(url) == capture_fingerprint(str(tmp_path / kind))


def test_captures_come_over_http(tmp_path):
    (tmp_path / "a.pcap").write_bytes(CAPTURE)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/a.pcap"
    assert match_captures(url) == [url]
    assert match_captures(url.replace("a.pcap", "b.pcap")) == []
    assert capture_sha256(url) == capture_sha256(str(tmp_path / "a.pcap"))
    server.shutdown()
    server.server_close()


def test_what_is_sent_comes_back(tmp_path):
    (tmp_path / "file").write_bytes(CAPTURE)
    upload(str(tmp_path / "file"), "memory://up/deep/file")
    assert exists("memory://up/deep/file")
    assert not exists("memory://up/deep")
    download("memory://up/deep/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == CAPTURE


def test_a_missing_file_is_unreadable():
    with pytest.raises(CaptureError, match="cannot open the file") as failure:
        CaptureBytes("memory://nowhere.pcap")
    assert failure.value.reason == RejectReason.UNREADABLE


@pytest.mark.parametrize("url", ["s3://AKIA:abc@bucket/x", "s3://bucket/x?access_key=AKIA&secret_key=abc",
                                 "https://u:abc@host/x", "https://store/x?X-Amz-Signature=abc"])  # fmt: skip
def test_secrets_are_refused_and_not_repeated(url):
    with pytest.raises(FlowloomError, match="must not carry credentials") as failure:
        locate(url)
    assert "abc" not in str(failure.value)


def test_an_unknown_scheme_is_named():
    with pytest.raises(FlowloomError, match=r"scheme must be one of .* s3, .*got foo://"):
        find("foo://bucket/*.pcap")
