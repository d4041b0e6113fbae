"""The same input gives the same bytes on any processor: with its vector and multiply-add units, and without them."""

import json
import math
import os
import platform
import subprocess
import sys
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path

import hypothesis.strategies as st
import numba
import pytest
from hypothesis import example, given, settings
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from flowloom.schemas.logarithm import natural_log

HERE = Path(__file__).resolve().parent
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
WITHOUT_FMA = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4,-AVX2"}
MANIFEST = f"""\
name: processors
captures:
  - {{glob: "{HERE}/corpus/captures/web/nginx/plain-*", labels: {{app: nginx}}}}
  - {{glob: "{HERE}/corpus/captures/transfer/ftp/plain-*", labels: {{app: ftp}}}}
views: [flows, packets]
tasks:
  app: {{kind: multiclass, vocabulary: [nginx, ftp]}}
  rate: {{kind: auto, quantity: bandwidth, dividers: {{method: quantiles, classes: 3}}}}
  gaps: {{kind: auto, quantity: gap_deviation, dividers: {{method: class-means, reference: app}}}}
splits: {{by: flow, seed: 7}}
output: {{shards: 1}}
"""


def outputs(folder: Path, **environment: str) -> tuple[dict[str, str], set[str]]:
    """Returns the digests of all that a fresh process stores, and the vector features that its NumPy uses."""
    folder.mkdir()
    manifest = folder / "processors.yaml"
    manifest.write_text(MANIFEST)
    command = [
        sys.executable,
        "-W",
        "error::ImportWarning",
        HERE / "support" / "processor_outputs.py",
        manifest,
        folder / "dataset",
    ]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return found["outputs"], set(found["numpy_features"])


@pytest.fixture(scope="module")
def with_all(tmp_path_factory) -> dict[str, str]:
    return outputs(tmp_path_factory.mktemp("all") / "all")[0]


def test_vector_units_of_numpy_change_nothing(with_all, tmp_path):
    off = {name for name in __cpu_dispatch__ if __cpu_features__[name]}  # NumPy ignores other names without a word
    if not off:
        pytest.skip(f"NumPy dispatches on no feature of this {platform.machine()}")
    without, still_on = outputs(tmp_path / "off", NPY_DISABLE_CPU_FEATURES=" ".join(sorted(off)))
    assert not off & still_on
    assert without == with_all


def test_multiply_add_units_of_the_c_library_change_nothing(with_all, tmp_path):
    if not LOADER.exists():
        pytest.skip(f"needs glibc on x86-64, got {platform.machine()}; other processors were not run")

    def active(**environment: str) -> list[str]:
        told = subprocess.run(
            [LOADER, "--list-diagnostics"], env=os.environ | environment, check=True, capture_output=True, text=True
        ).stdout
        return [line for line in told.splitlines() if "active" in line]

    if "fma" in Path("/proc/cpuinfo").read_text():
        assert active(**WITHOUT_FMA) != active()
    off = sorted(name for name in __cpu_dispatch__ if __cpu_features__[name])
    without, _ = outputs(tmp_path / "off", NPY_DISABLE_CPU_FEATURES=" ".join(off), **WITHOUT_FMA)
    assert without == with_all


@settings(deadline=None)  # the first call compiles
@given(st.floats(min_value=2.0**-1000, max_value=2.0**1000))
@example(1.0)
@example(1.0 + 2.0**-52)
@example(1.0 - 2.0**-53)
@example(math.sqrt(0.5))
@example(2.0**63)
def test_logarithms_are_right_to_one_unit_in_the_last_place(x):
    exact = Decimal(x).ln(Context(prec=50))
    error = abs(Fraction(natural_log(x)) - Fraction(exact))
    assert error <= Fraction(math.ulp(float(exact)))


@settings(deadline=None)  # the first call compiles
@given(st.floats(min_value=2.0**-1000, max_value=2.0**1000))
def test_compiled_logarithms_have_the_same_bits(x):
    assert _compiled(x) == natural_log(x)


_compiled = numba.njit(natural_log)
