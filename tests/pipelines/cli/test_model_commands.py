"""Commands on models: what they print, and what they need."""

import json

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
