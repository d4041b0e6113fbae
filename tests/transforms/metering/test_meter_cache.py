"""Meter cache: captures that are metered one by one and joined later give the flows of the whole timeline."""

import random
from pathlib import Path

import pytest
from capture_files import ACK, FIN, SYN, ethernet, ipv4, pcap, tcp, udp

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.build_steps import MeteredCaptures
from flowloom.pipelines.manifests import read_manifest
from flowloom.pipelines.retrain.retrain import meter_new
from flowloom.pipelines.whole_groups import CrowdedGroupsError
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.progress import ignore_progress
from flowloom.transforms.captures.groups import match_sources
from flowloom.transforms.captures.inventory import find_captures
from flowloom.transforms.metering.meter_cache import MeterCache

NS = 1_700_000_000_000_000_000
MANIFEST = """\
name: gateway
captures:
  - {{glob: "gateway/*.pcap", labels: {{attack: false}}, group: rotated}}
  - {{glob: "floods/*.pcap", labels: {{attack: true}}}}
definition: {definition}
tasks: {{attack: {{kind: binary}}}}
splits: {{by: flow}}
output: {{shards: 2}}
"""


def timeline(seed: int, seconds: int) -> list[tuple[int, bytes]]:
    """Returns packets of conversations over a whole timeline: some pause longer than a timeout, some end."""
    draws = random.Random(seed)
    frames = []
    for flow in range(40):
        host, port = f"10.0.{flow}.{seed}", 1024 + draws.randrange(8)
        time_ns = NS + draws.randrange(seconds) * 1_000_000_000
        while time_ns < NS + seconds * 1_000_000_000:
            if flow % 2:
                packet = ipv4(udp(bytes(draws.randrange(900)), port, 53), host, "10.250.0.1", 17)
            else:
                flags = draws.choice([SYN, ACK, ACK, ACK, ACK | FIN])
                packet = ipv4(tcp(b"", port, 443, flags, seq=draws.randrange(3)), host, "10.250.0.1")
            frames.append((time_ns, ethernet(packet)))
            time_ns += draws.choice([1_000_000, 900_000_000, 70_000_000_000])
    if seed == 1:  # IP fragments of a datagram; the first one comes just before the cut
        whole = udp(bytes(800), 5000, 53)
        cut = NS + seconds * 500_000_000
        for offset, at in ((0, cut - 1_000_000), (50, cut + 1_000_000)):
            flag = 0 if offset else 0x2000
            part = whole[400:] if offset else whole[:400]
            packet = ipv4(part, "10.9.9.9", "10.250.0.1", 17, ip_id=77, fragment=flag | offset)
            frames.append((at, ethernet(packet)))
    return sorted(frames)


def write_days(folder: Path, frames: list[tuple[int, bytes]], seconds: int, days: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for day in range(days):
        first, last = (NS + seconds * 1_000_000_000 * at // days for at in (day, day + 1))
        path = folder / f"trace-{day:02d}.pcap"
        path.write_bytes(pcap([(at, frame) for at, frame in frames if first <= at < last]))
        paths.append(path)
    return paths


OTHERS = [
    pytest.param(each, marks=pytest.mark.slow) for each in ("{preset: multitask-cnn}", "{idle_s: 60, active_s: 100}")
]


@pytest.mark.parametrize("definition", ["{idle_s: 60}", *OTHERS])
def test_captures_metered_day_by_day_give_the_flows_of_one_build(tmp_path, definition):
    folder = tmp_path / "corpus"
    days = write_days(folder / "gateway", timeline(1, 600), 600, 4)
    write_days(folder / "floods", timeline(2, 100), 100, 2)
    (folder / "corpus.yaml").write_text(MANIFEST.format(definition=definition))
    manifest = read_manifest(folder / "corpus.yaml")
    build(BuildOptions(folder / "corpus.yaml", tmp_path / "scratch", workers=2))

    aside = tmp_path / "aside"
    aside.mkdir()
    for day in days:
        day.rename(aside / day.name)
    store = MeterCache(str(tmp_path / "readings"), manifest.definition)
    seen = ()
    for count, day in enumerate(days):
        (aside / day.name).rename(day)
        found = find_captures(manifest.captures, str(folder), match_sources(manifest.captures, str(folder)), seen)
        assert len(found.new) == (3 if count == 0 else 1)
        job = tmp_path / f"job-{count}"
        job.mkdir()
        kept = meter_new(manifest, found, store, 1, str(job), ignore_progress)
        seen = found.seen
    build(BuildOptions(folder / "corpus.yaml", tmp_path / "appended", workers=1), metered=kept)
    scratch, appended = read_card(tmp_path / "scratch"), read_card(tmp_path / "appended")
    assert appended == scratch
    assert (tmp_path / "appended/captures.parquet").read_bytes() == (tmp_path / "scratch/captures.parquet").read_bytes()
    assert scratch.accounting.dropped == {}, "the second piece of the datagram found its first"
    assert isinstance(kept, MeteredCaptures)


@pytest.mark.parametrize("days", [1, 3])
def test_a_crowded_timeline_is_given_up_and_metered_in_one_piece(tmp_path, days):
    folder = tmp_path / "corpus"
    write_days(folder / "gateway", timeline(1, 100), 100, days)
    write_days(folder / "floods", timeline(2, 100), 100, 1)
    (folder / "corpus.yaml").write_text(MANIFEST.format(definition="{max_open_flows: 8}"))
    manifest = read_manifest(folder / "corpus.yaml")
    store = MeterCache(str(tmp_path / "readings"), manifest.definition)
    found = find_captures(manifest.captures, str(folder), match_sources(manifest.captures, str(folder)), ())
    parts = meter_new(manifest, found, store, 1, str(tmp_path), ignore_progress)
    gateway = [cached for cached in parts.cached if not cached.whole]
    assert len(gateway) == days
    assert all(cached.most_open < 40 and not cached.fragments() for cached in gateway), "it stopped at the bound"
    with pytest.raises(CrowdedGroupsError) as caught:
        build(BuildOptions(folder / "corpus.yaml", tmp_path / "parts", workers=1), metered=parts)
    assert caught.value.groups == (gateway[0].group,)
    whole = meter_new(manifest, found, store, 1, str(tmp_path), ignore_progress, caught.value.groups)
    build(BuildOptions(folder / "corpus.yaml", tmp_path / "whole", workers=1), metered=whole)
    build(BuildOptions(folder / "corpus.yaml", tmp_path / "scratch", workers=1))
    assert read_card(tmp_path / "whole") == read_card(tmp_path / "scratch")
