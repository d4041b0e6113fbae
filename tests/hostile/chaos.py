"""Chaos: kills commands at points of time and at file operations, fills disks and flips bits of stored files.

make chaos N=20 [SEED=1]

After each kill nothing half-written may look finished, and the same command must give the same bytes. Exit code 1
means that one of that did not hold.
"""

import argparse
import collections
import dataclasses
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from chaos_commands import COMMANDS, ChaosCommand, differing, fingerprint, litter, prepare, require
from chaos_damage import FULL_DISKS, KINDS, Damage, flips, full_disk, make_readable
from forked_command import copy_of, run, warm_up

NAMES = tuple(command.name for command in COMMANDS)


@dataclasses.dataclass
class Row:
    """Row of the table: one command and its kill points."""

    command: str
    operations: int
    seconds: float
    points: int = 0
    killed: int = 0
    finished_after: int = 0
    equal: int = 0
    litter: int = 0
    unstable: tuple[str, ...] = ()
    faults: list[str] = dataclasses.field(default_factory=list)


def kill_points(command: ChaosCommand, template: Path, folder: Path, points: int, draws: random.Random) -> Row:
    """Kills a command at some points, half of them file operations and half of them times, and runs it again."""
    whole = copy_of(template, folder / f"{command.name}-whole")
    ending = require(run(command.arguments, whole), command.name)
    expected = fingerprint(whole / command.output)
    known = {path.name for path in whole.iterdir()}
    again = copy_of(template, folder / f"{command.name}-again")
    require(run(command.arguments, again), command.name)
    unstable = set(differing(expected, fingerprint(again / command.output)))
    stable = {name: digest for name, digest in expected.items() if name not in unstable}
    row = Row(command.name, ending.operations, round(ending.seconds, 1), unstable=tuple(sorted(unstable)))
    for number in range(points):
        workspace = copy_of(template, folder / f"{command.name}-killed")
        if number % 2 == 0:
            at = draws.randrange(1, max(ending.operations, 1) + 1)
            killed, where = run(command.arguments, workspace, kill_at=at), f"file operation {at}"
        else:
            after = draws.uniform(0, ending.seconds)
            killed, where = run(command.arguments, workspace, kill_after=after), f"{after:.2f} s"
        row.points += 1
        row.killed += killed.code == -9
        output = workspace / command.output
        if output.exists() and not command.grows:
            half = [name for name in differing(fingerprint(output), expected) if name in stable]
            if half:
                row.faults.append(f"killed at {where}: {half[0]} of a visible output is not as it must be")
        after_kill = run(command.arguments, workspace)
        complete = after_kill.code == 0 or (output.exists() and "exists already" in after_kill.output)
        complete = complete or (command.name == "train" and "finished" in after_kill.output)
        row.finished_after += complete
        if not complete:
            row.faults.append(
                f"killed at {where}: the next run ends with {after_kill.code}: {after_kill.output[-300:]}"
            )
            continue
        found = fingerprint(output)
        wrong = [name for name, digest in stable.items() if found.get(name) != digest]
        row.equal += not wrong
        if wrong:
            row.faults.append(f"killed at {where}: {wrong[0]} differs from an undisturbed run")
        row.litter += bool(litter(workspace, known))
    return row


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the options of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=20, help="kill points of all commands together")
    parser.add_argument("--flips", type=int, help="flipped bits of each kind of file; default: points / 10")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--damage", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args(arguments)


def show(rows: list[Row], damages: list[Damage]) -> None:
    """Prints both tables."""
    print(f"{'command':<9}{'operations':>11}{'seconds':>9}{'points':>8}{'killed':>8}", end="")
    print(f"{'finished':>10}{'equal':>7}{'litter':>8}")
    for row in rows:
        counts = f"{row.points:>8}{row.killed:>8}{row.finished_after:>10}{row.equal:>7}{row.litter:>8}"
        print(f"{row.command:<9}{row.operations:>11}{row.seconds:>9}{counts}")
        for name in row.unstable:
            print(f"          differs between undisturbed runs: {name}")
        for fault in row.faults:
            print(f"          FAULT {fault}")
    verdicts = collections.Counter((damage.kind, damage.verdict) for damage in damages)
    for (kind, verdict), count in verdicts.items():
        print(f"{kind:<42}{count:>4}  {verdict or 'noticed and named, or harmless'}")
        shown = [damage.detail for damage in damages if (damage.kind, damage.verdict) == (kind, verdict) and verdict]
        for detail in shown[:1]:
            print(f"          for example {detail}")


def damaged(
    options: argparse.Namespace, templates: dict[str, Path], folder: Path, draws: random.Random
) -> list[Damage]:
    """Fills disks and flips bits."""
    chosen = {command.name: command for command in COMMANDS if command.name in options.commands}
    found = [full_disk(chosen[name], templates[name], folder) for name in FULL_DISKS if name in chosen]
    made: dict[str, Path] = {}
    number = options.flips if options.flips is not None else max(options.points // 10, 1)
    for kind in KINDS:
        if kind.command in chosen and number:
            if kind.command not in made:
                made[kind.command] = copy_of(templates[kind.command], folder / f"flips-{kind.command}")
                make_readable(kind, made[kind.command])
            damages = list(flips(kind, made[kind.command], folder, number, draws))
            faults = [damage for damage in damages if damage.verdict]
            print(f"{kind.name}: {number} flipped bits, {len(faults)} faults {faults[:1] or ''}", file=sys.stderr)
            found += damages
    return found


def main() -> int:
    """Runs all kill points and damages, and prints tables and one JSON line."""
    options, begun = parsed(), time.monotonic()
    warm_up()
    draws, rows, damages = random.Random(options.seed), [], []
    # a TemporaryDirectory would also be removed by a forked command that fails, as that runs the exit handlers
    folder, templates = Path(tempfile.mkdtemp()), {}
    try:
        for number, command in enumerate(each for each in COMMANDS if each.name in options.commands):
            templates[command.name] = folder / f"{command.name}-template"
            prepare(command, templates[command.name])
            each, more = divmod(options.points, len(options.commands))
            points = each + (number < more)
            rows.append(kill_points(command, templates[command.name], folder, points, draws))
            print(f"{command.name}: {rows[-1].points} kill points, {len(rows[-1].faults)} faults", file=sys.stderr)
        if options.damage:
            damages = damaged(options, templates, folder, draws)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(rows, damages)
    faults = sum(len(row.faults) for row in rows) + sum(bool(damage.verdict) for damage in damages)
    counts = {row.command: [row.points, row.killed, row.finished_after, row.equal, row.litter] for row in rows}
    seconds = round(time.monotonic() - begun, 1)
    print(json.dumps({"tool": "chaos", "seed": options.seed, "seconds": seconds, "kills": counts,
                      "damages": len(damages), "faults": faults}))  # fmt: skip
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
