"""Missing requirements of an engine are errors before a job starts, and waiting for workers has a limit."""

import http.server
import json
import socket
import threading
import zipfile

import apache_beam as beam
import pytest
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.engines.embedded import EMBEDDED, running, start_pipeline
from flowloom.pipelines.engines.remote import check_engine, finish, innermost_cause
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.io.spill import SCRATCH

pytestmark = pytest.mark.timeout(120)


def check(runner: str, *flags: str) -> None:
    """Checks an engine as `running` does."""
    check_engine(runner, start_pipeline(runner, 1, flags).options)


@pytest.fixture
def jar(tmp_path) -> str:
    """A file that looks like a job server's jar."""
    with zipfile.ZipFile(tmp_path / "server.jar", "w") as file:
        file.writestr("META-INF/MANIFEST.MF", "")
    return str(tmp_path / "server.jar")


@pytest.fixture
def free_port() -> int:
    """A port where no program listens."""
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


@pytest.fixture
def job_manager():
    """A function that starts a server which answers like a Flink job manager, and returns its address."""
    servers = []

    def serve(overview: object) -> str:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if self.path == "/overview" else 404)
                self.end_headers()
                self.wfile.write(json.dumps(overview).encode())

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("localhost", 0), Answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"localhost:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("runner", "kind"), [("FlinkRunner", "flink-1.20"), ("SparkRunner", "spark-3")])
def test_the_error_of_a_missing_jar_names_the_command_that_gets_it(tmp_path, runner, kind):
    flags = [f"--jar_cache_dir={tmp_path}", "--flink_version=1.20"]
    wanted = rf"must be the jar .*{tmp_path}.* does not exist; get it with: mvn .*:beam-runners-{kind}-job-server:"
    with pytest.raises(FlowloomError, match=wanted):
        check(runner, *flags)
    (tmp_path / "page.jar").write_text("<html>not found</html>")
    with pytest.raises(FlowloomError, match=r"page\.jar is not a jar"):
        check(runner, *flags, f"--{kind.split('-')[0]}_job_server_jar={tmp_path}/page.jar")


def test_missing_java_is_an_error(jar):
    with pytest.raises(FlowloomError, match="needs Java 11 or 17, but there is no program 'no-java'"):
        check("FlinkRunner", f"--flink_job_server_jar={jar}", "--job_server_java_launcher=no-java")


def test_flink_masters_must_answer_with_task_managers_of_the_same_version(jar, job_manager, free_port):
    def ask(master: str) -> None:
        flags = [f"--flink_job_server_jar={jar}", "--job_server_java_launcher=true", "--flink_version=1.20"]
        check("FlinkRunner", *flags, f"--flink_master={master}")

    ask("[local]")
    ask(job_manager({"taskmanagers": 2, "slots-total": 2, "flink-version": "1.20.3"}))
    with pytest.raises(FlowloomError, match=f"--flink_master=localhost:{free_port}: no Flink job manager answers"):
        ask(f"localhost:{free_port}")
    with pytest.raises(FlowloomError, match="no Flink job manager answers"):
        ask(job_manager({"greeting": "another server"}))
    with pytest.raises(FlowloomError, match="at least 1 task manager with 1 slot, got 0 with 0; start a task manager"):
        ask(job_manager({"taskmanagers": 0, "slots-total": 0, "flink-version": "1.20.3"}))
    with pytest.raises(
        FlowloomError, match=r"the version of the cluster .*, 1\.19\.2, got 1\.20; use --flink_version=1\.19"
    ):
        ask(job_manager({"taskmanagers": 1, "slots-total": 1, "flink-version": "1.19.2"}))


