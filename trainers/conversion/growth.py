"""Growth by latecomer tasks (MULTA, section IV-C), which leaves old outputs the same to the bit."""

from flowloom.trainers.conversion.layer_weights import layer_weights, set_layer_weights
from flowloom.trainers.models.lmmoe import LMMoE


def grown(model: LMMoE, task: str, classes: int, expert: bool = True) -> LMMoE:
    """Returns a model with one more task, whose own parts are new; all other weights are copies.

    The new task's gate is a softmax over all experts, including the new one. The gates of old tasks keep their width
    and never read it. The outputs of old tasks stay the same to the bit as long as training updates the new task's
    layers alone.

    Args:
      model: the smaller model, not in its batched form.
      task: name of the new task.
      classes: its number of classes.
      expert: gives the task an expert of its own.

    Raises:
      ValueError: if the model has the task already, or is batched.
    """
    if task in model.tasks:
        raise ValueError(f"task must be new, got {task!r}, which is among the model's tasks {', '.join(model.tasks)}")
    if model.batched:
        raise ValueError("model must not be batched, got a batched one; use fused(grown(...))")
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
