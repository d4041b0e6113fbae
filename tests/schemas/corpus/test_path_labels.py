"""Labels from paths, and labels that follow from other labels: values, vocabularies, and messages for faults."""

import pytest

from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.schemas.corpus.path_labels import LabelFrom
from flowloom.schemas.corpus.resolve_labels import FoundSource, with_found_labels
from flowloom.schemas.errors import FlowloomError

OPEN = {"kind": "multiclass"}
MAP = {"device": {"Aria": {"vendor": "Fitbit", "category": "scale"}, "Hue": {"vendor": "Philips", "category": None}}}


def document(**changes):
    return {
        "name": "iot",
        "captures": [{"glob": "*/*.pcap", "label_from": {"device": "parent-folder"}}],
        "tasks": {"device": OPEN, "vendor": OPEN, "category": OPEN},
        **changes,
    }


@pytest.mark.parametrize(
    ("rules", "path", "labels"),
    [
        ({"device": "parent-folder"}, "iot/Aria/Setup-1.pcap", {"device": "Aria"}),
        ({"device": "parent-folder"}, "Setup-1.pcap", {}),
        ({"app": "file-name"}, "a/chrome-80.0.pcapng.gz", {"app": "chrome-80.0"}),
        ({"app": "file-name"}, "a/trace.pcap12", {"app": "trace"}),
        ({"pattern": r"(?P<os>android\d+)_(?P<app>[a-z]+)_"}, "android71/android71_cp_cache00.pcap",
         {"os": "android71", "app": "cp"}),
        ({"pattern": r"^(?P<app>web)/|^(?P<tunnel>vpn)/"}, "vpn/1.pcap", {"tunnel": "vpn"}),
        ({"device": "parent-folder", "pattern": "-(?P<person>[A-Z])-"}, "Hue/Setup-A-1.pcap",
         {"device": "Hue", "person": "A"}),
    ],
)  # fmt: skip
def test_a_path_names_labels(rules, path, labels):
    assert LabelFrom.model_validate(rules).labels(path) == labels


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"captures": [{"glob": "*", "label_from": {"device": "folder"}}]},
         ["c.yaml: captures.0.label_from.device must be 'parent-folder' or 'file-name', got 'folder'"]),
        ({"captures": [{"glob": "*", "label_from": {}}]}, ["captures.0.label_from must have a task, such as"]),
        ({"captures": [{"glob": "*", "label_from": {"pattern": "["}}]}, ["must be a regular expression", "got '['"]),
        ({"captures": [{"glob": "*", "label_from": {"pattern": "a"}}]}, ["groups named after tasks, such as (?P<app>"]),
        ({"captures": [{"glob": "*", "label_from": {"device": "parent-folder", "pattern": "(?P<device>a)"}}]},
         ["one rule for each task, got two for 'device'"]),
        ({"captures": [{"glob": "*", "label_from": {"devise": "parent-folder"}}]}, ["did you mean 'device'"]),
        ({"captures": [{"glob": "*", "label_from": {"device": "file-name"}, "labels": {"device": "x"}}]},
         ["label_from of '*': task 'device' is also in labels; remove it"]),
        ({"captures": [{"glob": "*", "words": {"device": {"a": "b"}}}]}, ["words of '*' need label_from"]),
        ({"captures": [{"glob": "*", "label_from": {"device": "file-name"}, "words": {"vendr": {}}}]},
         ["words of '*': task must be one of label_from (device), got 'vendr'"]),
        ({"label_map": {"devise": {}}}, ["label_map: task must be one of", "did you mean 'device'"]),
        ({"label_map": {"device": {"Aria": {"vendor": "Fitbit"}, "Hue": {"category": "x"}}}},
         ["label_map.device.Aria must have a label of category, vendor, got none of category", "category: null"]),
        ({"label_map": {"device": {"Aria": {"device": "x"}}}}, ["that others follow from, got 'device'"]),
        ({"label_map": {**MAP, "vendor": {"x": {"category": "y"}}}}, ["must not derive a task that others follow"]),
        ({"label_map": {"device": {"a": {"category": "c"}}, "vendor": {"b": {"category": "c"}}}},
         ["must derive task 'category' once, got device and vendor"]),
        ({"label_map": {"device": {"Aira": {"vendor": "x"}}},
          "tasks": {"device": {**OPEN, "vocabulary": ["Aria", "Hue"]}, "vendor": OPEN}},
         ["label_map.device: label of task 'device' must be one of Aria, Hue, got 'Aira'; did you mean 'Aria'"]),
    ],
)  # fmt: skip
def test_messages_name_the_place_and_a_correction(changes, parts):
    with pytest.raises(FlowloomError) as caught:
        parse_manifest(document(**changes), "c.yaml")
    for part in parts:
        assert part in str(caught.value)


def found(manifest, *labels):
    """Returns the manifest as if each of some labels was found in one capture of its first entry."""
    entry = manifest.captures[0]
    return with_found_labels(
        manifest, {0: [FoundSource.of(entry, f"{at}.pcap", each) for at, each in enumerate(labels)]}
    )


