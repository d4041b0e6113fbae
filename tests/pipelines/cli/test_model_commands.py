"""Commands on models: what they print, and what they need."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowloom.pipelines.cli import shared


def test_training_without_tensorflow_says_what_to_install(run, tmp_path, monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(shared.importlib, "import_module", missing)
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
    assert "format must be litert for 8-bit weights, got savedmodel" in err


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", [None, (), ("--format", "litert", "--int8")], ids=["run", "savedmodel", "litert"])
def test_scoring_prints_lines_of_its_own_alone(run, tmp_path, options):
    from synthetic import synthetic_flows
    from written_runs import CLASSES, K, write_run

    from flowloom.trainers.models.ple import PLE

    model = write_run(tmp_path / "run", PLE(K, 3, CLASSES, units=4, experts=1, task_experts=1))
    if options is not None:
        assert run("export", model, "-o", tmp_path / "deployed", *options)[0] == 0
        model = tmp_path / "deployed"
    pq.write_table(pa.Table.from_batches([synthetic_flows(50, k=K)]), tmp_path / "flows.parquet")
    code = "from flowloom.pipelines.cli.main import main; main()"
    arguments = ["score", model, tmp_path / "flows.parquet", "-o", tmp_path / "scores", "--workers", "1"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("score: ")] == []
