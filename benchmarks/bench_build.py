"""`flowloom build` against `flowloom flows`, and two workers against one, on synthetic captures."""

from pathlib import Path

from generator import SyntheticCapture
from measure import FLOWLOOM, alternate, report, workplace

LARGE, TINY, FILES = 4_000_000, 500, 200

MANIFEST = """\
name: benchmark
captures:
  - {{glob: "{glob}", labels: {{synthetic: true}}}}
definition: {{preset: default, k: 60}}
tasks:
  synthetic: {{kind: binary}}
splits: {{by: flow}}
"""


def main() -> None:
    """Print the times of one large capture by build with 1 and 2 workers and by flows, and of many tiny captures."""
    with workplace() as folder:
        SyntheticCapture(LARGE).write(folder / "large.pcap")
        (folder / "tiny").mkdir()
        for number in range(FILES):
            SyntheticCapture(TINY, seed=number).write(folder / "tiny" / f"{number}.pcap")
        for name, glob in (("large", "large.pcap"), ("tiny", "tiny/*.pcap")):
            (folder / f"{name}.yaml").write_text(MANIFEST.format(glob=glob))
        taken = alternate(
            {
                "flows": [*FLOWLOOM, "flows", folder / "large.pcap", "-o", folder / "flows.parquet"],
                "build 1": _build(folder, "large", 1),
                "build 2": _build(folder, "large", 2),
                "flows tiny": [*FLOWLOOM, "flows", folder / "tiny" / "*.pcap", "-o", folder / "flows.parquet"],
                "build tiny": _build(folder, "tiny", 2),
            },
            rounds=3,
            core=None,
        )
        seconds = {name: run.seconds for name, run in taken.items()}
        report(
            "build",
            capture="synthetic",
            packets=LARGE,
            seconds_flows=seconds["flows"],
            seconds_build_1_worker=seconds["build 1"],
            seconds_build_2_workers=seconds["build 2"],
            ratio_build_to_flows=seconds["build 2"] / seconds["flows"],
            speedup_2_workers=seconds["build 1"] / seconds["build 2"],
            peak_mib_build=taken["build 2"].peak_mib,
        )
        report(
            "build tiny",
            capture="synthetic",
            files=FILES,
            seconds_flows=seconds["flows tiny"],
            seconds_build=seconds["build tiny"],
            ratio_build_to_flows=seconds["build tiny"] / seconds["flows tiny"],
        )


def _build(folder: Path, name: str, workers: int) -> list[str]:
    """Return a shell command that builds into a folder which is not there yet."""
    out = folder / f"{name}-{workers}"
    words = [*FLOWLOOM, "build", str(folder / f"{name}.yaml"), str(out), "--workers", str(workers)]
    return ["sh", "-c", f"rm -rf '{out}' && exec " + " ".join(f"'{word}'" for word in words)]


if __name__ == "__main__":
    main()
