"""`flowloom flows` on a synthetic capture, one core, against tcpdump, which merely reads and copies it."""

import shutil

from generator import SyntheticCapture
from measure import FLOWLOOM, alternate, report, workplace

SMALL, LARGE = 100_000, 5_000_000


def main() -> None:
    """Prints packets per second, whole and marginal (start-up drops out), the ratio to tcpdump, and peak memory."""
    with workplace() as folder:
        commands = {}
        for name, packets in (("small", SMALL), ("large", LARGE)):
            capture = folder / f"{name}.pcap"
            SyntheticCapture(packets).write(capture)
            commands[f"flowloom {name}"] = [*FLOWLOOM, "flows", capture, "-o", folder / f"{name}.parquet", "--k", "60"]
            if shutil.which("tcpdump"):
                commands[f"tcpdump {name}"] = ["tcpdump", "-r", capture, "-w", "/dev/null"]
        taken = alternate(commands, rounds=3)

        def marginal(tool: str) -> float:
            return (LARGE - SMALL) / (taken[f"{tool} large"].seconds - taken[f"{tool} small"].seconds)

        figures = {
            "capture": "synthetic",
            "packets": LARGE,
            "packets_per_s_whole": LARGE / taken["flowloom large"].seconds,
            "packets_per_s_marginal": marginal("flowloom"),
            "peak_mib": taken["flowloom large"].peak_mib,
            "peak_mib_small": taken["flowloom small"].peak_mib,
        }
        if "tcpdump large" in taken:
            figures |= {"tcpdump_per_s_marginal": marginal("tcpdump")}
            figures |= {"ratio_to_tcpdump": marginal("flowloom") / marginal("tcpdump")}
        report("flows", **figures)


if __name__ == "__main__":
    main()
