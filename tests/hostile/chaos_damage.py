"""Damage other than kills: full disks, and flipped bits in every kind of stored file."""

import dataclasses
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from chaos_commands import COMMANDS, ChaosCommand, differing, fingerprint, require, write_captures
from forked_command import Ending, copy_of, run

FULL_DISKS = ("build", "weave", "train", "export", "score")
DISK_BYTES = 24_576


@dataclasses.dataclass(frozen=True)
class StoredKind:
    """A kind of stored file, and the command that reads it.

    Attributes:
      pattern: glob of its files in the workspace of the command.
      command: name of the command in `COMMANDS` whose workspace has the files.
      reader: arguments of the command that reads them.
    """

    name: str
    pattern: str
    command: str
    reader: tuple[str, ...]
    output: str


WEAVE = ("weave", "data", "again", "--layout", "aurora")
SCORE = ("score", "run", "in/*.pcap", "-o", "again", "--workers", "2")
DEPLOYED = ("score", "deployed", "in/*.pcap", "-o", "again", "--workers", "2")
TRAIN, RETRAIN = (next(each.arguments for each in COMMANDS if each.name == name) for name in ("train", "retrain"))
NEWEST = "state/versions/0001"
KINDS = (
    StoredKind("dataset shard", "data/flows/*/*.parquet", "weave", WEAVE, "again"),
    StoredKind("captures table", "data/captures.parquet", "weave", WEAVE, "again"),
    StoredKind("rejects table", "data/rejects.parquet", "weave", WEAVE, "again"),
    StoredKind("card", "data/dataset.json", "weave", WEAVE, "again"),
    StoredKind("checkpoint", "run/checkpoints/*.npz", "train", TRAIN, "run"),
    StoredKind("model", "run/model.keras", "score", SCORE, "again"),
    StoredKind("documents of a run", "run/*.json", "score", SCORE, "again"),
    StoredKind("exported weights", "deployed/weights.npz", "export", DEPLOYED, "again"),
    StoredKind("exported model", "deployed/model.tflite", "export", DEPLOYED, "again"),
    StoredKind("contract and profile of an export", "deployed/*.json", "export", DEPLOYED, "again"),
    StoredKind("retrain state", "state/*.json", "retrain", RETRAIN, "state"),
    StoredKind("meter cache", "state/readings/*/*", "retrain", RETRAIN, "state"),
    StoredKind("dataset of a state", f"{NEWEST}/dataset/**/*.*", "retrain", RETRAIN, "state"),
    StoredKind("frozen test rows", f"{NEWEST}/frozen/**/*.*", "retrain", RETRAIN, "state"),
    StoredKind("champion", f"{NEWEST}/run/*.*", "retrain", RETRAIN, "state"),
)


@dataclasses.dataclass(frozen=True)
class Damage:
    """Finding of one damaged run; `verdict` is empty if it is as it must be."""

    kind: str
    verdict: str
    detail: str = ""


def full_disk(command: ChaosCommand, template: Path, folder: Path) -> Damage:
    """Runs a command whose output lies on a small file system, or with small files where mounting is forbidden."""
    workspace = copy_of(template, folder / f"{command.name}-full")
    disk, most_bytes = workspace / "small", None
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    if not mounted:
        most_bytes = 4096
    target = "small/" + command.output if mounted else command.output
    arguments = tuple(target if each == command.output else each for each in command.arguments)
    try:
        ending = run(arguments, workspace, most_bytes=most_bytes)
        visible = (workspace / target).exists()
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=True)
        shutil.rmtree(workspace)
    kind = f"full disk: {command.name}" + ("" if mounted else " (limit of file size)")
    return Damage(kind, _verdict_of_full_disk(ending, visible and not command.grows), last_line(ending))


def _verdict_of_full_disk(ending: Ending, visible: bool) -> str:
    if ending.code == 0:
        return "the command succeeded: the disk was large enough"
    if visible:
        return "an output is visible"
    return "a traceback" if ending.traceback else ""


def last_line(ending: Ending) -> str:
    """Returns the last line that a command printed."""
    lines = ending.output.strip().splitlines()
    return lines[-1][:160] if lines else ""


def make_readable(kind: StoredKind, workspace: Path) -> None:
    """Makes the files of a kind in the workspace of its command, and what its reader needs to read them.

    Raises:
      RuntimeError: if they cannot be made.
    """
    command = next(each for each in COMMANDS if each.name == kind.command)
    if kind.command == "train":
        interrupt(command, workspace)
    elif kind.command in ("export", "retrain"):
        require(run(command.arguments, workspace), command.name)
    if kind.command == "retrain":
        write_captures(workspace, day=1)


def interrupt(command: ChaosCommand, workspace: Path) -> None:
    """Leaves a training behind that was killed after its first checkpoint.

    Raises:
      RuntimeError: if no kill leaves a checkpoint.
    """
    untouched = copy_of(workspace, workspace.with_name("untrained"))
    operations = require(run(command.arguments, workspace), command.name).operations
    for at in range(operations, 0, -2):
        copy_of(untouched, workspace)
        run(command.arguments, workspace, kill_at=at)
        begun = any(workspace.glob("run/checkpoints/epoch-*.npz"))
        if begun and not (workspace / "run" / "run.json").exists():
            return
    raise RuntimeError("a killed training must leave a checkpoint, got none")


def flips(kind: StoredKind, template: Path, folder: Path, number: int, draws: random.Random) -> Iterator[Damage]:
    """Flips one bit in files of a kind, and yields how the command that reads them ends."""
    clean = copy_of(template, folder / "flip-clean")
    paths = sorted(path.relative_to(clean) for path in clean.glob(kind.pattern) if path.stat().st_size)
    if not paths:
        yield Damage(f"flipped bit: {kind.name}", "no file of this kind", kind.pattern)
        return
    ending = run(kind.reader, clean)
    expected = fingerprint(clean / kind.output)
    again = copy_of(template, folder / "flip-again")
    run(kind.reader, again)
    unstable = set(differing(expected, fingerprint(again / kind.output)))
    if ending.code:
        yield Damage(f"flipped bit: {kind.name}", "the command fails without damage", last_line(ending))
        return
    for _ in range(number):
        workspace = copy_of(template, folder / "flip")
        path = workspace / draws.choice(paths)
        content = bytearray(path.read_bytes())
        at = draws.randrange(len(content))
        content[at] ^= 1 << draws.randrange(8)
        path.write_bytes(content)
        ending = run(kind.reader, workspace)
        changed = [
            name for name in differing(expected, fingerprint(workspace / kind.output))
            if name not in unstable and workspace / kind.output / name != path
        ]  # fmt: skip
        detail = f"byte {at} of {path.name}: {last_line(ending)}"
        if ending.code == 0:
            yield Damage(f"flipped bit: {kind.name}", "read as other data" if changed else "", detail)
        elif ending.traceback:
            yield Damage(f"flipped bit: {kind.name}", "a traceback", detail)
        else:
            named = path.name in ending.output
            yield Damage(f"flipped bit: {kind.name}", "" if named else "the file is not named", detail)
