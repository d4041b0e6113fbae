"""The command line: results on stdout, all else on stderr, and exit codes that scripts can rely on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flowloom.pipelines.cli import main as cli
from flowloom.schemas.dataset.dataset_card import CARD, read_card
from flowloom.schemas.dataset.dataset_statistics import REPORT, STATISTICS, read_statistics
from flowloom.transforms.inspection.dataset_sketch import DatasetSketch

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def dataset(corpus, manifest, tmp_path_factory) -> Path:
    """A dataset that the command line built."""
    (corpus / "cli.yaml").write_text(manifest)
    out = tmp_path_factory.mktemp("cli") / "dataset"
    with pytest.raises(SystemExit) as exit_:
        cli.main(["build", str(corpus / "cli.yaml"), str(out), "--workers", "1"])
    assert exit_.value.code == 0
    return out


@pytest.fixture
def run(capsys):
    """Return a function that runs one command and returns (exit code, stdout, stderr)."""

    def command(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return command


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


def test_describe_without_statistics_imports_no_tensorflow(dataset):
    code = f"""if True:
        import sys
        from flowloom.pipelines.cli.main import main
        try:
            main(["describe", {str(dataset)!r}, "--json"])
        finally:
            print([name for name in ("apache_beam", "tensorflow", "tfx_bsl", "jinja2") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


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


def test_flows_prints_its_accounting(run, corpus, tmp_path):
    code, out, err = run("flows", corpus / "web/0.pcap", tmp_path / "none.pcap", "-o", tmp_path / "f.parquet", "--json")
    assert code == 0
    report = json.loads(out)
    (capture,) = report["captures"]
    assert capture["records"] == capture["metered"] + sum(capture["dropped"].values())
    assert capture["dropped"] == {"not-ip": 1}
    assert set(report["seconds"]) == {"read", "decode", "meter", "write", "total"}
    assert "none.pcap" in err
    assert (tmp_path / "f.parquet").is_file()
    code, out, _ = run("flows", corpus / "web/0.pcap", "-o", tmp_path / "f.parquet", "--k", 3)
    assert code == 0
    assert f"{report['flows']} flows" in out


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


def test_build_prints_the_card_and_passes_options_to_beam(run, corpus, dataset, tmp_path):
    words = ("build", corpus / "cli.yaml", tmp_path / "out", "--json", "--", "--direct_num_workers=1")
    code, out, err = run(*words)
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "out" / CARD).read_text())
    assert json.loads(out) == json.loads((dataset / CARD).read_text())
    assert "build:" in err


def test_describe_prints_tables_or_the_card(run, dataset):
    code, out, err = run("describe", dataset)
    assert (code, err) == (0, "")
    for words in ("Dataset small", "Tasks", "Label sources", "Accounting", "dropped: not-ip", "Rejects", "Shards"):
        assert words in out
    code, out, _ = run("describe", dataset, "--json")
    assert json.loads(out) == json.loads((dataset / CARD).read_text())


def test_describe_shows_what_a_split_by_time_and_pseudonyms_need(run, dataset, tmp_path):
    changed = shutil.copytree(dataset, tmp_path / "changed")
    card = json.loads((dataset / CARD).read_text())
    card["split_rule"] |= {"by": "time", "cuts_ns": [1_700_000_000_000_000_000, 1_700_000_060_000_000_000]}
    card |= {"identity": "pseudonym", "key_id": "0123456789abcdef"}
    (changed / CARD).write_text(json.dumps(card))
    _, out, _ = run("describe", changed)
    assert "2023-11-14 22:13:20+00:00, 2023-11-14 22:14:20+00:00" in " ".join(out.split())
    assert "key 0123456789abcdef" in " ".join(out.split())


def test_describe_measures_leakage_on_demand(run, dataset):
    code, out, _ = run("describe", dataset, "--leakage")
    assert code == 0
    assert "Leakage" in out
    assert "Label conflicts" in out
    code, out, _ = run("describe", dataset, "--leakage", "--json")
    leakage = json.loads(out)["leakage"]
    rows = {split: counts["rows"] for split, counts in json.loads(out)["splits"].items()}
    assert leakage["sequences"]["flows"] == leakage["timed_sequences"]["flows"] == rows
    assert leakage["hosts"]["flows"] == {split: 2 * count for split, count in rows.items()}
    assert leakage["host_pairs"]["flows_in_train"] == {"validation": 0, "test": 0}, "no two captures share a host"
    assert set(leakage["conflicts"]) == {"app", "attack"}


