"""Commands for the chaos tool on a tiny corpus, and fingerprints of what they write."""

import contextlib
import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

from daily_traffic import SIZES, WITH_FLOODS, packets, write_day
from forked_command import Ending, run

RECIPE = ("--set", "k=8", "--set", "epochs=2", "--set", "experts=2", "--set", "units=4", "--set", "batch_size=32")


@dataclasses.dataclass(frozen=True)
class ChaosCommand:
    """One command.

    Attributes:
      output: the folder that it writes.
      grows: whether the output is visible while it is written, and is continued by the next run.
      first: names of commands that must have run before.
    """

    name: str
    arguments: tuple[str, ...]
    output: str
    grows: bool = False
    first: tuple[str, ...] = ()


COMMANDS = (
    ChaosCommand("build", ("build", "corpus.yaml", "data", "--workers", "2"), "data"),
    ChaosCommand("weave", ("weave", "data", "woven", "--layout", "rainbow"), "woven", first=("build",)),
    ChaosCommand("train", ("train", "data", "-o", "run", *RECIPE), "run", grows=True, first=("build",)),
    ChaosCommand(
        "export", ("export", "run", "-o", "deployed", "--format", "litert"), "deployed", first=("build", "train")
    ),
    ChaosCommand(
        "score", ("score", "run", "in/*.pcap", "-o", "scores", "--workers", "2"), "scores", first=("build", "train")
    ),
    ChaosCommand(
        "retrain", ("retrain", "state", "corpus.yaml", *RECIPE, "--workers", "2", "--registry", "none"), "state",
        grows=True,
    ),
)  # fmt: skip


def write_corpus(workspace: Path) -> None:
    """Writes a manifest and the captures of one day."""
    workspace.mkdir(parents=True)
    (workspace / "corpus.yaml").write_text(WITH_FLOODS)
    write_captures(workspace, day=0)


def write_captures(workspace: Path, day: int) -> None:
    """Adds the captures of a day."""
    for kind in SIZES:
        write_day(workspace / "in", kind, packets(kind, day + 1), day)


def prepare(command: ChaosCommand, workspace: Path) -> None:
    """Makes a workspace with all that a command needs.

    Raises:
      RuntimeError: if a command before it fails.
    """
    write_corpus(workspace)
    for each in COMMANDS:
        if each.name in command.first:
            require(run(each.arguments, workspace), each.name)


def require(ending: Ending, name: str) -> Ending:
    """Returns the ending of a command that must succeed."""
    if ending.code != 0:
        raise RuntimeError(f"{name} must succeed without chaos, got exit code {ending.code}:\n{ending.output[-2000:]}")
    return ending


def fingerprint(output: Path) -> dict[str, str]:
    """Returns a digest of each file below a folder; of archives and datasets, digests of what counts in them."""
    return {str(path.relative_to(output)): file_digest(path) for path in sorted(output.rglob("*")) if path.is_file()}


def file_digest(path: Path) -> str:
    """Returns the content hash of a dataset's card, the members of a model archive, or all bytes of another file."""
    if path.name == "dataset.json":
        try:
            return json.loads(path.read_text())["content_hash"]
        except (ValueError, KeyError):
            return "damaged"
    digest = hashlib.blake2b(digest_size=16)
    if path.suffix == ".keras":
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name != "metadata.json":  # has the time
                    digest.update(archive.read(name))
            return digest.hexdigest()
    digest.update(path.read_bytes())
    return digest.hexdigest()


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Returns the names of files that differ or that only one side has."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def litter(workspace: Path, known: set[str]) -> list[str]:
    """Returns what lies in a workspace beside the known names, temporary files included."""
    found = {path.name for path in workspace.iterdir()} - known - {"tmp"}
    found |= {f"tmp/{path.name}" for path in (workspace / "tmp").iterdir()}
    return sorted(found)
