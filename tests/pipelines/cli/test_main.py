"""The command line: results on stdout, all else on stderr, and exit codes that scripts can rely on."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(120)


def test_help_imports_nothing_heavy():
    code = """if True:
        import sys
        from flowloom.pipelines.cli.main import main
        try:
            main(["--help"])
        finally:
            print([name for name in ("apache_beam", "tensorflow", "numba", "pyarrow", "polars") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("flows", "build", "describe", "verify", "train", "tune", "evaluate", "export", "demo"):
        assert command in done.stdout


def test_version(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("flowloom ")


@pytest.mark.parametrize(
    "words",
    [
        ("biuld",),
        ("build", "only-one"),
        ("build", "a", "b", "c"),
        ("build", "a", "b", "--workers", "0"),
        ("flows", "a.pcap"),
        ("flows", "a.pcap", "-o", "f.parquet", "--k", "0"),
        ("describe", "a", "--", "--streaming"),
        ("describe", "a", "--output", "b"),
    ],
)
def test_wrong_usage_is_2(run, words):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err


def test_failed_jobs_are_1_and_say_why_without_a_traceback(run, tmp_path, dataset, corpus):
    for words, message in (
        (("build", corpus / "cli.yaml", dataset), "exists already; remove it"),
        (("build", tmp_path / "none.yaml", tmp_path / "out"), "cannot read the corpus manifest"),
        (("flows", tmp_path / "none.pcap", "-o", tmp_path / "f.parquet"), "no capture could be read"),
        (
            ("flows", corpus / "web/0.pcap", "-o", tmp_path / "f.parquet", "--preset", "nfstraem"),
            "did you mean 'nfstream'",
        ),
        (("describe", tmp_path), "is not a dataset"),
    ):
        code, out, err = run(*words)
        assert (code, out) == (1, ""), words
        assert message in " ".join(err.split()), words
        assert "Traceback" not in err
