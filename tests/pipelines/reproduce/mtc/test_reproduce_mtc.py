"""`flowloom reproduce mtc`: what it makes of the data that is there, and the road on real sessions."""

import pytest
import yaml
from quick_reproductions import reproduced_twice

from flowloom.pipelines.demo_corpus import CORPUS
from flowloom.pipelines.manifests import read_manifest
from flowloom.pipelines.reproduce.command import reproduce
from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
from flowloom.pipelines.reproduce.mtc import reproduce_mtc
from flowloom.pipelines.terminal.progress_display import ProgressDisplay
from flowloom.schemas.errors import FlowloomError


@pytest.mark.parametrize(
    "manifest",
    [
        reproduce_mtc.iscx_manifest("iscx-wang2017", "keep"),
        reproduce_mtc.cicids_manifest("cicids2017-subset.tar.xz"),
        reproduce_mtc.packets_manifest(CORPUS),
    ],
    ids=lambda manifest: manifest["name"],
)
def test_manifests_are_valid(manifest, tmp_path):
    path = tmp_path / "made.yaml"
    path.write_text(yaml.safe_dump(manifest))
    assert read_manifest(path).name == manifest["name"]


def test_without_sessions_and_tables_it_says_what_is_missing(tmp_path):
    with (
        ProgressDisplay("test") as display,
        pytest.raises(FlowloomError, match="the experiments need sessions or tables"),
    ):
        reproduce(ReproduceOptions("mtc", tmp_path, tmp_path / "out"), display)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_road_on_real_rows(real_data, tmp_path, monkeypatch, capsys):
    from flowloom.pipelines.reproduce.mtc.mtc_grid import MTCScale

    small = MTCScale(1, 30, 0.001, 1, 30, ((1, 5, 6),), (3,), (0.07,), False)
    monkeypatch.setattr(MTCScale, "quick", classmethod(lambda cls: small))
    found = reproduced_twice("mtc", real_data, tmp_path / "out", capsys)
    claims = {claim["id"]: claim for claim in found["claims"]}
    assert claims["leak"]["holds"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.index("sessions of 784 bytes (Wang et al., 2017)") < page.index("claims hold")
    assert page.index("genuine subset of about 69,000 rows") < page.index("claims hold")
