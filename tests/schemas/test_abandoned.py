"""Temporary files of dead processes are removed, those of living ones and of other hosts are kept."""

import os
import signal
import subprocess
import sys

import pytest

from flowloom.schemas import abandoned
from flowloom.schemas.abandoned import OLD_S, owned_folder, owner_mark, remove_abandoned
from flowloom.schemas.atomic_files import UNFINISHED, unfinished

HOLD = """
import sys, time
from flowloom.schemas.abandoned import owned_folder
from flowloom.schemas.atomic_files import unfinished

with owned_folder(sys.argv[1] + "/.out.building") as folder:
    open(folder + "/rows", "w").close()
    open(unfinished(sys.argv[1] + "/model"), "w").close()
    print("made", flush=True)
    time.sleep(600)
"""


@pytest.mark.timeout(120)
def test_files_of_a_process_stay_while_it_lives_and_go_after_it_was_killed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        assert remove_abandoned(str(tmp_path), ".") == []
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert len(remove_abandoned(str(tmp_path), ".")) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_removed_at_the_end(tmp_path):
    with owned_folder(str(tmp_path / ".out.building")) as folder:
        assert remove_abandoned(str(tmp_path), ".") == []
        assert os.path.isdir(folder)
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_hosts_and_of_no_known_owner_are_kept(tmp_path, monkeypatch):
    (tmp_path / f".model-{'0' * 8}-1-1-{'0' * 8}{UNFINISHED}").touch()
    (tmp_path / f".model.12345678{UNFINISHED}").touch()
    (tmp_path / ".out.building-12345678").mkdir()
    (tmp_path / f".out.building-{'0' * 8}-1-1-{'0' * 8}").mkdir()
    monkeypatch.setattr(abandoned, "_is_local", lambda device: False)
    assert remove_abandoned(str(tmp_path), ".") == []


def test_folders_of_0_1_go_after_a_day(tmp_path):
    folder = tmp_path / ".out.building-12345678"
    folder.mkdir()
    assert remove_abandoned(str(tmp_path), ".out.building-") == []
    os.utime(folder, (0, folder.stat().st_mtime - OLD_S - 1))
    assert remove_abandoned(str(tmp_path), ".out.building-") == [str(folder)]


def test_the_first_file_of_a_folder_cleans_it(tmp_path):
    mark = owner_mark().split("-")
    dead = tmp_path / f".model-{mark[1]}-{mark[2]}-1-{mark[4]}{UNFINISHED}"  # of this host, with another start
    dead.touch()
    unfinished(tmp_path / "model")
    assert not dead.exists()
