"""Real engines in other processes build the same dataset as the embedded one, and leave nothing when they are lost."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from beam_script import run_dataset_script, run_script

from flowloom.pipelines.build import BuildOptions, build
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.dataset import dataset_ptransforms

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def prism() -> str:
    """The path of Prism's program."""
    place = shutil.which("prism", path=f"{ROOT}/.cache/bin{os.pathsep}{os.environ['PATH']}")
    if place is None:
        pytest.skip("needs Prism (docs/operations.md) in .cache/bin or on the PATH")
    return place


@pytest.fixture
def small(corpus, manifest) -> Path:
    """The manifest of the small corpus, as a file."""
    (corpus / "work.yaml").write_text(manifest)
    return corpus / "work.yaml"


@contextlib.contextmanager
def serving(prism: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Runs Prism as a job server, and yields its process and address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([prism, f"--job_port={port}", "--serve_http=false"], stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
                break
        yield process, f"localhost:{port}"
    finally:
        process.kill()
        process.wait()


def test_prism_builds_the_same_dataset(small, prism, tmp_path):
    ours = build(BuildOptions(small, tmp_path / "embedded", workers=1))
    theirs = build(BuildOptions(small, tmp_path / "prism", 1, "PrismRunner", (f"--prism_location={prism}",)))
    assert theirs == ours


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of Beam, when its server ends
def test_spark_builds_the_same_dataset(small, tmp_path):
    jar = ROOT / ".cache" / "spark" / "job-server.jar"
    if shutil.which("java") is None or not jar.is_file():
        pytest.skip("needs Java, and job-server.jar in .cache/spark: `make spark` fetches it with Maven")
    ours = build(BuildOptions(small, tmp_path / "embedded", workers=1))
    flags = (f"--spark_job_server_jar={jar}", "--environment_type=LOOPBACK")
    assert build(BuildOptions(small, tmp_path / "spark", 1, "SparkRunner", flags)) == ours


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of Beam, when its server is lost
def test_an_engine_that_is_lost_leaves_no_dataset(small, prism, tmp_path, monkeypatch):
    write_shard = dataset_ptransforms.write_shard
    with serving(prism) as (process, address):

        def lose_engine(*arguments):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return write_shard(*arguments)

        monkeypatch.setattr(dataset_ptransforms, "write_shard", lose_engine)
        flags = (f"--job_endpoint={address}", "--environment_type=LOOPBACK")
        with pytest.raises(FlowloomError, match="the engine failed: "):
            build(BuildOptions(small, tmp_path / "out", 1, "PortableRunner", flags))
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    with serving(prism) as (_, address):
        flags = (f"--job_endpoint={address}", "--environment_type=LOOPBACK")
        again = build(BuildOptions(small, tmp_path / "out", 1, "PortableRunner", flags))
    assert again == build(BuildOptions(small, tmp_path / "embedded", workers=1))


def test_a_script_of_ones_own_writes_the_same_files_on_prism(prism, tmp_path):
    files = {}
    for name, engine in (("embedded", ()), ("prism", ("--runner=PrismRunner", f"--prism_location={prism}"))):
        (tmp_path / name).mkdir()
        run_script(tmp_path / name, *engine)
        files[name] = {path.name: path.read_bytes() for path in (tmp_path / name / "flows").iterdir()}
    assert files["prism"] == files["embedded"]


@pytest.mark.parametrize("by", ["capture", "time"])
def test_a_script_of_ones_own_writes_the_same_dataset_on_prism(prism, tmp_path, by):
    engine = ("--runner=PrismRunner", f"--prism_location={prism}")
    assert run_dataset_script(tmp_path, "prism", by, *engine) == run_dataset_script(tmp_path, "embedded", by)
