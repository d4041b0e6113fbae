"""A plain install of the wheel: flows without Beam and TensorFlow, and commands that name the extra that they need."""

import csv
import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from built_wheel import build_wheel

from flowloom.pipelines.demo_corpus import CORPUS

ROOT = Path(__file__).resolve().parent.parent
CAPTURE = CORPUS / "captures/web/nginx/plain-01.pcap.zst"
READ = f"""
import importlib.util
import flowloom as fl
flows = fl.read_flows({str(CAPTURE)!r})
print(flows.num_rows, fl.read_packets({str(CAPTURE)!r}).num_rows)
heavy = ("apache_beam", "tensorflow", "polars", "cryptography", "torch")
print([name for name in heavy if importlib.util.find_spec(name)])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("source"))


def test_the_extra_train_builds_and_trains_and_all_has_all_commands(wheel):
    (name,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
    needs = [requirement.replace(" ", "") for requirement in metadata.get_all("Requires-Dist")]
    assert 'flowloom[build];extra=="train"' in needs
    assert 'flowloom[build,dpi,retrain,storage,train];extra=="all"' in needs
    plain = [requirement for requirement in needs if "extra==" not in requirement]
    assert not [each for each in plain if each.startswith(("apache-beam", "polars", "tensorflow", "cryptography"))]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_plain_install_reads_flows_without_beam(wheel, tmp_path):
    uv = shutil.which("uv", path=os.path.dirname(sys.executable)) or "uv"
    place = tmp_path / "venv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, place], check=True)
    python, pinned = place / "bin/python", ROOT / "requirements.lock"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "-c", pinned, wheel], check=True)

    def run(*arguments: object) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=environment)

    read = run(python, "-c", READ)
    assert (read.returncode, read.stderr) == (0, "")
    assert read.stdout == "16 348\n[]\n"

    flowloom = place / "bin/flowloom"
    written = run(flowloom, "flows", CAPTURE, "-o", "flows.csv")
    assert written.returncode == 0, written.stderr
    with (tmp_path / "flows.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 16

    for arguments, needed, extra in (
        (("build", "corpus.yaml", "DATASET"), "this command needs apache_beam", "build"),
        (("worker-pool", "--port", "0"), "this command needs grpc", "build"),
        (("train", "DATASET", "-o", "RUN"), "training needs sklearn", "train"),
    ):
        refused = run(flowloom, *arguments)
        assert refused.returncode == 1
        last = refused.stderr.splitlines()[-1]
        assert last == f"error: {needed}; install it with: pip install 'flowloom[{extra}]'"
