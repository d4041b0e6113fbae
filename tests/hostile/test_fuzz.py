"""Tests of the fuzzer: mutations follow their seed, planted faults apply, kept cases stay mended, and a short run."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from capture_files import enhanced, ethernet, interface, ipv4, pcap, section, tcp, udp
from capture_mutators import MUTATIONS, Mutable, mutated
from capture_parts import joined, split_parts
from capture_targets import run_case
from fuzz_cases import FuzzCase, found_cases
from fuzz_worker import run_guarded
from planted_mutants import MUTANTS, dependents, mutated_source
from reference_records import read_records
from smaller_case import smaller

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView

START = 1_700_000_000_000_000_000
FRAMES = [
    (START, ethernet(ipv4(tcp(bytes(9), flags=0x02)))),
    (START + 1_000, ethernet(ipv4(udp(bytes(40)), protocol=17), vlans=[7])),
    (START + 31_000_000_000, ethernet(ipv4(tcp(b"x", 80, 1234), "10.0.0.2", "10.0.0.1"))),
]
FILES = (
    pcap(FRAMES),
    pcap(FRAMES, nanoseconds=False, order=">"),
    section() + interface(resolution=9) + b"".join(enhanced(frame, time_ns) for time_ns, frame in FRAMES),
)


def test_the_same_seed_gives_the_same_mutations():
    one, other = ([mutated(random.Random(seed), FILES, FILES) for seed in range(200)] for _ in range(2))
    assert one == other
    assert len(set(one)) > 150


@pytest.mark.parametrize("mutation", dict.fromkeys(MUTATIONS), ids=lambda mutation: mutation.__name__)
def test_each_mutation_changes_captures_of_each_format(mutation):
    for data in FILES:
        changed = set()
        for seed in range(40):
            file = Mutable(data)
            mutation(random.Random(seed), file)
            changed.add(file.data())
        assert len(changed - {data}) > 3


@pytest.mark.parametrize("data", FILES)
def test_parts_are_the_whole_file(data):
    parts = split_parts(data)
    assert b"".join(parts) == data
    assert len(parts) >= 1 + len(FRAMES)


def test_joined_captures_have_all_records_up_to_the_damage_of_each():
    damaged = FILES[0][:-3]
    files = joined((FILES[0], FILES[2], damaged, FILES[2], FILES[0], FILES[1], b"no capture", damaged))
    assert files == [
        FILES[0] + damaged[24:], FILES[2] * 2, FILES[0] + damaged[24:], FILES[1], b"no capture",
    ]  # fmt: skip
    counts = [len(read_records(file)[0]) for file in files[:4]]
    assert counts == [5, 6, 5, 3]


def test_a_case_is_the_same_after_it_was_written():
    case = FuzzCase(FILES, FlowDefinition.of(k=3), PacketView(length=80), ((30, 90), None, ()), 7)
    assert FuzzCase.of_json(case.to_json()) == case


def test_captures_without_damage_have_no_fault(tmp_path):
    case = FuzzCase(FILES, FlowDefinition.of(min_packets=1), PacketView(length=80), ((40, 120), (), None), 2)
    outcome = run_case(case, tmp_path)
    assert outcome.faults == []
    assert outcome.records == 3 * len(FRAMES)


def test_a_difference_from_the_reference_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("reference_meter.LARGEST", 40)
    case = FuzzCase(FILES[:1], FlowDefinition.of(), PacketView(length=80), (), 64)
    assert [fault.kind for fault in run_case(case, tmp_path).faults] == ["reference pkt_size"]


def test_a_smaller_case_has_only_what_its_fault_needs():
    edges = ((30, 90), None, ()) * 5
    case = FuzzCase(FILES * 5, FlowDefinition.of(k=3), PacketView(length=80), edges, 7)
    header, *_, last = split_parts(FILES[1])
    found = smaller(case, lambda each: any(file.startswith(header) and file.endswith(last) for file in each.files))
    assert found == FuzzCase((header + last,), FlowDefinition(), case.view, (), 1 << 15)


@pytest.mark.parametrize(
    ("name", "case"), list(found_cases()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_kept_cases_have_no_fault(name, case, tmp_path):
    faults = run_guarded(case, tmp_path).faults
    assert faults == []


def test_planted_faults_have_names_of_their_own():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) == 26


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_planted_faults_apply_to_the_source(mutant):
    compile(mutated_source(mutant), mutant.file, "exec")
    assert Path(mutant.file) in dependents(Path(mutant.file))


@pytest.mark.slow
def test_a_short_run_finds_no_fault():
    command = [
        sys.executable,
        Path(__file__).with_name("fuzz.py"),
        "--inputs",
        "20000",
        "--minutes",
        "5",
        "--seed",
        "7",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


def environment() -> dict[str, str]:
    """Returns the environment of the tools, as the Makefile sets it."""
    folder = Path(__file__).resolve().parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder.parent / "support"), str(folder)])}
