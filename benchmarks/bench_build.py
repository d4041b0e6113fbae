"""`flowloom build` against `flowloom flows`, and two workers against one, on synthetic captures."""

from pathlib import Path

from generator import SyntheticCapture
from measure import FLOWLOOM, alternate, report, workplace

LARGE, TINY, FILES, ALONE = 20_000_000, 500, 200, 20

MANIFEST = """\
name: benchmark
captures:
  - {{glob: "{glob}", labels: {{synthetic: true}}}}
definition: {{preset: default, k: 60}}
tasks:
  synthetic: {{kind: binary}}
splits: {{by: flow}}
leakage: skip
"""


def main() -> None:
    """Prints times of `build` with 1 and 2 workers and of `flows`, for one large capture and many tiny ones."""
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
                "build 1": build_command(folder, "large", 1),
                "build 2": build_command(folder, "large", 2),
                "flows tiny": [*FLOWLOOM, "flows", folder / "tiny" / "*.pcap", "-o", folder / "flows.parquet"],
                "build tiny": build_command(folder, "tiny", 2),
                "flows each": _each(folder),
            },
            rounds=2,
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
            seconds_flows_one_by_one=seconds["flows each"] * FILES / ALONE,
            ratio_build_to_flows_one_by_one=seconds["build tiny"] / (seconds["flows each"] * FILES / ALONE),
            one_by_one_files_timed=ALONE,
        )


def _each(folder: Path) -> list[str]:
    """Returns a shell command that runs `flows` once for each of some tiny captures."""
    flows = f"'{FLOWLOOM[0]}' flows '{folder}/tiny/'$i.pcap -o '{folder}/flows.parquet'"
    return ["sh", "-c", f"for i in $(seq 0 {ALONE - 1}); do {flows} || exit 1; done"]


def build_command(folder: Path, name: str, workers: int) -> list[str]:
    """Returns a shell command that builds into a folder which is not there yet."""
    out = folder / f"{name}-{workers}"
    words = [*FLOWLOOM, "build", str(folder / f"{name}.yaml"), str(out), "--workers", str(workers)]
    return ["sh", "-c", f"rm -rf '{out}' && exec " + " ".join(f"'{word}'" for word in words)]


if __name__ == "__main__":
    main()
