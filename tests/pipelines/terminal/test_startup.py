"""A quick start hides libraries only while a command starts; later code can import them."""

import os
import subprocess
import sys

SCRIPT = """
import gc, sys
from flowloom.pipelines.terminal.startup import quick_start
with quick_start(cloud=False):
    assert not gc.isenabled()
    import apache_beam
    try:
        import google.cloud.storage
    except ImportError:
        print("hidden")
print(gc.isenabled(), {"pandas", "scipy.linalg", "google.cloud.storage"} & set(sys.modules))
import pandas, scipy.linalg
from apache_beam.io.filesystems import FileSystems
print(FileSystems.match([sys.executable])[0].metadata_list[0].size_in_bytes > 0)
"""


def test_hidden_modules_can_be_imported_later():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert run.stdout.split("\n") == ["hidden", "True set()", "True", ""]


def test_the_first_start_says_that_kernels_are_compiled(tmp_path):
    code = "from flowloom.pipelines.terminal.startup import quick_start\nwith quick_start(cloud=False): pass"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stderr
        for _ in range(2)
    )
    assert first == (
        "flowloom: compiling kernels for the first time, which takes about 11 s; later commands load them\n"
    )
    assert second == ""
