"""Costs of actions of one or several runs, in both runtimes, trained or fused."""

import pytest
from written_runs import CLASSES, TASKS, K, seeded, write_run

from flowloom.trainers.evaluation import cost
from flowloom.trainers.models.lmmoe import LMMoE


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "form"), [("tensorflow", "fused"), ("litert", "trained"), ("litert", "fused")])
def test_single_tasks_and_one_model_of_all_are_comparable(tmp_path, runtime, form):
    both = write_run(tmp_path / "both", seeded(LMMoE, K, 3, CLASSES, experts=1, units=8))
    singles = [
        write_run(tmp_path / task.name, seeded(LMMoE, K, 3, {task.name: CLASSES[task.name]}, 1, 8), (task,))
        for task in TASKS
    ]
    one, several = cost.measure([both, singles], runtime, form)
    expert = 4 * 8 * (3 + 8 + 1)
    assert several["parameters"] == one["parameters"] + expert
    assert several["macs"] == one["macs"] + K * 4 * 8 * (3 + 8)
    for found in (one, several):
        assert (found["runtime"], found["form"]) == (runtime, form)
        assert found["repeats"] >= 200
        assert found["inference_us"] >= found["inference_p10_us"] > 0
        assert found["inference_cycles"] > 0
        assert found["cycles_by"].startswith(("perf_event", "nominal"))


def test_an_unknown_runtime_or_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="runtime must be one of tensorflow, litert, onnx, got 'jax'"):
        cost.measure([tmp_path], "jax")
    with pytest.raises(ValueError, match="form must be one of trained, fused, got 'pruned'"):
        cost.measure([tmp_path], "litert", "pruned")
