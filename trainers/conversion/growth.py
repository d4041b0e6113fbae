"""Latecomer tasks (MULTA, section IV-C): a model grows by one, and says of the old ones to the bit what it did."""

from flowloom.trainers.conversion.layer_weights import layer_weights, set_layer_weights
from flowloom.trainers.models.lmmoe import LMMoE


def grown(model: LMMoE, task: str, classes: int, expert: bool = True) -> LMMoE:
    """Return a model with one more task, whose own parts are new; everything else is a copy.

    The new task's gate is a softmax over all experts, the new one included; gates of old tasks keep their width and
    never see it. As long as only the variables of layers that the smaller model lacks are trained, the outputs of old
    tasks stay the same to the bit.

    Args:
      model: not in its batched form; fuse the grown one.
      task: the name of the new task.
      classes: its number of classes.
      expert: whether the task brings an expert of its own.

    Raises:
      ValueError: if the model has the task already, or is batched.
    """
    if task in model.tasks:
        raise ValueError(f"task must be new, got {task!r}, which the model has among {', '.join(model.tasks)}")
    if model.batched:
        raise ValueError("a model must grow before it is fused, got a batched one; use fused(grown(...))")
    larger = LMMoE.from_config(
        {
            **model.get_config(),
            "tasks": {**model.tasks, task: classes},
            "experts": model.experts + expert,
            "generations": [*model.generations, *[1] * expert],
            "sees": {name: list(seen) for name, seen in model.sees.items()},
        }
    )
    set_layer_weights(larger, layer_weights(model))
    return larger
