"""`flowloom reproduce mtc`: datasets by the data that is present, and a quick run on real sessions."""

import pytest
import yaml
from quick_reproductions import reproduced_twice

from flowloom.pipelines.demo_corpus import CORPUS
from flowloom.pipelines.manifests import read_manifest
from flowloom.pipelines.reproduce.command import reproduce
from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
from flowloom.pipelines.reproduce.mtc import mtc_data
from flowloom.schemas.errors import FlowloomError


@pytest.mark.parametrize(
    "manifest",
    [
        mtc_data.iscx_manifest("iscx-wang2017", "keep"),
        mtc_data.cicids_manifest("cicids2017-subset.tar.xz"),
        mtc_data.packets_manifest(CORPUS),
    ],
    ids=lambda manifest: manifest["name"],
)
def test_manifests_are_valid(manifest, tmp_path):
    path = tmp_path / "made.yaml"
    path.write_text(yaml.safe_dump(manifest))
    assert read_manifest(path).name == manifest["name"]


def test_missing_sessions_and_tables_are_an_error(tmp_path):
    with (
        pytest.raises(FlowloomError, match="the experiments need sessions or tables"),
    ):
        reproduce(ReproduceOptions("mtc", tmp_path, tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_quick_run_on_real_rows(real_data, tmp_path, monkeypatch, capsys):
    from flowloom.pipelines.reproduce.mtc.mtc_grid import MTCScale

    small = MTCScale(1, 30, 0.001, 1, 30, ((1, 5, 6),), (3,), (0.07,), False)
    monkeypatch.setattr(MTCScale, "quick", classmethod(lambda cls: small))
    found = reproduced_twice("mtc", real_data, tmp_path / "out", capsys)
    claims = {claim["id"]: claim for claim in found["claims"]}
    assert claims["leak"]["holds"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.index("sessions of 784 bytes (Wang et al., 2017)") < page.index("claims hold")
    assert page.index("genuine subset of about 69,000 rows") < page.index("claims hold")
