"""Label sources in a manifest: messages for invalid ones give their place and a correction."""

import pytest

from flowloom.schemas.corpus.label_table import PRESETS, LabelTable
from flowloom.schemas.corpus.label_words import label_code, label_meaning
from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.schemas.corpus.resolve_labels import with_found_labels
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError

TABLE = {"path": "t.csv", "task": "attack", "columns": {"start": "time", "label": "word"}}
PACKETS = {"path": "p.csv", "task": "attack"}


def manifest(entry, **changes):
    tasks = {"attack": {"kind": "binary"}, "app": {"kind": "multiclass", "vocabulary": ["web", "ssh"]}}
    return parse_manifest({"name": "m", "captures": [{"glob": "a", **entry}], "tasks": tasks, **changes}, "m.yaml")


def test_sources_are_in_order_of_precedence():
    entry = {"dpi": {"task": "app"}, "packet_table": PACKETS, "label_tables": [TABLE, TABLE], "label_table": TABLE}
    (captures,) = manifest(entry).captures
    assert [type(spec).__name__ for spec in captures.window_specs] == ["LabelTable"] * 3 + ["PacketTable", "Dpi"]
    assert manifest({}).captures[0].window_specs == ()


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ({"label_tabel": TABLE}, ["captures.0.label_tabel: unknown key", "did you mean 'label_table'"]),
        ({"label_table": TABLE | {"tolerance": 1}}, ["captures.0.label_table.tolerance", "did you mean 'tolerance_s'"]),
        ({"label_tables": [TABLE | {"zone": "UTC"}]}, ["captures.0.label_tables.0.zone", "did you mean 'time_zone'"]),
        ({"label_table": TABLE | {"columns": {"start": "t", "lable": "x"}}}, ["columns.lable", "did you mean 'label'"]),
        ({"label_table": TABLE | {"columns": {"label": "x"}}}, ["columns.start: required and missing"]),
        (
            {"label_table": TABLE | {"columns": TABLE["columns"] | {"end": "e", "duration_s": "d"}}},
            ["one end or duration", "got end, duration_s"],
        ),
        ({"label_table": TABLE | {"time_zone": "Europe/Berln"}}, ["tz database", "did you mean 'Europe/Berlin'"]),
        ({"label_table": TABLE | {"time_format": "epoch"}}, ["epoch_s", "%d/%m/%Y", "got 'epoch'"]),
        ({"label_table": TABLE | {"tolerance_s": -1}}, ["tolerance_s", "greater than or equal to 0", "got -1"]),
        ({"label_table": TABLE | {"task": "atack"}}, ["'t.csv' must be one of attack, app", "mean 'attack'"]),
        ({"label_table": TABLE | {"words": {"x": "postive"}}}, ["words of 't.csv'", "did you mean 'positive'"]),
        ({"label_table": TABLE | {"default": "none"}}, ["words of 't.csv'", "negative, positive", "'none'"]),
        ({"packet_table": PACKETS | {"rule": "most"}}, ["packet_table.rule", "'any', 'majority' or 'all'", "'most'"]),
        ({"packet_table": PACKETS | {"column": "x"}}, ["header: true", "'x'"]),
        ({"dpi": {"task": "app", "field": "application"}}, ["dpi.field", "'application_name'"]),
        ({"dpi": {"task": "app", "words": {"SSH": "shs"}}}, ["words of 'nDPI application_name'", "did you mean 'ssh'"]),
    ],
)  # fmt: skip
def test_messages_name_the_place_and_a_correction(entry, parts):
    with pytest.raises(FlowloomError) as caught:
        manifest(entry)
    for part in parts:
        assert part in str(caught.value)


def test_a_rule_for_conflicts_is_of_a_task():
    assert manifest({}, on_conflict={"attack": "unknown"}).on_conflict == {"attack": "unknown"}
    with pytest.raises(FlowloomError, match="on_conflict: task must be one of attack, app, got 'atack'; did you mean"):
        manifest({}, on_conflict={"atack": "first"})


