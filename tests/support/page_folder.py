"""A folder in which the blocks of a page run: what the page presupposes is made once and copied there."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import zstandard
from page_blocks import ROOT, blocks

from flowloom.pipelines.demo_corpus import CORPUS

Run = Callable[..., object]
"""A function that runs one `flowloom` command in the working folder."""


class Stock:
    """Captures, manifests, datasets and models that pages presuppose, each made when first asked for."""

    def __init__(self, folder: Path, run: Run) -> None:
        """Keeps all things in a folder; `run` runs a command in the working folder, which `make` changes."""
        self._folder = folder
        self._run = run

    def put(self, source: str, target: Path) -> None:
        """Copies a thing, or a part of one (`web/plain-01.pcap.zst`), to a path that does not exist yet."""
        self._make(source.partition("/")[0])
        place = self._folder / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            target.symlink_to(place.readlink())
        elif place.is_dir():
            shutil.copytree(place, target)
        else:
            shutil.copy(place, target)

    def _make(self, name: str) -> None:
        if not (self._folder / name).exists():
            MAKERS[name](self)

    def _captures(self, source: str, name: str) -> None:
        shutil.copytree(CORPUS / "captures" / source, self._folder / name)

    def _embedded(self) -> None:
        (self._folder / "captures").mkdir()
        self._captures("web/nginx", "captures/web")
        self._captures("terminal/ssh", "captures/ssh")

    def _manifest(self) -> None:
        (text,) = (block.text for block in blocks(ROOT / "README.md") if block.comments.get("file") == "corpus.yaml")
        (self._folder / "corpus.yaml").write_text(text)

    def _dataset(self, name: str = "DATASET") -> None:
        for needed in ("web", "ssh", "corpus.yaml"):
            self._make(needed)
        self._run(self._folder, "build", "corpus.yaml", name)

    def _model(self) -> None:
        self._make("DATASET")
        self._run(self._folder, "train", "DATASET", "-o", "RUN", "--set", "epochs=1")

    def _export(self) -> None:
        self._make("RUN")
        self._run(self._folder, "export", "RUN", "-o", "DEPLOYED")

    def _scores(self) -> None:
        self._make("DEPLOYED")
        self._run(self._folder, "score", "DEPLOYED", "web/plain-01.pcap.zst", "-o", "SCORES")

    def _flows(self) -> None:
        self._make("web")
        self._run(self._folder, "flows", "web/plain-01.pcap.zst", "-o", "flows.parquet")

    def _ring(self) -> None:
        """Cuts a capture into files of 100 records, named as tcpdump names them."""
        (self._folder / "ring").mkdir()
        data = (
            zstandard.ZstdDecompressor()
            .stream_reader((CORPUS / "captures/web/nginx/plain-01.pcap.zst").read_bytes())
            .read()
        )
        starts = [24]
        while starts[-1] < len(data):
            starts.append(starts[-1] + 16 + struct.unpack_from("<I", data, starts[-1] + 8)[0])
        for number, begin in enumerate(range(0, len(starts) - 1, 100)):
            records = data[starts[begin] : starts[min(begin + 100, len(starts) - 1)]]
            (self._folder / f"ring/gateway.pcap{number or ''}").write_bytes(data[:24] + records)

    def _link(self, name: str) -> None:
        (self._folder / name).symlink_to(ROOT / name)


MAKERS: dict[str, Callable[[Stock], None]] = {
    "captures": Stock._embedded,
    "renegotiation": lambda stock: stock._captures("attack/tls_renegotiation", "renegotiation"),
    "web": lambda stock: stock._captures("web/nginx", "web"),
    "ssh": lambda stock: stock._captures("terminal/ssh", "ssh"),
    "corpus.yaml": Stock._manifest,
    "DATASET": Stock._dataset,
    "RUN": Stock._model,
    "DEPLOYED": Stock._export,
    "SCORES": Stock._scores,
    "flows.parquet": Stock._flows,
    "ring": Stock._ring,
    "tests": lambda stock: stock._link("tests"),
    ".venv": lambda stock: stock._link(".venv"),
    "benchmarks": lambda stock: stock._link("benchmarks"),
}
"""By the name of a thing that pages presuppose, the method that makes it."""
