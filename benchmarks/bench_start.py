"""Cost of small jobs: `flowloom --help`, and `flowloom flows` on a thousand synthetic packets, the first time too."""

import shlex

from generator import SyntheticCapture
from measure import FLOWLOOM, alternate, report, workplace


def main() -> None:
    """Prints seconds of both with kernels compiled before, and of the second one without any."""
    with workplace() as folder:
        SyntheticCapture(1000).write(folder / "tiny.pcap")
        tiny = [*FLOWLOOM, "flows", folder / "tiny.pcap", "-o", folder / "flows.parquet"]
        cache = shlex.quote(str(folder / "kernels"))
        first = f"rm -rf {cache} && NUMBA_CACHE_DIR={cache} {shlex.join(map(str, tiny))}"
        commands = {"help": [*FLOWLOOM, "--help"], "tiny": tiny, "first": ["sh", "-c", first]}
        taken = alternate(commands, rounds=5)
        report(
            "start",
            seconds_help=taken["help"].seconds,
            seconds_tiny_flows=taken["tiny"].seconds,
            seconds_first_flows=taken["first"].seconds,
        )


if __name__ == "__main__":
    main()
