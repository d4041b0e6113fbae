"""Lists of what can be chosen: complete, and the same as what a training or a build takes."""

import json

import pytest

from flowloom.pipelines.cli.main import app
from flowloom.pipelines.engines.beam_options import unknown_option
from flowloom.schemas.corpus.flow_definition import PRESETS, FlowDefinition
from flowloom.trainers.recipes.named_recipes import RECIPES
from flowloom.trainers.recipes.recipe import Recipe


@pytest.mark.parametrize(("command", "names"), [("recipes", RECIPES), ("presets", PRESETS)])
def test_all_names_are_listed_with_a_summary(run, command, names):
    code, out, _ = run(command)
    assert code == 0
    assert [name for name in names if f" {name} " not in out] == []
    _, out, _ = run(command, "--json")
    listed = json.loads(out)
    assert list(listed) == list(names)
    assert all(entry["summary"] for entry in listed.values())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_printed_whole(run, name):
    _, out, _ = run("recipes", name, "--json")
    assert Recipe.model_validate(json.loads(out)) == Recipe.named(name)
    code, out, _ = run("recipes", name)
    assert code == 0
    starred = {line.split()[1] for line in out.splitlines() if line.startswith(" *")}
    changed = {key for key, value in Recipe.named(name).settings.items() if value != Recipe(name=name).setting(key)}
    assert starred == changed


def test_a_preset_is_printed_whole(run):
    _, out, _ = run("presets", "nfstream", "--json")
    assert FlowDefinition.model_validate(json.loads(out)) == FlowDefinition.of("nfstream")
    code, out, _ = run("presets", "nfstream")
    assert code == 0
    assert [" *", "tcp_close", '"none"'] in [[line[:2], *line[2:].split()] for line in out.splitlines()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recipes", "mult"), "did you mean 'multa'"),
        (("presets", "nfstraem"), "did you mean 'nfstream'"),
        (("schema", "manifst"), "must be one of manifest, recipe, got 'manifst'; did you mean 'manifest'"),
    ],
)
def test_unknown_names_are_errors(run, words, message):
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert message in err


@pytest.mark.parametrize(("of", "key"), [("manifest", "label_map"), ("recipe", "schedule")])
def test_schemas_are_json(run, of, key):
    code, out, _ = run("schema", of)
    assert code == 0
    assert key in json.loads(out)["properties"]


def test_short_help_and_completion_are_offered(run):
    code, out, _ = run("build", "-h")
    assert (code, "--allow-empty" in out, "--data" in out) == (0, True, True)
    _, out, _ = run("--help")
    assert "--install-completion" in out
    assert app.registered_commands


@pytest.mark.parametrize(
    ("runner", "options", "fault"),
    [
        ("FnApiRunner", ("--direct_num_workers=1",), None),
        (
            "FnApiRunner",
            ("--direct_num_worker=1",),
            "got '--direct_num_worker=1'; did you mean '--direct_num_workers'?",
        ),
        ("FnApiRunner", ("--checkpoint_every=9",), "got '--checkpoint_every=9'; correct or remove it"),
        ("FnApiRunner", ("stray",), "must be options of Beam, got 'stray'"),
        ("FlinkRunner", ("--flink_master=a:1", "--job_server_only=1"), None),
        ("FlinkRunner", ("--flink_mastr=a:1",), "did you mean '--flink_master'?"),
    ],
)
def test_options_that_beam_does_not_know_are_refused(runner, options, fault):
    found = unknown_option(runner, options)
    assert found is None if fault is None else fault in found


def test_a_build_with_an_unknown_option_is_wrong_usage(run, corpus, tmp_path):
    code, out, err = run("build", corpus / "cli.yaml", tmp_path / "out", "--", "--direct_num_worker=1")
    assert (code, out) == (2, "")
    assert "did you mean '--direct_num_workers'" in " ".join(err.replace("│", " ").split())
