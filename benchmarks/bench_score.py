"""`flowloom score` of a capture by a tuned LMMoE against metering alone, and its memory at five times the flows."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
from generator import SyntheticCapture
from measure import FLOWLOOM, alternate, report, run, workplace

FLOWS, PACKETS_PER_FLOW, K = 1_000_000, 10, 20
EXPERTS, UNITS = 2, 16
MORE = 5


def main() -> None:
    """Prints times of score and flows on one capture, interleaved, and the peak memory there and with more flows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=FLOWS)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with workplace() as folder:
        model = folder / "model"
        write_export(model)
        captures = {}
        # both have several ranges; as many are metered at once as there are cores
        for name, flows in (("all", arguments.flows), ("more", MORE * arguments.flows)):
            captures[name] = folder / f"{name}.pcap"
            wanted = flows * PACKETS_PER_FLOW
            SyntheticCapture(wanted, packets_per_flow=PACKETS_PER_FLOW, captured_bytes=96).write(captures[name])
        flows_command = [*FLOWLOOM, "flows", captures["all"], "-o", folder / "flows.parquet", "--k", str(K)]
        commands = {"flows": flows_command, "score": score_command(model, captures["all"], folder / "scores")}
        taken = alternate(commands, rounds=arguments.rounds, core=None)
        more = run(score_command(model, captures["more"], folder / "scores"), core=None)
        report(
            "score",
            capture="synthetic",
            flows=arguments.flows,
            packets=arguments.flows * PACKETS_PER_FLOW,
            experts=EXPERTS,
            units=UNITS,
            k=K,
            cores=len(os.sched_getaffinity(0)),
            seconds_flows=taken["flows"].seconds,
            seconds_score=taken["score"].seconds,
            ratio_to_metering=taken["flows"].seconds / taken["score"].seconds,
            cpu_seconds_flows=taken["flows"].cpu_seconds,
            cpu_seconds_score=taken["score"].cpu_seconds,
            flows_per_s=arguments.flows / taken["score"].seconds,
            peak_mib=taken["score"].peak_mib,
            flows_more=MORE * arguments.flows,
            seconds_more=more.seconds,
            peak_mib_more=more.peak_mib,
            ratio_of_peaks=more.peak_mib / taken["score"].peak_mib,
        )


def score_command(model: Path, capture: Path, out: Path) -> list[str]:
    """Returns a shell command that scores into a folder which is not there yet."""
    words = " ".join(f"'{word}'" for word in (*FLOWLOOM, "score", model, capture, "-o", out))
    return ["sh", "-c", f"rm -rf '{out}' && exec {words}"]


def write_export(folder: Path) -> None:
    """Writes an export of a model with random weights, as `flowloom export` would; its scores do not matter."""
    from flowloom.schemas.corpus.flow_definition import FlowDefinition
    from flowloom.trainers.deploy.export_layout import CONTRACT, WEIGHTS
    from flowloom.trainers.feed.flow_spec import CHANNELS, FeatureSpec

    spec = FeatureSpec(k=K, channels=tuple(CHANNELS), scaling="fixed")
    tasks, channels, width = {"app": 14, "tunnel": 3, "attack": 2}, len(spec.features), 4 * UNITS
    generator = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return generator.normal(0, 0.3, shape).astype(np.float32)

    weights = {
        "kernel": drawn(EXPERTS, channels, width), "recurrent_kernel": drawn(EXPERTS, UNITS, width),
        "bias": drawn(EXPERTS, width), "gate_kernel": drawn(len(tasks), channels, EXPERTS),
        "gate_bias": drawn(len(tasks), EXPERTS), "gated": np.ones(len(tasks), bool),
        "sees": np.ones((len(tasks), EXPERTS), bool), "shares": np.zeros((len(tasks), EXPERTS), np.float32),
        "tower_kernel_0": drawn(len(tasks), UNITS, 16), "tower_bias_0": drawn(len(tasks), 1, 16),
    }  # fmt: skip
    for number, classes in enumerate(tasks.values()):
        outputs = classes if classes > 2 else 1
        weights[f"head_kernel_{number}"], weights[f"head_bias_{number}"] = drawn(16, outputs), drawn(outputs)
    folder.mkdir()
    np.savez(folder / WEIGHTS, **weights)
    structure = {"k": K, "gate_input": "mean", "tasks": tasks, "tower_layers": 1}
    contract = {
        "format": "savedmodel", "int8": False, "recipe": "multa-mean",
        "view": "flows", "features": spec.model_dump(mode="json"),
        "definition": FlowDefinition(k=K).model_dump(mode="json"),
        "tasks": [{"name": name, "vocabulary": [f"{name}_{n}" for n in range(count)]} for name, count in tasks.items()],
        "dataset": {"name": "synthetic", "content_hash": "0" * 64}, "streaming": {"structure": structure},
    }  # fmt: skip
    (folder / CONTRACT).write_text(json.dumps(contract))


if __name__ == "__main__":
    main()
