"""Arms of the IoT Sentinel table: recipes with their settings, nearest neighbours, and the ceiling of the labels."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from flowloom.pipelines.reproduce.engine.experiments import Experiment
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_data import TASKS
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.recipes.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Arm:
    """A row of the table.

    Attributes:
      name: unique among arms: of its recipe and what differs from it.
      title: name on the page.
      method: `recipe` trains one; `neighbours` and `ceiling` need no training.
      recipe, overrides: as of `flowloom train`, for `recipe`.
      apart: whether each task has a model of its own.
    """

    name: str
    title: str
    method: Literal["recipe", "neighbours", "ceiling"] = "recipe"
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    apart: bool = False


BINS = (
    "model.input=bins",
    "feed.scaling=none",
    "feed.k=30",
    "feed.channels=[size, gap, direction, tcp_flags, protocol, ttl, window]",
)
"""Settings by which a mixture of experts reads packets in units as bins."""
ARMS: tuple[Arm, ...] = (
    Arm("flow-net", "flow-net, multi-task", recipe="flow-net"),
    Arm("flow-net-apart", "flow-net, each task alone", recipe="flow-net", apart=True),
    Arm("multa", "LMMoE (MULTA), scaled features", recipe="multa", overrides=("schedule.epochs=30",)),
    Arm("multa-bins", "LMMoE (MULTA), binned packets", recipe="multa", overrides=BINS),
    Arm("cesnet-cnn", "CESNET's CNN of 30 packets", recipe="cesnet-cnn"),
    Arm("flowpic", "FlowPic with its CNN, 32 x 32", recipe="flowpic"),
    Arm("multitask-cnn", "CNN of Rezaei and Liu", recipe="multitask-cnn"),
    Arm("extra-trees", "extra trees", recipe="extra-trees"),
    Arm("forest", "random forest", recipe="forest"),
    Arm("boosted-trees", "boosted trees", recipe="boosted-trees"),
    Arm("neighbours", "5 nearest neighbours, first 20 packets", method="neighbours"),
    Arm("ceiling", "perfect memory of sizes and directions", method="ceiling"),
)
MAIN, TREES = "flow-net", ("extra-trees", "forest", "boosted-trees")
"""The arm that claims are about, and the trees that it is compared with."""


@dataclasses.dataclass(frozen=True)
class SentinelCell:
    """One training and its figures.

    Attributes:
      task: the only task of the model; empty for all.
      content: content hash of the dataset, so that other data is computed anew.
      rows: split that is predicted.
    """

    arm: str
    method: str
    recipe: str
    overrides: tuple[str, ...]
    task: str
    split_seed: int
    content: str
    rows: str

    @property
    def name(self) -> str:
        """File name of the cell, unique in a grid."""
        return cell_name(self.arm, self.split_seed, self.task)

    @property
    def experiment(self) -> Experiment:
        """The cell as an experiment."""
        settings = dataclasses.asdict(self)
        return Experiment(self.name, {**settings, "overrides": list(self.overrides)})

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "SentinelCell":
        """Returns the cell of an experiment's settings."""
        return cls(**{**settings, "overrides": tuple(settings["overrides"])})


def cell_name(arm: str, split_seed: int, task: str = "") -> str:
    """Returns the name of an arm's cell on a split."""
    return "__".join([arm, *([task] if task else []), f"split-{split_seed}"])


def known_arms(arms: Sequence[Arm] = ARMS) -> tuple[tuple[Arm, ...], tuple[Arm, ...]]:
    """Returns the arms whose recipe and settings this version has, and the others."""
    known = [arm for arm in arms if _is_known(arm)]
    return tuple(known), tuple(arm for arm in arms if arm not in known)


def _is_known(arm: Arm) -> bool:
    if arm.method == "recipe":
        try:
            Recipe.named(arm.recipe, arm.overrides)
        except FlowloomError:
            return False
    return True


def grid(arms: Sequence[Arm], contents: Mapping[int, str], rows: str, more: Sequence[str] = ()) -> list[Experiment]:
    """Returns the experiments of all arms on all splits.

    Args:
      arms: rows of the table.
      contents: content hash of the dataset of each split, by the seed of the split.
      rows: split that is predicted.
      more: settings of all recipes that are trained by epochs, as `key=value` texts.

    Raises:
      FlowloomError: if the name of an arm cannot be part of a file name.
    """
    cells = []
    for split_seed, content in contents.items():
        for arm in arms:
            if not re.fullmatch(r"[a-z0-9-]+", arm.name):
                raise FlowloomError(f"names of arms must have the letters a-z, digits and hyphens, got {arm.name!r}")
            settings: tuple[str, ...] = ()
            if arm.method == "recipe":
                trees = Recipe.named(arm.recipe, arm.overrides).model.is_trees
                settings = (*arm.overrides, *(() if trees else more), f"seed={split_seed}")
            for task in TASKS if arm.apart else ("",):
                only = (f"feed.tasks=[{task}]",) if task else ()
                cell = SentinelCell(
                    arm.name, arm.method, arm.recipe, (*settings, *only), task, split_seed, content, rows
                )
                cells.append(cell.experiment)
    return cells
