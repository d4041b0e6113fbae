"""Labels by DPI against the results that NFStream's authors keep for the captures of their tests.

The captures are metered under the preset `nfstream` and labelled by `dpi` as a build does it. Their results name a flow
by its packets and bytes only, so flows are compared as bags per capture: how many have packets, bytes and label in
common.
`main` writes docs/dpi.md.
"""

import argparse
import collections
import csv
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from flowloom.schemas.arrow.rows import GROUP_DIGITS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.label_sources import Dpi
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.labels.dpi import TOLERANCE_NS, dpi_windows, inspect_captures, read_inspected
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.windows.window_index import index_windows
from flowloom.transforms.windows.window_match import match_windows

ROOT = Path(__file__).resolve().parent.parent
FIELDS = ("application_name", "application_category_name")
DEFINITION = FlowDefinition.of("nfstream", k=1)

Flow = tuple[int, int, str]
"""Packets, bytes and label of a flow."""


@dataclasses.dataclass
class Agreement:
    """Result of comparing one field.

    Attributes:
      flows, results, equal: flows of Flowloom, of the results, and with packets, bytes and label in common.
      same_flow: those with packets and bytes in common, whatever their label.
      labels: by (their label, ours), how many flows of the same packets and bytes bear them; empty is unknown.
      captures: by (their label, ours), where that is.
    """

    flows: int = 0
    results: int = 0
    equal: int = 0
    same_flow: int = 0
    unmatched: int = 0
    labels: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    captures: dict[tuple[str, str], set[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(set))

    @property
    def share(self) -> float:
        """The part of all flows that is equal: of the larger count, so that extra flows on either side tell."""
        return self.equal / max(self.flows, self.results, 1)


def agree(captures: Sequence[Path], results: Path, python: str, folder: str) -> dict[str, Agreement]:
    """Labels the flows of captures by each field and compares them with the results of the same name."""
    found = {field: Agreement() for field in FIELDS}
    jobs = {f"{folder}/{capture.name}": [str(capture)] for capture in captures}
    refused = inspect_captures(jobs, DEFINITION, python)
    if refused:
        raise SystemExit(f"NFStream cannot read {refused}")
    for capture, path in zip(captures, jobs, strict=True):
        reading = GroupReader([CaptureRange(str(capture))], "0" * GROUP_DIGITS, DEFINITION)
        flows = list(reading.flows())
        with open(results / capture.name, newline="") as file:
            rows = list(csv.DictReader(file))
        for field, agreement in found.items():
            theirs = [(int(r["bidirectional_packets"]), int(r["bidirectional_bytes"]), r[field]) for r in rows]
            _compare(labelled(flows, read_inspected(path), field), theirs, capture.name, agreement)
    return found


def labelled(batches: Sequence[pa.RecordBatch], seen: pa.RecordBatch, field: str) -> list[Flow]:
    """Returns packets, bytes and nDPI's name of each flow, an empty one where no window matches."""
    vocabulary = tuple(sorted({*seen[field].to_pylist(), "other", "another"}))
    task = Task(name="dpi", kind="multiclass", vocabulary=vocabulary)
    windows = dpi_windows(seen, Dpi(task="dpi", field=field, guesses="keep"), task)
    index = index_windows(windows)
    found: list[Flow] = []
    for flows in batches:
        codes = match_windows(flows, index, TOLERANCE_NS).codes.tolist()
        sizes = [flows[f"{what}_{way}"].to_pylist() for what in ("packets", "bytes") for way in ("fwd", "bwd")]
        for sent, received, out, back, code in zip(*sizes, codes, strict=True):
            found.append((sent + received, out + back, vocabulary[code] if code >= 0 else ""))
    return found


def _compare(ours: Sequence[Flow], theirs: Sequence[Flow], capture: str, found: Agreement) -> None:
    mine, other = collections.Counter(ours), collections.Counter(theirs)
    found.flows += len(ours)
    found.results += len(theirs)
    found.equal += (mine & other).total()
    found.unmatched += sum(label == "" for _, _, label in ours)
    rest: dict[tuple[int, int], tuple[list[str], list[str]]] = collections.defaultdict(lambda: ([], []))
    for side, flows in enumerate(((other - mine).elements(), (mine - other).elements())):
        for packets, size, label in flows:
            rest[packets, size][side].append(label)
    found.same_flow += (mine & other).total() + sum(min(map(len, sides)) for sides in rest.values())
    for said, say in rest.values():
        for pair in zip(sorted(said), sorted(say), strict=False):
            found.labels[pair] += 1
            found.captures[pair].add(capture)


CAUSES = (
    "Another version of NFStream brings another nDPI, which renames (`Mining` to `ETHEREUM` and `BITCOIN`, "
    "`Sina(Weibo)` to `SinaWeibo`, `Skype_Teams` to `Teams`), divides (`TLS.Amazon` and `TLS.AmazonAlexa`), and in "
    "6.6.0 no longer knows Skype's calls. Pin the version whose names the vocabulary has.",
    "`avast_securedns.pcapng` is out of order, and NFStream gives its packets other times, seconds later: no window is "
    "near these flows. A damaged time in `fuzz-2021-06-07-c6c72a0a56.pcap` does the same.",
    "`capwap.pcap`: NFStream looks into CAPWAP under `decode_tunnels`; Flowloom meters the UDP flow around it, which "
    "then has no label.",
    "`mongodb.pcap` has the same five-tuple on two VLANs at once, and label windows do not tell VLANs apart: the card "
    "counts such flows as ambiguous.",
)
"""Reasons for the differences between labels, found in the captures."""


def page(found: dict[str, dict[str, Agreement]], captures: int) -> str:
    """Returns the Markdown page of agreements by version of NFStream and field."""
    lines = [
        "# Labels by DPI",
        "",
        "What `dpi` labels under the preset `nfstream`, against the results that NFStream's authors keep for the",
        f"{captures} captures of their tests. Made by",
        "",
        "<!-- not run: needs the results of NFStream's own tests and a second NFStream -->",
        "```sh",
        ".venv/bin/python benchmarks/dpi_agreement.py CAPTURES RESULTS --python PYTHON_WITH_ANOTHER_NFSTREAM",
        "```",
        "",
        "The results name a flow by its packets and bytes only. Flows are equal when these and the label are, counted",
        "per capture; guesses are kept. nDPI's names are a tool's output, not the truth.",
        "",
        "| NFStream | field | flows of Flowloom | of the results | equal | share | same packets and bytes | no label |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for version, fields in found.items():
        for field, agreement in fields.items():
            lines.append(
                f"| {version} | `{field}` | {agreement.flows:,} | {agreement.results:,} | {agreement.equal:,} "
                f"| {agreement.share:.2%} | {agreement.same_flow:,} | {agreement.unmatched:,} |"
            )
    lines += ["", "Causes of what differs:", "", *(f"* {cause}" for cause in CAUSES)]
    for version, fields in found.items():
        for field, agreement in fields.items():
            lines += ["", f"## NFStream {version}: `{field}`", ""]
            lines += ["Flows with the same packets and bytes and another label:", ""]
            lines += ["| results | here | flows | captures |", "|---|---|---|---|"]
            for (theirs, ours), count in sorted(agreement.labels.items(), key=lambda item: (-item[1], item[0])):
                where = _listed(agreement.captures[theirs, ours])
                lines.append(f"| {theirs} | {ours or 'no label'} | {count:,} | {where} |")
    return "\n".join([*lines, ""])


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(f"`{name}`" for name in ordered[:3]) + more


def nfstream_version(python: str) -> str:
    """Returns the version of NFStream that an interpreter has."""
    code = "import importlib.metadata; print(importlib.metadata.version('nfstream'))"
    return subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> None:
    """Compares all captures of a folder that have results, and writes the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("captures", type=Path, help="folder of captures")
    parser.add_argument("results", type=Path, help="folder of NFStream's results, a CSV file of the same name for each")
    parser.add_argument("--python", action="append", default=[], help="another interpreter, with NFStream and pyarrow")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "dpi.md")
    arguments = parser.parse_args()
    captures = sorted(path for path in arguments.captures.iterdir() if (arguments.results / path.name).is_file())
    found = {}
    with tempfile.TemporaryDirectory(prefix="flowloom-dpi-") as folder:
        os.symlink(ROOT, f"{folder}/flowloom")  # for interpreters in which Flowloom is not installed
        os.environ["PYTHONPATH"] = folder
        for python in [sys.executable, *arguments.python]:
            version = nfstream_version(python)
            found[version] = agree(captures, arguments.results, python, folder)
            for field, agreement in found[version].items():
                most = max(agreement.flows, agreement.results)
                print(f"NFStream {version}, {field}: {agreement.equal:,} of {most:,} flows ({agreement.share:.2%})")
    arguments.output.write_text(page(found, len(captures)))


if __name__ == "__main__":
    main()
