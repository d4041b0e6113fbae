"""Planning: what samples of a corpus say, against building all of it."""

import json

import pytest

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.cli import main as cli
from flowloom.pipelines.plan import SAMPLE_CAPTURES, SAMPLES, PlanOptions, choose_samples, plan
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.groups import Capture

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def planned(corpus, manifest):
    path = corpus / "plan.yaml"
    path.write_text(manifest)
    return path


def test_samples_say_what_the_build_finds(planned, tmp_path):
    seen = []
    found = plan(PlanOptions(planned, workers=1), seen.append)
    card = build(BuildOptions(planned, tmp_path / "dataset", workers=1))
    assert found.captures == card.accounting.captures  # all of so few are in a sample
    assert found.packets == pytest.approx(card.accounting.metered, rel=1e-3)
    assert found.flows == pytest.approx(card.accounting.flows, rel=1e-3)
    assert 0 < found.rates.startup_s < found.seconds.low <= found.seconds.likely <= found.seconds.high
    assert found.rates.spill_bytes > 0
    assert "measured" in found.bases[0]
    assert [(each.done, each.total) for each in seen] == [(0, SAMPLES), *((done, SAMPLES) for done in range(SAMPLES))]
    assert all(each.stays for each in seen)


def test_stored_rates_read_no_capture(planned, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["plan", str(planned), "--workers", "4", "--rates", "stored", "--json"])
    assert exit_.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["workers"] == 4
    assert found["bases"][0].startswith("rates are stored")
    with pytest.raises(SystemExit):
        cli.main(["plan", str(planned), "--workers", "4", "--rates", "stored"])
    assert "likely" in capsys.readouterr().out


def test_samples_are_of_all_sizes_and_have_each_capture_once():
    captures = [Capture(f"{at:04d}.pcap", 100 + at, f"{at}", None, 0, (0,)) for at in range(1_000)]
    samples = choose_samples(captures)
    chosen = [capture for sample in samples for capture, _ in sample]
    assert len(chosen) == len(set(chosen)) == SAMPLES * SAMPLE_CAPTURES
    assert {captures[0], captures[-1]} <= set(chosen)
    assert sum(capture.size for capture in chosen) / len(chosen) == pytest.approx(599.5, rel=0.02)
    assert [len(sample) for sample in choose_samples(captures[:2])] == [1, 1]


def test_a_corpus_without_captures_cannot_be_planned(tmp_path):
    (tmp_path / "none.yaml").write_text(
        "name: none\ncaptures: [{glob: '*.pcap', labels: {attack: true}}]\ntasks: {attack: {kind: binary}}\n"
    )
    with pytest.raises(FlowloomError, match=r"must match a file in .*, got none for captures.0 '\*.pcap'"):
        plan(PlanOptions(tmp_path / "none.yaml"))
    with pytest.raises(FlowloomError, match="rates must be measured or stored"):
        PlanOptions(tmp_path / "none.yaml", rates="guessed")