def test_job_servers_and_spark_masters_have_to_listen(jar, free_port):
    with pytest.raises(FlowloomError, match=f"--job_endpoint=localhost:{free_port} does not answer"):
        check("PortableRunner", f"--job_endpoint=localhost:{free_port}")
    with pytest.raises(FlowloomError, match="--job_endpoint must be HOST:PORT, got 'localhost'"):
        check("PortableRunner", "--job_endpoint=localhost")
    spark = [f"--spark_job_server_jar={jar}", "--job_server_java_launcher=true"]
    check("SparkRunner", *spark)
    with pytest.raises(FlowloomError, match=r"--spark_master_url=spark://localhost:.* does not answer"):
        check("SparkRunner", *spark, f"--spark_master_url=spark://localhost:{free_port}")


def test_prism_is_never_downloaded(tmp_path):
    with pytest.raises(
        FlowloomError, match="--prism_location must be Prism's program, got nothing; build it with: go install"
    ):
        check("PrismRunner")
    with pytest.raises(FlowloomError, match="--prism_location must be Prism's program, got /"):
        check("PrismRunner", f"--prism_location={tmp_path}")


@pytest.mark.parametrize(
    ("trace", "cause"),
    [
        ("x.JobException: failed\n\tat x\nCaused by: java.io.IOException: full\n", "java.io.IOException: full"),
        ('bundle\nTraceback:\n  File "x"\nValueError: bad [while running \'Meter\']\n', "ValueError: bad"),
        ('RPC:\n\tstatus = X\n\tdetails = "Connection refused"\n', "Connection refused"),
        ("\n it stopped\n", "it stopped"),
        ("", "no message"),
    ],
)  # fmt: skip
def test_innermost_cause(trace, cause):
    assert innermost_cause(trace) == cause


def test_another_engine_builds_the_same_dataset(corpus, manifest, tmp_path):
    (corpus / "engines.yaml").write_text(manifest)
    flags = ("--job_endpoint=embed", "--environment_type=LOOPBACK")
    ours = build(BuildOptions(corpus / "engines.yaml", tmp_path / "embedded", workers=1))
    theirs = build(BuildOptions(corpus / "engines.yaml", tmp_path / "portable", 1, "PortableRunner", flags))
    assert theirs == ours
    assert files(tmp_path / "portable") == files(tmp_path / "embedded")


def files(folder) -> dict:
    """Returns the bytes of every file below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_waiting_for_workers_has_a_limit(corpus, manifest, tmp_path):
    class Deaf(BeamFnExternalWorkerPoolServicer):
        """A pool whose `python` lacks Beam: it accepts the request, but no worker starts."""

        def StartWorker(self, *_):  # noqa: N802 - the base class calls it by this name
            return beam_fn_api_pb2.StartWorkerResponse()

    address, server = Deaf.start()
    (corpus / "engines.yaml").write_text(manifest)
    flags = ("--job_endpoint=embed", "--environment_type=EXTERNAL", f"--environment_config={address}")
    options = BuildOptions(corpus / "engines.yaml", tmp_path / "out", 1, "PortableRunner", flags, start_limit_s=1)
    with pytest.raises(FlowloomError, match=f"no worker answered within 1 s .*EXTERNAL {address}.*worker-pool"):
        build(options)
    server.stop(0)
    assert list(tmp_path.iterdir()) == []
    assert [thread.name for thread in threading.enumerate() if "_run_job" in thread.name and not thread.daemon] == []


def test_a_failure_on_a_worker_fails_the_job():
    def fail(_):
        raise OSError("disk full")

    pipeline = start_pipeline("PortableRunner", 1, ["--job_endpoint=embed", "--environment_type=LOOPBACK"])
    pipeline | beam.Create([1]) | beam.Map(fail)
    with pytest.raises(FlowloomError, match=r"the engine failed: OSError: disk full$"):
        finish(pipeline)


def test_the_embedded_engine_has_no_worker_check(tmp_path):
    with running(EMBEDDED, 1, [], str(tmp_path)) as pipeline:
        pipeline | beam.Create([1])
    assert [path for path in tmp_path.rglob("*") if path.name != SCRATCH] == []
