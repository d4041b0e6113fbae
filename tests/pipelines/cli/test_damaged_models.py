"""Damaged exports, models and checkpoints: one sentence that names the file, exit code 1, no traceback.

Digests find damage first, so these exports list the digests of their damaged files, as an export of 0.1 has none.
"""

import contextlib
import json
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from capture_files import ethernet, ipv4, pcap, tcp
from stored_datasets import labelled_flows, random_labels, store_dataset
from training_progress import epoch_and_step
from written_runs import CLASSES, K, seeded, write_run

from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.file_digests import SEAL, file_sha256, sealed
from flowloom.schemas.progress import Progress
from flowloom.trainers.deploy.export import ExportOptions, export
from flowloom.trainers.deploy.export_layout import CONTRACT
from flowloom.trainers.models.multitask_cnn import MultitaskCNN
from flowloom.trainers.training.train import TrainOptions, train

SMALL = ("k=8", "units=4", "batch_size=32", "epochs=3")

START = 1_700_000_000_000_000_000
DAMAGE = {
    "empty": lambda content: b"",
    "first half": lambda content: content[: len(content) // 2],
    "without the last byte": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "a flipped bit in each of a hundred bytes": lambda content: bytes(
        each ^ 4 if at % 100 == 50 else each for at, each in enumerate(content)
    ),
    "text": lambda content: b"not found\n",
}


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    """A capture of one flow."""
    path = tmp_path_factory.mktemp("capture") / "one.pcap"
    path.write_bytes(pcap([(START + at, ethernet(ipv4(tcp(bytes(9))))) for at in range(3)]))
    return path


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[str, Path]:
    """Exports by format, of a network that is scored by TensorFlow or LiteRT."""
    folder = tmp_path_factory.mktemp("exports")
    run = write_run(folder / "run", seeded(MultitaskCNN, K, 3, CLASSES))
    for name in ("savedmodel", "litert"):
        export(ExportOptions(run, folder / name, name))
    return {"run": run, "savedmodel": folder / "savedmodel", "litert": folder / "litert"}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> tuple[Path, Path, list[str]]:
    """A dataset, a training that ended in its second epoch, and its options."""
    folder = tmp_path_factory.mktemp("training")
    flows = labelled_flows(200, {"app": random_labels(200, 2, 0, 1)})
    task = Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))
    dataset = store_dataset(folder / "dataset", flows, [task])

    def cut(progress: Progress) -> None:
        if (epoch_and_step(progress) or (0,))[0] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainOptions(dataset, folder / "run", "multa", SMALL), cut)
    return dataset, folder / "run", [word for each in SMALL for word in ("--set", each)]


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Lets this process write no larger files, as a full disk does."""
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def failure(run, *arguments: object, named: Path) -> str:
    """Runs a command that must fail with one line that names a file, and returns the line."""
    code, _, err = run(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1, err
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert "{{" not in lines[0]
    assert str(named) in lines[0]
    assert len(lines[0]) < 500, lines[0]
    return lines[0]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    ("name", "file", "named"),
    [
        ("litert", "model.tflite", "model.tflite"),
        ("savedmodel", "saved_model/saved_model.pb", "saved_model/saved_model.pb"),
        ("savedmodel", "saved_model/variables/variables.index", "saved_model"),
        ("savedmodel", "saved_model/variables/variables.data-00000-of-00001", "saved_model"),
    ],
)
def test_a_damaged_export_is_named(run, exports, capture, tmp_path, name, file, named, damage):
    copy = Path(shutil.copytree(exports[name], tmp_path / "export"))
    damaged = copy / file
    damaged.write_bytes(DAMAGE[damage](damaged.read_bytes()))
    assert "must have the SHA-256" in failure(run, "score", copy, capture, "-o", tmp_path / "scores", named=damaged)
    contract = json.loads((copy / CONTRACT).read_bytes())
    del contract[SEAL]
    contract["sha256"][file] = file_sha256(damaged)
    (copy / CONTRACT).write_text(json.dumps(sealed(contract)))
    failure(run, "score", copy, capture, "-o", tmp_path / "scores", named=copy / named)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_named(run, exports, capture, tmp_path, damage):
    copy = Path(shutil.copytree(exports["run"], tmp_path / "run"))
    model = copy / "model.keras"
    model.write_bytes(DAMAGE[damage](model.read_bytes()))
    failure(run, "score", copy, capture, "-o", tmp_path / "scores", named=model)
    failure(run, "export", copy, "-o", tmp_path / "deployed", named=model)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named(run, interrupted, tmp_path, damage):
    dataset, begun, options = interrupted
    copy = Path(shutil.copytree(begun, tmp_path / "run"))
    checkpoint = max((copy / "checkpoints").glob("epoch-*.npz"))
    checkpoint.write_bytes(DAMAGE[damage](checkpoint.read_bytes()))
    failure(run, "train", dataset, "-o", copy, *options, named=checkpoint)


@pytest.mark.parametrize("layout", ["savedmodel", "litert"])
def test_a_disk_that_takes_no_model_is_one_sentence(run, exports, tmp_path, layout):
    out = tmp_path / "out"
    with files_of_at_most(4096):
        line = failure(run, "export", exports["run"], "-o", out, "--format", layout, named=out)
    assert line == f"error: {out}: the model cannot be written: File too large; check the free space and export again"
    assert list(tmp_path.iterdir()) == []
