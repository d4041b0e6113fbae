"""Manifests that are no manifests give one sentence with the place."""

import os

import pytest

from flowloom.pipelines.manifests import DEEPEST, MOST_VALUES, read_manifest
from flowloom.schemas.errors import FlowloomError

LAUGHS = "\n".join(
    ["a0: &a0 [lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)), "name: *a8"]
)
BAD = {
    "unhashable": ("? [a, b]\n: c\n", "a key must be a single value, got a list or a mapping in line 1, column 3"),
    "deep": (f"name: {'[' * 50_000}", f"more than {DEEPEST} lists inside each other in line 1"),
    "timestamp": ('name: !!timestamp "x"\n', "expected a value of type timestamp, got 'x' in line 1, column 7"),
    "integer": ('name: !!int "x"\n', "expected a value of type int, got 'x' in line 1, column 7"),
    "digits": (f"name: {'9' * 9_000}\n", "expected a value of type int, got '999"),
    "date": ("name: 2020-99-99\n", "expected a value of type timestamp, got '2020-99-99' in line 1"),
    "laughs": (LAUGHS, f"more than {MOST_VALUES:,} values"),
    "circle": ("name: &a [*a]\n", "an alias stands for a list that has it in line 1"),
    "binary": ("name: !!binary 1\n", "in line 1, column 7"),
    "secret": (
        'name: x\ncaptures: [{glob: "http://h/x?X-Amz-Signature=Canary"}]\n',
        "captures: http://h/x: a URL of http:// must not carry credentials",
    ),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", BAD)
def test_bad_yaml_is_one_sentence(tmp_path, kind):
    text, message = BAD[kind]
    path = tmp_path / "corpus.yaml"
    path.write_text(text)
    with pytest.raises(FlowloomError) as failure:
        read_manifest(path)
    assert str(failure.value).startswith(f"{path}: ")
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)
    assert "Canary" not in str(failure.value)


@pytest.mark.timeout(60)
def test_pipes_devices_and_folders_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "a pipe, a socket or a device"), (tmp_path, "Is a directory")):
        with pytest.raises(FlowloomError, match=message):
            read_manifest(path)
    if os.path.exists("/dev/zero"):
        with pytest.raises(FlowloomError, match="a pipe, a socket or a device"):
            read_manifest("/dev/zero")
