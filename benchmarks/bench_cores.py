"""`flowloom flows` with one and two workers on all cores, against tcpdump, on one large and on many small captures."""

import shutil

from generator import SyntheticCapture
from measure import FLOWLOOM, alternate, report, workplace

SMALL, LARGE = 100_000, 20_000_000
FILES, FILE_PACKETS = 100, 100_000


def main() -> None:
    """Prints one line for each input: marginal packets per second, ratios of both worker counts and of tcpdump."""
    with workplace() as folder:
        small, large = folder / "small.pcap", folder / "large.pcap"
        SyntheticCapture(SMALL).write(small)
        SyntheticCapture(LARGE).write(large)
        measure("one capture", [small], SMALL, [large], LARGE, folder)
        large.unlink()
        files = [folder / f"{number:03}.pcap" for number in range(FILES)]
        for number, file in enumerate(files):
            SyntheticCapture(FILE_PACKETS, seed=number).write(file)
        measure(f"{FILES} captures", files[:1], FILE_PACKETS, files, FILES * FILE_PACKETS, folder)


def measure(inputs: str, few: list, few_packets: int, many: list, many_packets: int, folder) -> None:
    """Measures all commands in turn on a little and on much; start-up drops out of the difference."""
    commands = {}
    for size, captures in (("few", few), ("many", many)):
        for workers in (1, 2):
            output = folder / f"{size}-{workers}.parquet"
            options = ["-o", output, "--k", "60", "--workers", str(workers)]
            commands[f"{workers} {size}"] = [*FLOWLOOM, "flows", *captures, *options]
        if shutil.which("tcpdump"):
            copies = " && ".join(f"tcpdump -r '{capture}' -w /dev/null" for capture in captures)
            commands[f"tcpdump {size}"] = ["sh", "-c", copies]
    taken = alternate(commands, rounds=5, core=None)

    def marginal(name: str) -> float:
        return (many_packets - few_packets) / (taken[f"{name} many"].seconds - taken[f"{name} few"].seconds)

    figures = {
        "input": inputs,
        "packets": many_packets,
        "packets_per_s_1": marginal("1"),
        "packets_per_s_2": marginal("2"),
        "ratio_2_to_1": marginal("2") / marginal("1"),
        "cpu_ratio_2_to_1": taken["2 many"].cpu_seconds / taken["1 many"].cpu_seconds,
        "peak_mib_1": taken["1 many"].peak_mib,
        "peak_mib_2": taken["2 many"].peak_mib,
    }
    if "tcpdump many" in taken:
        figures |= {
            "ratio_to_tcpdump_1": marginal("1") / marginal("tcpdump"),
            "ratio_to_tcpdump_2": marginal("2") / marginal("tcpdump"),
        }
    report("flows on all cores", **figures)


if __name__ == "__main__":
    main()