def test_describe_writes_statistics_and_a_page(run, dataset, tmp_path):
    described = shutil.copytree(dataset, tmp_path / "described")
    code, out, err = run("describe", described, "--statistics", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((dataset / CARD).read_text())
    assert "report.html" in err
    card, statistics = read_card(described), read_statistics(described)
    assert statistics is not None
    direct = DatasetSketch(card.tasks, card.definition.k)
    for shard in card.shards:
        for rows in pq.ParquetFile(described / shard.path).iter_batches():
            direct.add(shard.split, rows)
    assert statistics.model_dump(exclude={"columns"}) == direct.statistics(card.content_hash).model_dump(
        exclude={"columns"}
    )
    assert statistics.columns["train"]["flow_id"].distinct == card.splits["train"].rows
    assert card.name in (described / REPORT).read_text()
    assert run("verify", described)[0] == 0
    before = (described / STATISTICS).read_bytes()
    assert run("describe", described, "--statistics", "-o", tmp_path / "again")[0] == 0
    assert (tmp_path / "again" / STATISTICS).read_bytes() == before
    assert (tmp_path / "again" / REPORT).read_bytes() == (described / REPORT).read_bytes()


def test_statistics_of_damaged_shards_are_refused(run, dataset, tmp_path):
    damaged = shutil.copytree(dataset, tmp_path / "damaged")
    shard = damaged / next(shard.path for shard in read_card(dataset).shards if shard.rows)
    whole = shard.read_bytes()
    for content, words in ((whole[:-9], "cannot be read"), (None, "have other rows than its card says")):
        shard.unlink() if content is None else shard.write_bytes(content)
        code, _, err = run("describe", damaged, "--statistics", "--json")
        assert code == 1
        assert words in err
        assert "flowloom verify" in err
        assert not (damaged / STATISTICS).exists()


def test_verify_says_that_all_is_well_or_what_is_not(run, dataset, tmp_path):
    code, out, err = run("verify", dataset)
    assert code == 0
    assert "are what the card says" in " ".join(out.split())
    assert "part-00000-of-00002.parquet" in err
    code, out, _ = run("verify", dataset, "--json")
    assert json.loads(out)["content_hash"] == json.loads((dataset / CARD).read_text())["content_hash"]
    broken = shutil.copytree(dataset, tmp_path / "broken")
    (broken / "rejects.parquet").unlink()
    code, out, err = run("verify", broken)
    assert (code, out) == (1, "")
    assert "error: rejects.parquet is missing" in err


def test_weave_makes_another_layout_or_says_why_not(run, dataset, tmp_path):
    code, out, err = run("weave", dataset, tmp_path / "out", "--layout", "rainbow", "--word", "app.web=ssh", "--json")
    assert code == 0
    assert "weave:" in err
    card = json.loads(out)
    assert card == json.loads((tmp_path / "out" / CARD).read_text())
    assert card["splits"]["train"]["classes"]["app"]["web"] == 0
    assert [source["content_hash"] for source in card["sources"]] == [
        json.loads((dataset / CARD).read_text())["content_hash"]
    ]
    _, out, _ = run("describe", tmp_path / "out")
    assert "woven from" in out
    for words, message in (
        ((dataset, dataset, tmp_path / "no", "--layout", "rainbw"), "did you mean 'rainbow'"),
        ((dataset, tmp_path / "no", "--layout", "aurora", "--word", "web=ssh"), "--word must be TASK.WORD=WORD"),
    ):
        code, out, err = run("weave", *words)
        assert (code, out) == (1, "")
        assert message in " ".join(err.split())
    assert run("weave", dataset, "--layout", "aurora")[0] == 2


def test_a_demo_without_its_corpus_says_where_it_is(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_trainer", lambda module: None)
    code, _, err = run("demo", "--out", tmp_path / "demo", "--corpus", tmp_path)
    assert code == 1
    assert "rainbow.yaml and aurora.yaml" in err
    assert "--corpus" in err


def test_training_without_tensorflow_says_what_to_install(run, tmp_path, monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    code, _, err = run("train", tmp_path, "-o", tmp_path / "run")
    assert code == 1
    assert "pip install 'flowloom[train]'" in err


def test_export_says_what_it_made(run, tmp_path):
    from written_runs import CLASSES, K, write_run

    from flowloom.trainers.models.lmmoe import LMMoE

    written = write_run(tmp_path / "run", LMMoE(K, 3, CLASSES, units=4))
    code, out, _ = run("export", written, "-o", tmp_path / "deployed", "--format", "litert", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["largest_error"] <= 1e-6
    assert report["size_bytes"] == (tmp_path / "deployed" / "model.tflite").stat().st_size
    code, _, err = run("export", written, "-o", tmp_path / "deployed")
    assert code == 1
    assert "exists already" in err
    code, _, err = run("export", written, "-o", tmp_path / "other", "--int8")
    assert code == 1
    assert "need the format litert" in err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_goes_the_whole_road(run, tmp_path):
    code, out, _ = run("demo", "--out", tmp_path, "--quick", "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == ["rainbow", "aurora"]
    for layout in found:
        assert (tmp_path / layout / CARD).is_file()
        assert (tmp_path / "runs" / layout / "report.html").is_file()
        assert json.loads((tmp_path / "runs" / layout / "metrics.json").read_text()) == found[layout]
    assert set(found["rainbow"]["tasks"]) == {"syn_flood", "ssdp_flood", "tls_renegotiation"}
    assert set(found["aurora"]["tasks"]) == {"app", "traffic", "tunnel", "attack"}
    assert found["aurora"]["mean_auc"] > 0.6, "two epochs are enough to be better than chance"
    code, out, _ = run("evaluate", tmp_path / "runs" / "aurora", "--split", "validation")
    assert code == 0
    assert "forest" in out
