"""Tests of chaos and rehearsal: kills at file operations, fingerprints, traffic of known numbers, a short run."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from chaos_commands import differing, file_digest, fingerprint, litter
from made_traffic import ACK, SYN, Traffic
from reference_meter import reference_meter

from flowloom.schemas.corpus.flow_definition import FlowDefinition

HOSTILE = Path(__file__).resolve().parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HOSTILE.parent / "support"), str(HOSTILE)])}

THREE_WRITES = """
import pathlib, sys
from forked_command import FileEvents
folder, at = pathlib.Path(sys.argv[1]), int(sys.argv[2])
sys.addaudithook(FileEvents(folder, at or None, folder.parent / "count"))
(folder / "a").write_text("1")
(folder / "a").read_text()
(folder.parent / "elsewhere").write_text("1")
(folder / "b").mkdir()
(folder / "a").rename(folder / "c")
"""


@pytest.mark.parametrize(("at", "left"), [(1, []), (2, ["a"]), (3, ["a", "b"]), (0, ["b", "c"])])
def test_a_process_is_killed_before_a_file_operation(tmp_path, at, left):
    folder = tmp_path / "folder"
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", THREE_WRITES, folder, str(at)], env=ENVIRONMENT)
    assert done.returncode == (-9 if at else 0)
    assert sorted(path.name for path in folder.iterdir()) == left
    if not at:
        assert int((tmp_path / "count").read_text()) == 3


KILLED_AT_ONCE = """
import pathlib, sys
from forked_command import run
for _ in range(20):
    ending = run(("--version",), pathlib.Path(sys.argv[1]), kill_after=0)
    assert (ending.code, ending.operations, ending.output) == (-9, 0, ""), ending
"""


def test_a_command_may_be_killed_before_it_does_anything(tmp_path):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    workspace.with_suffix(".log").write_text("of an earlier run")
    workspace.with_suffix(".count").write_text("7")
    done = subprocess.run([sys.executable, "-c", KILLED_AT_ONCE, workspace], env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_fingerprints_know_content_and_not_time(tmp_path):
    for name, content, hour in (("one", b"weights", 1), ("same", b"weights", 2), ("other", b"Weights", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").write_text(json.dumps({"content_hash": "ab", "built_at": hour}))
        with zipfile.ZipFile(tmp_path / name / "model.keras", "w") as archive:
            archive.writestr(zipfile.ZipInfo("model.weights.h5", (2026, 1, 1, hour, 0, 0)), content)
            archive.writestr("metadata.json", str(hour))
    one = fingerprint(tmp_path / "one")
    assert differing(one, fingerprint(tmp_path / "same")) == []
    assert differing(one, fingerprint(tmp_path / "other")) == ["model.keras"]
    model = tmp_path / "one" / "model.keras"
    content = model.read_bytes()
    model.write_bytes(content.replace(b"weights", b"wEights"))  # a wrong CRC-32
    assert differing(fingerprint(tmp_path / "one"), fingerprint(tmp_path / "same")) == ["model.keras"]
    (tmp_path / "one" / "dataset.json").write_text("{")
    assert file_digest(tmp_path / "one" / "dataset.json") == "damaged"


def test_litter_is_what_no_undisturbed_run_leaves(tmp_path):
    (tmp_path / "tmp" / "half").mkdir(parents=True)
    (tmp_path / ".out.building-1").mkdir()
    (tmp_path / "out").mkdir()
    assert litter(tmp_path, {"out"}) == [".out.building-1", "tmp/half"]


@pytest.mark.parametrize(
    "traffic",
    [
        Traffic(403, 4, 20, 5, 10_000_000),
        Traffic(50, 1, 1, 1, 1_000),
        Traffic(60, 2, 60, 60, 1_000, SYN),
    ],
)
def test_made_traffic_has_the_flows_that_it_says(tmp_path, traffic):
    paths = traffic.write(tmp_path / "in")
    assert len(paths) == traffic.files
    found = reference_meter([path.read_bytes() for path in paths], FlowDefinition.of(), "0" * 16)
    assert len(found.flows) == traffic.flows
    assert sum(account.metered for account in found.captures) == traffic.packets
    flags = {flag for flow in found.flows for flag in flow["pkt_tcp_flags"]}
    assert flags == {SYN if traffic.flags == SYN else ACK}


def test_flows_of_a_turn_send_in_their_order():
    flows = Traffic(100, 1, 12, 6, 1).flow_of(np.arange(100))
    assert flows[:8].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert sorted(set(flows[50:].tolist())) == list(range(6, 12))


def test_traffic_of_too_few_packets_is_refused():
    with pytest.raises(ValueError, match="flows must be a multiple of at_once and at most packets"):
        Traffic(3, 1, 5, 5, 1)


@pytest.mark.slow
def test_kills_of_build_weave_and_train_lose_nothing():
    pytest.importorskip("tensorflow", exc_type=ImportError)
    command = [
        sys.executable,
        HOSTILE / "chaos.py",
        "--points",
        "4",
        "--no-damage",
        "--commands",
        "build",
        "weave",
        "train",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
