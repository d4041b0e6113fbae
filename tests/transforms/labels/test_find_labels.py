"""Labels in the paths of captures: each file has those that its path names, by as few globs as possible."""

import zipfile
from pathlib import Path

import pytest

from flowloom.pipelines.demo_corpus import CORPUS
from flowloom.pipelines.manifests import read_corpus
from flowloom.schemas.corpus.manifest import CaptureSource
from flowloom.transforms.captures.groups import match_source
from flowloom.transforms.labels.find_labels import find_labels

NAMES = ("a/1.pcap", "a/2.pcap", "b [x]/1.pcap", "b [x]/2.pcap", "b [x]/notes.txt")


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def entry(glob: str, **fields) -> CaptureSource:
    return CaptureSource.model_validate({"glob": glob, **fields})


def files(source: CaptureSource, folder: Path) -> list[str]:
    return [str(Path(uri).relative_to(folder)) for uri in match_source(source, str(folder))[0]]


def found(source: CaptureSource, folder: Path) -> dict[str, dict]:
    """Returns the labels of each file, by the globs that `find_labels` returns."""
    sources = find_labels(source, match_source(source, str(folder))[0], str(folder))
    assert all([str(folder / name) for name in files(each, folder)] == list(uris) for each, uris in sources)
    return {name: each.labels for each, _ in sources for name in files(each, folder)}


@pytest.mark.parametrize("glob", ["*/*.pcap", "**/*.pcap"])
def test_each_folder_is_one_glob(folder, glob):
    source = entry(glob, label_from={"device": "parent-folder"}, labels={"site": "lab"})
    sources = find_labels(source, match_source(source, str(folder))[0], str(folder))
    assert [each.glob for each, _ in sources] == ["a/*.pcap", "b [[]x]/*.pcap"]
    assert found(source, folder) == {
        name: {"device": Path(name).parent.name, "site": "lab"} for name in NAMES if name.endswith("pcap")
    }


def test_names_that_begin_or_end_alike_are_one_glob(tmp_path):
    names = [f"{app}_{run}.pcap" for app in ("web", "ssh", "webmail") for run in range(3)]
    for name in (*names, "ssh_notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    source = entry("*.pcap", label_from={"pattern": r"^(?P<app>[a-z]+)_"})
    sources = find_labels(source, match_source(source, str(tmp_path))[0], str(tmp_path))
    assert [each.glob for each, _ in sources] == ["ssh_*.pcap", "web_*.pcap", "webmail_*.pcap"]
    assert found(source, tmp_path) == {name: {"app": name.partition("_")[0]} for name in names}


def test_files_of_one_folder_with_different_labels_have_their_own(folder):
    source = entry("*/*.pcap", label_from={"pattern": r"/(?P<run>\d)\.pcap$"}, words={"run": {"1": "one", "2": None}})
    assert found(source, folder) == {
        "a/1.pcap": {"run": "one"}, "a/2.pcap": {}, "b [x]/1.pcap": {"run": "one"}, "b [x]/2.pcap": {},
    }  # fmt: skip


def test_captures_of_an_archive_that_a_glob_names_have_labels(tmp_path):
    with zipfile.ZipFile(tmp_path / "days.zip", "w") as archive:
        for name in ("web-1.pcap", "web-2.pcap", "ssh-1.pcap"):
            archive.writestr(name, name)
    for words, labels in (({}, ["ssh", "web", "web"]), ({"app": {"ssh": "web"}}, ["web"] * 3)):
        source = entry("*.zip", label_from={"pattern": r"/(?P<app>[a-z]+)-\d"}, words=words)
        assert [each["app"] for _, each in sorted(found(source, tmp_path).items())] == labels


def test_captures_whose_folder_is_gone_keep_their_labels(tmp_path):
    source = entry("*/*.pcap", label_from={"pattern": r"(?P<app>[a-z]+)-\d"})
    uris = [str(tmp_path / "gone" / name) for name in ("ssh-1.pcap", "web-1.pcap", "web-2.pcap")]
    sources = find_labels(source, uris, str(tmp_path))
    assert [(each.glob, each.labels["app"]) for each, _ in sources] == [
        ("gone/ssh-1.pcap", "ssh"), ("gone/web-*.pcap", "web"),
    ]  # fmt: skip


def test_urls_are_named_one_by_one(folder):
    source = entry("s3://b/*/*.pcap", label_from={"device": "parent-folder"})
    uris = ["s3://b/x/1.pcap", "s3://b/y/[2].pcap"]
    assert {each.glob: each.labels for each, _ in find_labels(source, uris, "/here")} == {
        "s3://b/x/1.pcap": {"device": "x"}, "s3://b/y/?2].pcap": {"device": "y"},
    }  # fmt: skip


def test_a_rule_that_matches_no_path_is_an_error_with_examples(folder):
    source = entry("a/*.pcap", label_from={"pattern": "(?P<app>web)-"})
    with pytest.raises(ValueError, match=r"got none by pattern '\(\?P<app>web\)-' in 'a/1.pcap', 'a/2.pcap'; correct"):
        find_labels(source, match_source(source, str(folder))[0], str(folder))


def test_a_packet_table_of_several_captures_is_an_error(folder):
    source = entry("a/*", label_from={"app": "file-name"}, packet_table={"path": "p.csv", "task": "attack"})
    with pytest.raises(ValueError, match=r"p.csv: a packet table must label one capture, got 2"):
        find_labels(source, match_source(source, str(folder))[0], str(folder))


def test_one_pattern_gives_the_labels_that_the_embedded_corpus_lists_in_52_entries(tmp_path):
    (tmp_path / "one.yaml").write_text(
        r"""
name: one
captures:
  - glob: "captures/*/*/*"
    label_from: {pattern: '^captures/(?P<traffic>(?!attack)\w+)/(?P<app>\w+)/(?P<tunnel>plain|openvpn|wireguard)-'}
tasks: {app: {kind: multiclass}, traffic: {kind: multiclass}, tunnel: {kind: multiclass}}
"""
    )
    one, folder, _ = read_corpus(tmp_path / "one.yaml", CORPUS)
    listed = read_corpus(CORPUS / "aurora.yaml").manifest

    def labels(manifest) -> dict[str, dict[str, str]]:
        by_file: dict[str, dict[str, str]] = {}
        for source in manifest.captures:
            for name in files(source, CORPUS):
                kept = {task: value for task, value in source.labels.items() if task in ("app", "traffic", "tunnel")}
                by_file.setdefault(name, {}).update(kept)
        return {name: found for name, found in by_file.items() if "app" in found}

    assert folder == str(CORPUS)
    assert labels(one) == labels(listed)
    assert len(labels(one)) > 200
    tasks = {task.name: sorted(task.vocabulary) for task in listed.tasks}
    assert [list(task.vocabulary) for task in one.tasks] == [tasks[task.name] for task in one.tasks]
