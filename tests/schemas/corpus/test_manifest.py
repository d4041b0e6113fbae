"""A manifest is checked as a whole; each message gives the expected value and a correction."""

import pytest

from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.schemas.errors import FlowloomError


def document(**changes):
    return {
        "name": "office",
        "captures": [{"glob": "skype/*.pcap", "labels": {"app": "skype"}}],
        "tasks": {"app": {"kind": "multiclass", "vocabulary": ["chrome", "skype", "ssh"]}},
        **changes,
    }


def test_a_minimal_manifest_has_the_documented_defaults():
    manifest = parse_manifest(document(), "c.yaml")
    assert (manifest.layout, manifest.missing, manifest.splits.by, manifest.output.shards) == (
        "aurora", "unknown", "auto", 8,
    )  # fmt: skip
    assert manifest.splits.shares == (0.64, 0.16, 0.20)


APP = {"kind": "multiclass", "vocabulary": ["chrome", "skype", "ssh"]}


def auto(method, **fields):
    return {"kind": "auto", "quantity": "bandwidth", "dividers": {"method": method, **fields}}


def capture(**fields):
    return [{"glob": "a/*", **fields}]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"layuot": "aurora"}, ["c.yaml", "layuot", "unknown key", "did you mean 'layout'"]),
        ({"captures": [{"glb": "a/*"}]}, ["captures.0.glb", "unknown key", "did you mean 'glob'"]),
        ({"captures": capture(path="x")}, ["captures.0.path: unknown key", "glob, labels", "group, or published with"]),
        ({"captures": capture(publishd="x")}, ["captures.0.publishd", "did you mean 'published'"]),
        ({"captures": capture(labels={"app": "skpye"})}, ["a/*", "task 'app'", "skpye", "did you mean 'skype'"]),
        ({"captures": capture(labels={"ap": "skype"})}, ["a/*", "'ap'", "did you mean 'app'"]),
        ({"captures": []}, ["captures", "at least 1"]),
        ({"tasks": {"app": {"kind": "multiclass", "vocabulary": ["one"]}}, "captures": capture()}, ["2 values"]),
        ({"splits": {"train": 0.5, "validation": 0.1, "test": 0.1}}, ["must be 1", "got 0.7"]),
        ({"definition": {"preset": "defualt"}}, ["preset", "did you mean 'default'"]),
        ({"definition": {"preset": "default", "kk": 3}}, ["definition.kk", "unknown key"]),
        ({"definition": {"preset": "packet-windows"}}, ["windows of neighbouring packets overlap", "write by: time"]),
        ({"definition": {"preset": "default", "key": "source"}}, ["key must be five_tuple", "decision: packet"]),
        ({"views": ["packets"], "definition": {"reorder_s": 2.5}}, ["rows are in captured order, got 2.5"]),
        ({"views": ["packets"], "definition": {"duplicates": "drop"}}, ["duplicates must be count with the view"]),
        ({"definition": {"reorder_s": 61}}, ["definition.reorder_s", "less than or equal to 60", "got 61"]),
        ({"splits": {"by": "packet"}}, ["splits by packet leak", "views: [packets]", "write by: flow"]),
        ({"tasks": {"pace": auto("class-means", reference="ap"), "app": APP}}, ["task 'pace'", "did you mean 'app'"]),
        ({"tasks": {"pace": auto("quantiles", classes=2, at=[1]), "app": APP}}, ["quantiles finds its dividers"]),
        ({"tasks": {"pace": auto("quantiles", clases=2), "app": APP}}, ["dividers.clases", "did you mean 'classes'"]),
        ({"tasks": {"app": auto("quantiles", classes=2)}}, ["'skype/*.pcap'", "is measured and takes no labels"]),
        ({"identity": "pseudonym"}, ["identity: pseudonym needs key_file", "head -c 32 /dev/urandom"]),
        ({"identity": "drop", "key_file": "key"}, ["key_file needs identity: pseudonym", "got identity: drop"]),
        ({"output": {"shards": 0}}, ["output.shards", "greater than or equal to 1", "got 0"]),
        ({"splits": {"by": "flows"}}, ["c.yaml: splits.by must be 'auto', ", "got 'flows'"]),
    ],
)  # fmt: skip
def test_messages_name_the_place_and_a_correction(changes, parts):
    with pytest.raises(FlowloomError) as caught:
        parse_manifest(document(**changes), "c.yaml")
    for part in parts:
        assert part in str(caught.value)


def test_one_timeline_cannot_have_two_labels():
    captures = [
        {"glob": "a/*", "group": "gateway", "labels": {"app": "skype"}},
        {"glob": "b/*", "group": "gateway", "labels": {"app": "ssh"}},
    ]
    with pytest.raises(FlowloomError, match="group 'gateway' are one timeline"):
        parse_manifest(document(captures=captures), "c.yaml")


@pytest.mark.parametrize("found", [None, [], "text", 3])
def test_a_document_of_another_kind_is_refused(found):
    with pytest.raises(FlowloomError, match="expected a corpus manifest"):
        parse_manifest(found, "c.yaml")


def test_rotated_recordings_may_have_different_labels():
    captures = [
        {"glob": "a/*", "group": "rotated", "labels": {"app": "skype"}},
        {"glob": "b/*", "group": "rotated", "labels": {"app": "ssh"}},
    ]
    assert parse_manifest(document(captures=captures), "c.yaml").captures[1].group == "rotated"
