"""Commands that print what can be chosen: recipes, presets of flow definitions, and schemas for editors."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from flowloom.pipelines.cli.shared import Json
from flowloom.pipelines.terminal.terminal_text import print_json, say, show
from flowloom.schemas.errors import FlowloomError, did_you_mean

SCHEMAS = ("manifest", "recipe")


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe, to print its settings. Default: list all.")] = None,
    as_json: Json = False,
) -> None:
    """List the recipes of `flowloom train`, or print the settings of one."""
    from flowloom.trainers.recipes.named_recipes import RECIPES, SUMMARIES
    from flowloom.trainers.recipes.recipe import Recipe

    if name is None:
        _list(SUMMARIES, {each: _choice(settings) for each, settings in RECIPES.items()}, as_json)
        return
    recipe = Recipe.named(name)
    if as_json:
        print_json(recipe.model_dump(mode="json"))
        return
    defaults = Recipe(name=name).settings
    say(f"{name}: {SUMMARIES[name]}")
    _show_settings(recipe.settings, {key for key, value in recipe.settings.items() if value != defaults[key]})
    say(
        "change a setting with: flowloom train DATASET -o RUN --recipe NAME --set KEY=VALUE; * differs from the default"
    )


def presets(
    name: Annotated[str | None, typer.Argument(help="A preset, to print its options. Default: list all.")] = None,
    as_json: Json = False,
) -> None:
    """List the presets of the flow definition, or print the options of one."""
    from flowloom.schemas.corpus.flow_definition import PRESETS, SUMMARIES, FlowDefinition

    if name is None:
        _list(SUMMARIES, PRESETS, as_json)
        return
    options = FlowDefinition.of(name).model_dump(mode="json", exclude={"preset"})
    if as_json:
        print_json({"preset": name, **options})
        return
    say(f"{name}: {SUMMARIES[name]}")
    _show_settings(options, set(PRESETS[name]))
    say("change an option in a manifest with: definition: {preset: NAME, OPTION: VALUE}; * differs from the default")


def schema(
    of: Annotated[str, typer.Argument(metavar="manifest|recipe", help="The document whose schema is printed.")],
) -> None:
    """Print the JSON schema of manifests or recipes, for editors: `flowloom schema manifest > manifest.schema.json`."""
    import json

    if of not in SCHEMAS:
        raise FlowloomError(
            f"the document of a schema must be one of {', '.join(SCHEMAS)}, got {of!r}{did_you_mean(of, SCHEMAS)}"
        )
    if of == "manifest":
        from flowloom.schemas.corpus.manifest_schema import manifest_schema

        found = manifest_schema()
    else:
        from flowloom.trainers.recipes.recipe import Recipe

        found = Recipe.model_json_schema()
    typer.echo(json.dumps(found, indent=2))


def _choice(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the settings of a named recipe by `section.key`."""
    return {f"{section}.{key}": value for section, keys in settings.items() for key, value in keys.items()}


def _list(summaries: Mapping[str, str], settings: Mapping[str, Any], as_json: bool) -> None:
    """Prints names with a sentence about each; as JSON also the settings that differ from the defaults."""
    if as_json:
        print_json({name: {"summary": summaries[name], "settings": settings[name]} for name in summaries})
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    for name, summary in summaries.items():
        table.add_row(name, summary)
    show(table)


def _show_settings(settings: Mapping[str, Any], changed: set[str]) -> None:
    """Prints settings as YAML values, those that differ from the defaults with a star."""
    import json

    import pydantic_core

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", "setting", "value"):
        table.add_column(title, no_wrap=title != "value", overflow="fold")
    for key, value in settings.items():
        table.add_row("*" if key in changed else "", key, json.dumps(pydantic_core.to_jsonable_python(value)))
    show(table)
