"""Recipes: all settings of a training but its dataset, validated when a recipe is made."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import pydantic
import pydantic_core

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.errors import FlowloomError, did_you_mean, placed_message
from flowloom.trainers.models.baselines.unit_inputs import UNIT_CHANNELS
from flowloom.trainers.recipes.feed_settings import FeedSettings
from flowloom.trainers.recipes.loss_settings import LossSettings
from flowloom.trainers.recipes.model_settings import PATCH_HEADS, ModelSettings
from flowloom.trainers.recipes.named_recipes import RECIPES
from flowloom.trainers.recipes.schedule_settings import ScheduleSettings
from flowloom.trainers.recipes.setting_keys import SECTION_KEYS, in_sections, parse_setting, section_key


class Recipe(pydantic.BaseModel):
    """A model and its training: settings in four sections.

    Sections, `section.key` and the flat keys of 0.1 are accepted: `Recipe(name="small", model={"units": 8})` equals
    `Recipe.model_validate({"name": "small", "units": 8})`.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    """Name of the recipe that this one began as."""
    model: ModelSettings = ModelSettings()
    """The network and its sizes."""
    loss: LossSettings = LossSettings()
    """The loss and the weights of tasks."""
    schedule: ScheduleSettings = ScheduleSettings()
    """The steps of a training, its optimizer, and its end."""
    feed: FeedSettings = FeedSettings()
    """The rows, labels and features that the model is trained on."""
    seed: int = pydantic.Field(7, ge=0, lt=2**32)
    """Seed of the initial weights, the order of rows and all other choices."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _in_sections(cls, settings: Any) -> Any:
        return in_sections(settings) if isinstance(settings, Mapping) else settings

    @pydantic.model_validator(mode="after")
    def _sections_fit(self) -> Self:
        for rule in RULES:
            if problem := rule(self):
                raise ValueError(problem)
        return self

    @property
    def view(self) -> View:
        """The view of a dataset whose rows the model reads."""
        if not self.model.reads_rows and not (self.model.is_trees and self.feed.source != "flows"):
            return "flows"
        return "packets" if self.feed.source == "bytes" else "tables"

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by `section.key`."""
        return {key: self.setting(key) for key in SECTION_KEYS}

    def setting(self, key: str) -> Any:
        """Returns the value of a setting by its `section.key` or flat key."""
        section, _, inner = section_key(key).rpartition(".")
        return getattr(getattr(self, section) if section else self, inner)

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Returns a recipe with other values for some settings, by `section.key` or flat key.

        Raises:
          pydantic.ValidationError: if the settings do not fit each other.
        """
        return self.model_validate({"name": self.name, **self.settings, **_by_section_key(changes)})

    @classmethod
    def named(cls, name: str, overrides: Iterable[str] = ()) -> Self:
        """Returns a named recipe with other values for some settings.

        Args:
          name: a key of `RECIPES`.
          overrides: `key=value` texts, with a `section.key` or a flat key and a YAML value: `tower=[32, 16]`,
            `loss.weights={app: 2}`.

        Raises:
          FlowloomError: if the recipe or a key is unknown, or a value is of the wrong type or out of range.
        """
        if name not in RECIPES:
            raise FlowloomError(
                f"recipe must be one of {', '.join(RECIPES)}, got {name!r}{did_you_mean(name, RECIPES)}"
            )
        recipe = cls.model_validate({"name": name, **RECIPES[name]})
        changes = dict(parse_setting(text) for text in overrides)
        try:
            return recipe.changed(changes)
        except pydantic.ValidationError as error:
            raise FlowloomError("; ".join(_explained(entry, recipe) for entry in error.errors())) from None


def _by_section_key(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {section_key(key): value for key, value in changes.items()}


def _explained(entry: Any, recipe: Recipe) -> str:
    """Returns a pydantic error as `model.experts must be ..., got 0; remove it to keep 2`."""
    loc = [str(part) for part in entry["loc"]]
    place = ".".join(loc)
    if len(loc) < 2 and place != "seed":  # a rule of the recipe or of a section, which names its settings
        return entry["msg"].removeprefix("Value error, ")
    if entry["type"] == "extra_forbidden":
        return f"{place} is an unknown key; remove it"
    key = ".".join(loc[:2])
    kept = pydantic_core.to_json(recipe.setting(key)).decode()
    return f"{placed_message(place, entry)}; change {key} or remove it to keep {kept}"


def _paradigm_fits_the_model(recipe: Recipe) -> str | None:
    kind, paradigm = recipe.model.kind, recipe.schedule.paradigm
    needed = {"single": "cnn_rnn2", "transfer": "multitask_cnn"}.get(paradigm)
    if needed and kind != needed:
        return f"schedule.paradigm={paradigm} needs model.kind={needed}, got {kind}; set model.kind={needed}"
    if kind == "cnn_rnn2" and paradigm != "single":
        return f"model.kind=cnn_rnn2 has a network per task and needs schedule.paradigm=single, got {paradigm}"
    return None


def _scaling_fits_the_model(recipe: Recipe) -> str | None:
    if recipe.model.kind == "lmmoe" and recipe.feed.scaling == "code_compat":
        return (
            "feed.scaling=code_compat pads flows at the front, which model.kind=lmmoe would read as packets; set "
            "feed.scaling=linear"
        )
    return None


def _units_fit_the_model(recipe: Recipe) -> str | None:
    model, feed = recipe.model, recipe.feed
    if recipe.view != "flows":  # trees of other views have no packets in units
        return None
    if model.reads_unit_channels and (feed.scaling != "none" or feed.channels != UNIT_CHANNELS):
        wanted = ", ".join(UNIT_CHANNELS)
        return (
            f"model.kind={model.kind} needs feed.channels=[{wanted}] and feed.scaling=none, got "
            f"[{', '.join(feed.channels)}] and {feed.scaling}; set both"
        )
    if model.reads_units and feed.scaling != "none":
        return (
            f"model.kind={model.kind} reads packets in units and needs feed.scaling=none, got {feed.scaling}; set "
            "feed.scaling=none"
        )
    if model.kind == "lmmoe" and feed.scaling == "none" and not model.reads_units:
        return "feed.scaling=none gives packets in units, which model.kind=lmmoe needs as bins; set model.input=bins"
    return None


def _patches_fit_their_heads(recipe: Recipe) -> str | None:
    model = recipe.model
    width, heads = model.token_width, model.attention_heads or PATCH_HEADS
    if model.kind == "byte_patches" and width % heads:
        return f"model.attention_heads must divide model.token_width={width}, got {heads}; change one of them"
    return None


def _weighting_has_joint_steps(recipe: Recipe) -> str | None:
    weighting, paradigm = recipe.loss.weighting, recipe.schedule.paradigm
    if weighting != "fixed" and paradigm in ("rainbow", "incremental", "single"):
        return (
            f"loss.weighting={weighting} cannot be combined with schedule.paradigm={paradigm}, whose steps train one "
            "task each; set loss.weighting=fixed"
        )
    return None


def _balanced_tasks_share_rows(recipe: Recipe) -> str | None:
    if recipe.feed.balance and recipe.schedule.paradigm == "incremental":
        return (
            "feed.balance cannot be combined with schedule.paradigm=incremental, whose tasks share no rows; remove "
            "feed.balance"
        )
    return None


def _isolation_adds_experts(recipe: Recipe) -> str | None:
    model = recipe.model
    if recipe.schedule.latecomer == "isolate" and (model.kind, model.architecture) != ("lmmoe", "mmoe"):
        return (
            "schedule.latecomer=isolate adds experts and needs model.kind=lmmoe and model.architecture=mmoe, got "
            f"model.kind={model.kind} and model.architecture={model.architecture}; choose another latecomer"
        )
    return None


def _arrivals_are_the_tasks(recipe: Recipe) -> str | None:
    tasks, arrivals = recipe.feed.tasks, recipe.schedule.arrivals
    if tasks and arrivals and set(tasks) != set(arrivals):
        return (
            f"schedule.arrivals must order the tasks of feed.tasks ({', '.join(tasks)}), got {', '.join(arrivals)}; "
            "remove feed.tasks"
        )
    return None


def _table_settings_are_of_tables(recipe: Recipe) -> str | None:
    feed = recipe.feed
    if recipe.view != "tables" and (feed.table_scaling != "standard" or feed.most_features):
        return (
            "feed.table_scaling and feed.most_features need feed.source=features and a model of rows, got "
            f"feed.source={feed.source} and model.kind={recipe.model.kind}; remove them"
        )
    return None


def _waves_are_of_ranks(recipe: Recipe) -> str | None:
    if recipe.view == "tables" and recipe.model.expanded and recipe.feed.table_scaling != "quantile":
        return (
            "model.expanded=true on tables needs feed.table_scaling=quantile, as its waves are of numbers in [0, 1], "
            f"got {recipe.feed.table_scaling}; set feed.table_scaling=quantile as recipe mtc-lite-tables does"
        )
    return None


def _synthetic_rows_are_of_tables(recipe: Recipe) -> str | None:
    feed = recipe.feed
    if feed.balance and feed.balance.how == "smote" and (recipe.view != "tables" or feed.labels_per_class):
        return (
            "feed.balance with how=smote needs feed.source=features with a model of rows and no feed.labels_per_class, "
            f"got feed.source={feed.source}, model.kind={recipe.model.kind} and "
            f"{len(feed.labels_per_class)} tasks in feed.labels_per_class; choose another how"
        )
    return None


def _microbatch_sums_gradients(recipe: Recipe) -> str | None:
    if recipe.schedule.microbatch and recipe.loss.weighting not in ("fixed", "dwa"):
        return (
            "schedule.microbatch needs loss.weighting=fixed or dwa, whose gradients are sums over rows, got "
            f"{recipe.loss.weighting}; remove schedule.microbatch"
        )
    return None


def _augmentation_fits_the_features(recipe: Recipe) -> str | None:
    feed = recipe.feed
    if recipe.view != "flows" and feed.augmentation.changes_rows:
        return f"feed.augment changes flows and needs a model of flows, got model.kind={recipe.model.kind}; remove it"
    return feed.augmentation.unfit(feed.scaling, feed.channels)


def _source_fits_the_model(recipe: Recipe) -> str | None:
    if recipe.feed.source == "flows" and recipe.model.reads_rows:
        return (
            f"feed.source must be bytes or features for model.kind={recipe.model.kind}, got flows; set "
            "feed.source=bytes"
        )
    return None


def _trees_have_no_epochs(recipe: Recipe) -> str | None:
    if not recipe.model.is_trees:
        return None
    for section, settings in (("schedule", recipe.schedule), ("loss", recipe.loss)):
        for key, value in settings:
            if value != getattr(type(settings)(), key):
                return (
                    f"{section}.{key} has no effect on model.kind={recipe.model.kind}, which is fitted as a whole, got "
                    f"{value}; remove it"
                )
    return None


RULES: tuple[Callable[[Recipe], str | None], ...] = (
    _paradigm_fits_the_model,
    _scaling_fits_the_model,
    _units_fit_the_model,
    _patches_fit_their_heads,
    _weighting_has_joint_steps,
    _balanced_tasks_share_rows,
    _isolation_adds_experts,
    _arrivals_are_the_tasks,
    _table_settings_are_of_tables,
    _waves_are_of_ranks,
    _synthetic_rows_are_of_tables,
    _microbatch_sums_gradients,
    _augmentation_fits_the_features,
    _source_fits_the_model,
    _trees_have_no_epochs,
)
"""Rules between sections: each returns what is wrong and how to mend it, or None."""
