"""Folders of captures: every capture counts, by its name or its content, and nothing else."""

from capture_files import pcap, section

from flowloom.transforms.captures.capture_folders import folder_captures


def test_captures_are_found_by_name_or_content_at_every_depth(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    contents = {
        "a.pcap": b"damaged",  # a reject, not a secret
        "deep/b.pcapng.gz": b"",
        "deep/er/trace.pcap12": pcap([]),
        "deep/er/unnamed": pcap([]),
        "section.bin": section(),
        "labels.csv": b"time,label\n",
        "pcap.md": b"about the captures",
        ".hidden/c.pcap": pcap([]),
        ".d.pcap": pcap([]),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "dangling.pcap").symlink_to(tmp_path / "gone")
    found = folder_captures(str(tmp_path))
    captures = ("a.pcap", "deep/b.pcapng.gz", "deep/er/trace.pcap12", "deep/er/unnamed", "section.bin")
    assert found.captures == tuple(str(tmp_path / name) for name in captures)
    assert found.others == (str(tmp_path / "labels.csv"), str(tmp_path / "pcap.md"))
    assert found.unreadable == ()


def test_a_folder_that_cannot_be_listed_is_told(tmp_path):
    found = folder_captures(str(tmp_path / "none"))
    assert found.captures == ()
    assert found.unreadable == ((str(tmp_path / "none"), "No such file or directory"),)
