"""Cost of small jobs: `flowloom --help`, and `flowloom flows` on a capture of a thousand synthetic packets."""

from generator import SyntheticCapture
from measure import FLOWLOOM, alternate, report, workplace


def main() -> None:
    """Prints seconds of both, with kernels compiled before."""
    with workplace() as folder:
        SyntheticCapture(1000).write(folder / "tiny.pcap")
        commands = {
            "help": [*FLOWLOOM, "--help"],
            "tiny": [*FLOWLOOM, "flows", folder / "tiny.pcap", "-o", folder / "flows.parquet"],
        }
        taken = alternate(commands, rounds=5)
        report("start", seconds_help=taken["help"].seconds, seconds_tiny_flows=taken["tiny"].seconds)


if __name__ == "__main__":
    main()
