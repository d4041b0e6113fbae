"""Standard error is muted for the while, and only for the while."""

import os

import pytest

from flowloom.trainers.native_logs import native_stderr_muted


def test_only_what_is_inside_is_dropped(capfd):
    os.write(2, b"before ")
    with native_stderr_muted():
        os.write(2, b"inside ")
    with pytest.raises(RuntimeError), native_stderr_muted():
        raise RuntimeError
    os.write(2, b"after")
    assert capfd.readouterr().err == "before after"
