"""Ends of commands: exit codes, one sentence for each failure, no litter, no secrets, and JSON lines on request."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(400)

LIMIT_S = 300
CANARY = "CanarySecret9876"
FAILING = """
import sys
from flowloom.pipelines.cli import main
from flowloom.pipelines import flows

def fail(*_):
    raise {error}

flows.meter_captures = fail
main.main()
"""


def started(arguments: list[object], code: str = "", **options) -> subprocess.Popen:
    command = [sys.executable, "-c", code or "from flowloom.pipelines.cli.main import main; main()"]
    return subprocess.Popen([*command, *map(str, arguments)], text=True, **options)


def ended(arguments: list[object], code: str = "", **options) -> tuple[int, str, str]:
    process = started(arguments, code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        ("KeyboardInterrupt", 130, "error: interrupted; unfinished files were removed"),
        (
            "OSError(28, 'No space left on device', '/f')",
            1,
            "error: /f: No space left on device; check the path, its permissions and the free space",
        ),
        ("MemoryError('1 GB')", 1, "error: memory is used up: 1 GB; use fewer workers, or a larger machine"),
        ("BrokenPipeError", 141, ""),
    ],
)
def test_failures_have_codes_and_sentences(tmp_path, error, code, sentence):
    found, out, err = ended(["flows", "x.pcap", "-o", tmp_path / "f.parquet"], FAILING.format(error=error))
    assert (found, out) == (code, "")
    assert err.strip() == sentence


def test_an_internal_error_is_70_and_leaves_its_traceback_in_a_file(tmp_path):
    code = FAILING.format(error=f"KeyError('https://u:{CANARY}@h/x')")
    arguments = ["flows", "x.pcap", "-o", tmp_path / "f.parquet"]
    found, out, err = ended(arguments, code, env={**os.environ, "TMPDIR": str(tmp_path), "FLOWLOOM_DEBUG": "0"})
    (trace,) = tmp_path.glob("flowloom-error-*.txt")
    assert (found, out) == (70, "")
    assert err.strip() == (
        f"error: internal error: KeyError: 'https://***@h/x'; the traceback is in {trace}; please report it"
    )
    assert "Traceback" in trace.read_text()
    assert CANARY not in trace.read_text()
    found, _, err = ended(arguments, code, env={**os.environ, "FLOWLOOM_DEBUG": "1"})
    assert found == 70
    assert "Traceback" in err
    assert CANARY not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_a_build_and_the_next_one_leaves_nothing_else(tmp_path, corpus, manifest, number):
    (corpus / "signals.yaml").write_text(manifest)
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    arguments = ["build", corpus / "signals.yaml", tmp_path / "out", "--workers", "1"]
    # shells make jobs in the background ignore SIGINT, and such a job's children
    process = started(
        arguments,
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from flowloom.pipelines.cli.main import main; main()",
        stderr=subprocess.PIPE,
        env=environment,
    )
    begun = time.monotonic()
    while not list(tmp_path.glob(".out.building-*")) and process.poll() is None:
        assert time.monotonic() - begun < LIMIT_S
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT_S)
    if number == signal.SIGKILL:
        assert process.returncode == -number
        assert ended(arguments, env=environment)[0] == 0
        assert [path.name for path in tmp_path.iterdir() if path.name != "tmp"] == ["out"]
    else:
        assert process.returncode == 128 + number
        assert "unfinished files were removed" in err.splitlines()[-1]
        assert list(tmp_path.iterdir()) == [tmp_path / "tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_closed_stdout_is_141(tmp_path, dataset):
    reader, writer = os.pipe()
    os.close(reader)
    process = started(["verify", dataset], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 141
    assert "Traceback" not in err


def test_names_cannot_send_control_sequences(run, tmp_path, corpus):
    name = "bad\x1b[31m\x9b2J.pcap"
    (tmp_path / name).write_bytes(next((corpus / "web").iterdir()).read_bytes())
    (tmp_path / os.fsdecode(b"not-utf8-\xff.pcap")).write_bytes(b"")
    code, out, err = run("flows", tmp_path / "*.pcap", "-o", tmp_path / "f.parquet")
    assert code == 0
    assert r"bad\x1b[31m\x9b2J.pcap" in err
    assert r"not-utf8-\xff.pcap: unreadable" in err
    code, more_out, more_err = run("build", tmp_path / "\x1b[2J.yaml", tmp_path / "out")
    assert code == 1
    code, usage, more = run("flows", "\x1b[2J", "--\x1b[2J")
    assert code == 2
    assert "\x1b[2J" not in out + err + more_out + more_err + usage + more
    assert "\x9b" not in out + err


def test_secrets_are_refused_and_never_written(run, tmp_path, corpus):
    capture = next((corpus / "web").iterdir())
    outputs = []
    urls = [
        f"http://127.0.0.1:9/x.pcap?X-Amz-Signature={CANARY}",
        f"http://user:{CANARY}@127.0.0.1:9/x.pcap",
        f"http://127.0.0.1:9/x.pcap#token={CANARY}",
    ]
    for number, url in enumerate(urls):
        manifest = tmp_path / f"{number}.yaml"
        manifest.write_text(
            f"name: sec\ncaptures: [{{glob: {capture}, labels: {{app: a}}}}, {{glob: '{url}', labels: {{app: b}}}}]\n"
            "tasks: {app: {kind: multiclass, vocabulary: [a, b]}}\nsplits: {by: flow}\n"
        )
        for command in (
            ("build", manifest, tmp_path / "out"),
            ("build", manifest, tmp_path / "out", "--log-format", "json"),
            ("flows", capture, url, "-o", tmp_path / "f.parquet", "--json"),
            ("build", corpus / "cli.yaml", url),
            ("fetch", url, tmp_path / "fetched"),
        ):
            code, out, err = run(*command)
            assert code == 1, command
            outputs += [out, err]
        manifest.unlink()
    written = [path.read_bytes() for path in Path(tmp_path).rglob("*") if path.is_file()]
    assert CANARY not in "".join(outputs)
    assert not any(CANARY.encode() in content for content in written)


def test_json_lines_report_every_result(run, tmp_path, corpus, dataset):
    code, out, err = run("build", corpus / "cli.yaml", tmp_path / "out", "--log-format", "json", "--json")
    events = [json.loads(line) for line in err.splitlines()]
    assert code == 0
    card = json.loads(out)
    assert all({"time", "job", "event", "message"} <= event.keys() for event in events)
    kinds = [event["event"] for event in events]
    assert kinds.count("capture") == card["accounting"]["captures"]
    assert kinds.count("reject") == card["accounting"]["rejects"]
    assert [event["path"] for event in events if event["event"] == "shard"] == [one["path"] for one in card["shards"]]
    assert [event["content_hash"] for event in events if event["event"] == "card"] == [card["content_hash"]]
    assert kinds[-1] == "end"
    code, _, err = run("build", corpus / "cli.yaml", tmp_path / "out", "--log-format", "json")
    assert code == 1
    assert [json.loads(line)["event"] for line in err.splitlines()][-1] == "error"


def test_a_failure_ends_the_processes_that_the_command_started(tmp_path):
    child = tmp_path / "child"
    begin = f"    import subprocess; open('{child}', 'w').write(str(subprocess.Popen(['sleep', '600']).pid))"
    code = FAILING.replace("    raise", f"{begin}; raise")
    assert ended(["flows", "x.pcap", "-o", tmp_path / "f.parquet"], code.format(error="OSError('x')"))[0] == 1
    status = Path(f"/proc/{child.read_text()}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