def test_a_label_map_labels_other_tasks_and_vocabularies_are_those_that_were_found():
    manifest = parse_manifest(document(label_map=MAP, tasks={"device": OPEN, "vendor": OPEN}) | {
        "label_map": {"device": {name: {"vendor": row["vendor"]} for name, row in {
            **MAP["device"], "Ring": {"vendor": "Amazon"}}.items()}}}, "c.yaml")  # fmt: skip
    resolved = found(manifest, {"device": "Hue"}, {"device": "Aria"})
    assert [entry.labels for entry in resolved.captures] == [
        {"device": "Hue", "vendor": "Philips"}, {"device": "Aria", "vendor": "Fitbit"},
    ]  # fmt: skip
    assert [task.vocabulary for task in resolved.tasks] == [("Aria", "Hue"), ("Fitbit", "Philips")]
    assert [entry.name for entry in resolved.captures] == ["*/*.pcap", "*/*.pcap"]
    assert not resolved.label_map


def test_null_in_a_label_map_is_an_unknown_label_and_own_labels_take_precedence():
    captures = [
        {"glob": "*/*.pcap", "label_from": {"device": "parent-folder"}},
        {"glob": "b", "labels": {"device": "Hue", "category": "lamp"}},
    ]
    resolved = found(parse_manifest(document(captures=captures, label_map=MAP), "c.yaml"), {"device": "Aria"})
    assert [entry.labels for entry in resolved.captures] == [
        {"device": "Aria", "vendor": "Fitbit", "category": "scale"},
        {"device": "Hue", "vendor": "Philips", "category": "lamp"},
    ]


def test_label_tables_are_mapped_too():
    table = {"path": "t.csv", "task": "family", "columns": {"start": "t", "label": "l"}, "words": {"DDoS": "flood"},
             "default": "none"}  # fmt: skip
    tasks = {"family": {**OPEN, "vocabulary": ["none", "flood", "scan"]}, "attack": {"kind": "binary"}}
    rows = {"none": {"attack": False}, "flood": {"attack": True}, "scan": {"attack": True}}
    given = document(captures=[{"glob": "a", "label_table": table}], tasks=tasks, label_map={"family": rows})
    (entry,) = with_found_labels(parse_manifest(given, "c.yaml"), {}).captures
    derived = entry.window_specs[1]
    assert (derived.task, derived.path, derived.default) == ("attack", "t.csv", False)
    assert derived.words == {"none": False, "flood": True, "scan": True, "DDoS": True}


def test_sources_by_packet_cannot_be_mapped():
    packets = {"glob": "a", "packet_table": {"path": "p.csv", "task": "attack"}}
    tasks = {"attack": {"kind": "binary"}, "family": {**OPEN, "vocabulary": ["x", "y"]}}
    rows = {False: {"family": "x"}, True: {"family": "y"}}
    given = document(captures=[packets], tasks=tasks, label_map={"attack": rows})
    with pytest.raises(
        ValueError, match=r"label_map.attack follows labels of paths and of label tables, got .*packet_t"
    ):
        with_found_labels(parse_manifest(given, "c.yaml"), {})


def test_published_labels_are_mapped_too():
    quic = {"published": "quic-ucdavis", "path": "q", "labels_as": {"service": "app"}, "words": {"app": {"d": "doc"}}}
    tasks = {"app": {**OPEN, "vocabulary": ["doc", "drive"]}, "maker": OPEN}
    rows = {"doc": {"maker": "one"}, "drive": {"maker": "two"}}
    given = document(captures=[quic], tasks=tasks, label_map={"app": rows})
    resolved = with_found_labels(parse_manifest(given, "c.yaml"), {})
    (entry,) = resolved.captures
    assert entry.labels_as == {"service": ("app", "maker")}
    assert entry.words["maker"] == {"doc": "one", "drive": "two", "d": "one"}
    assert resolved.tasks[1].vocabulary == ("one", "two")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (({"device": "Aria"},), "task 'device' must have at least 2 label values, got only 'Aria' from the entries"),
        ((), "task 'device' must have at least 2 label values, got none"),
        (({"device": "Aria"}, {"device": "Ring"}), "label_map.device must have a row for every label value, got none "
         "for Ring; add it, with null"),
    ],
)  # fmt: skip
def test_found_labels_must_fit(labels, words):
    with pytest.raises(ValueError, match=words):
        found(parse_manifest(document(label_map=MAP), "c.yaml"), *labels)


def test_a_found_label_must_be_in_the_vocabulary():
    tasks = {"device": {**OPEN, "vocabulary": ["Aria", "Hue"]}}
    with pytest.raises(ValueError, match=r"labels of '\*/\*.pcap': .* must be one of Aria, Hue, got 'Arai'; did you"):
        found(parse_manifest(document(tasks=tasks), "c.yaml"), {"device": "Arai"})
