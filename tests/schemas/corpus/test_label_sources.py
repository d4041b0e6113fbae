"""Label sources in a manifest: messages for invalid ones give their place and a correction."""

import pytest

from flowloom.schemas.corpus.label_words import label_code
from flowloom.schemas.corpus.manifest import parse_manifest
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