def test_labels_mean_listed_values_or_else_themselves():
    attack, app = Task(name="attack", kind="binary"), Task(name="app", kind="multiclass", vocabulary=("0", "b"))
    listed = {"x": True, "positive": None}
    assert [label_code(label, listed, attack) for label in ("x", "positive", "negative", "1", "y")] == [
        1,
        -1,
        0,
        1,
        None,
    ]
    assert [label_code(label, {}, app) for label in ("0", "1", "b")] == [0, None, 1]


def test_numbers_may_be_labels():
    (captures,) = manifest({"packet_table": PACKETS | {"words": {0: False, 7: True}}}).captures
    assert captures.packet_table.words == {"0": False, "7": True}


def test_words_may_be_patterns():
    words = {"flow=From-Botnet-DNS": "dns", "flow=From-Botnet*": "botnet", "a?c": "one", "*": None}
    expected = {
        "flow=From-Botnet-DNS": "dns", "flow=From-Botnet-V42": "botnet", "abc": "one", "abbc": None, "a.c": "one",
    }  # fmt: skip
    assert {label: label_meaning(label, words, "none") for label in expected} == expected
    assert label_meaning("x", {"a*": "one", "[x]": "two"}, "none") == "none"
    attack = Task(name="attack", kind="binary")
    assert [label_code(label, {"*ok*": False}, attack) for label in ("not ok", "positive", "1", "x")] == [0, 1, 1, None]


PRESET = {"path": "t.csv", "task": "attack"}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_complete_and_give_way_to_the_manifest(preset):
    table = LabelTable.model_validate(PRESET | {"preset": preset})
    assert table.columns.model_dump(exclude_none=True) == {
        key: name for key, name in PRESETS[preset]["columns"].items() if name is not None
    }
    changed = PRESET | {"preset": preset, "header": True, "time_zone": "UTC", "tolerance_s": 3}
    names = {key: "x" for key in PRESETS[preset]["columns"] if not key.startswith(("end", "duration"))}
    table = LabelTable.model_validate(changed | {"columns": names | {"end": "last"}})
    assert (table.columns.end, table.columns.duration_s, table.columns.duration_us) == ("last", None, None)
    assert (table.time_zone, table.tolerance_s, table.columns.label) == ("UTC", 3, "x")


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"columns": {"start": 1, "label": 2}}, ["position 1 of start", "header: false"]),
        ({"columns": {"start": "t", "label": "x"}, "header": False}, ["positions from 1", "'t' of start"]),
        ({"columns": {"start": 0, "label": 2}, "header": False}, ["greater than or equal to 1"]),
        ({"columns": {"start": None, "end": "t", "label": "x"}}, ["a start beside end"]),
        ({"columns": {"start": None, "date": "t", "label": "x"}}, ["a start beside date"]),
        ({"time_format": ["%H:%M", "epoch"]}, ["got 'epoch'"]),
        ({"time_format": []}, ["at least one format"]),
        ({"twelve_hour_from": 12}, ["less than or equal to 11"]),
        ({"preset": "zeke"}, ["'zeek'"]),
    ],
)
def test_messages_about_columns_and_times(fields, parts):
    with pytest.raises(FlowloomError) as caught:
        manifest({"label_table": TABLE | fields})
    for part in parts:
        assert part in str(caught.value)


def test_labels_that_follow_from_others_keep_patterns():
    document = {
        "name": "x",
        "captures": [{"glob": "a", "label_table": TABLE | {"task": "app", "words": {"ss*": "ssh", "*": None}}}],
        "tasks": {
            "app": {"kind": "multiclass", "vocabulary": ["ssh", "web"]},
            "kind": {"kind": "multiclass", "vocabulary": ["shell", "page"]},
        },
        "label_map": {"app": {"ssh": {"kind": "shell"}, "web": {"kind": "page"}}},
    }  # fmt: skip
    resolved = with_found_labels(parse_manifest(document, "x"), {})
    task = next(task for task in resolved.tasks if task.name == "kind")
    words = resolved.captures[0].label_tables[0].words
    codes = [label_code(label, words, task) for label in ("ssl", "ssh", "web", "other")]
    assert [code if code is None or code < 0 else task.vocabulary[code] for code in codes] == ["shell", "shell", -1, -1]
