"""`flowloom reproduce`: datasets by the data that is present, and a quick run on real flows."""

from pathlib import Path

import pytest
import yaml
from quick_reproductions import reproduced_twice

from flowloom.pipelines.manifests import read_manifest
from flowloom.pipelines.reproduce.engine.datasets import built_once
from flowloom.pipelines.reproduce.engine.options import ReproduceOptions
from flowloom.pipelines.reproduce.multa.multa_data import KITSUNE, multa_sources
from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_data import SERVICES, flow_sources, iscx_manifest
from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.schemas.dataset.dataset_card import CARD, read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import ignore_progress

CORPORA = Path(__file__).resolve().parents[3] / "docs" / "corpora"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def sources(data):
    return {source.name: source for source in flow_sources(data, quick=False)}


def test_data_that_is_present_decides_the_comparison(tmp_path):
    with pytest.raises(FlowloomError, match="the experiments need the QUIC flows"):
        sources(tmp_path)
    touch(tmp_path, "quic-ucdavis/flows-150.tar.xz", "quic-ucdavis/valData.npy", "certta/CICDOH20/valid.json")
    part = sources(tmp_path)
    assert list(part) == ["quic", "quic-texts", "certta"]
    assert [entry["published"] for entry in part["quic"].manifest["captures"]] == [
        "quic-ucdavis",
        "quic-ucdavis-arrays",
    ]
    assert not part["quic"].signed
    assert "450 of the paper's 6,589 flows" in part["quic"].line
    touch(tmp_path, "quic-ucdavis/pretraining/Google Doc/1.txt", "iscx-vpn-nonvpn-2016/email1a.pcap")
    whole = sources(tmp_path)
    assert list(whole) == ["quic", "iscx"]
    assert whole["quic"].signed
    assert "the paper's protocol in full" in whole["quic"].line


def lines_of(number, flow=0):
    return (
        f"{1_500_000_000 + flow + n * (number + 1)}.5\t{n}\t{100 + n + flow + 50 * number}\t{n % 2}\n" for n in range(9)
    )


def test_the_whole_text_set_is_read_by_folders_of_services_and_anew_when_it_changes(tmp_path):
    for number, service in enumerate(("Google Doc", "Google Drive", "Google Music", "Google Search", "Youtube")):
        for flow in range(3):
            path = tmp_path / "quic-ucdavis" / "pretraining" / service / f"{flow}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines_of(number, flow)))
    (source,) = flow_sources(tmp_path, quick=False)
    directory, card = built_once(source.name, source.manifest, tmp_path / "out", ignore_progress)
    counts = [sum(split.classes["service"][word] for split in card.splits.values()) for word in SERVICES]
    assert counts == [3] * 5
    changed = (directory / CARD).stat().st_mtime_ns
    assert built_once(source.name, source.manifest, tmp_path / "out", ignore_progress) == (directory, card)
    assert (directory / CARD).stat().st_mtime_ns == changed, "the same data is built once"

    path.write_text("".join(lines_of(5)))
    anew, other = built_once(source.name, source.manifest, tmp_path / "out", ignore_progress)
    assert anew != directory
    assert other.content_hash != card.content_hash
    assert read_card(directory) == card, "what is there stays"


def test_the_manifest_of_iscx_is_the_documented_one(tmp_path):
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(iscx_manifest("iscx-vpn-nonvpn-2016")))
    assert read_manifest(tmp_path / "made.yaml") == read_manifest(CORPORA / "iscx-vpn-2016.yaml")


def test_an_unknown_paper_is_refused():
    with pytest.raises(FlowloomError, match="did you mean 'multitask-cnn'"):
        ReproduceOptions("multitask-cn", Path("data"), Path("out"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_quick_run_on_real_flows(real_data, tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "quic-ucdavis").symlink_to(real_data / "quic-ucdavis")
    from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_grid import RezaeiLiuScale

    small = RezaeiLiuScale(2, 5, (10, 20), (30, 60), (1.0, 10.0), 2)
    monkeypatch.setattr(RezaeiLiuScale, "quick", classmethod(lambda cls: small))
    found = reproduced_twice("multitask-cnn", data, tmp_path / "out", capsys)
    claims = {claim["id"]: claim for claim in found["claims"]}
    assert claims["parameters"]["ours"] == "296,847"
    assert claims["duration-dividers"]["holds"]
    assert found["data"]["sets"]["quic"]["flows"] == 450
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.index("450 of the paper&#39;s 6,589 flows") < page.index("claims hold")


def test_multa_is_compared_on_the_data_that_is_present(tmp_path):
    names = [source.name for source in multa_sources(tmp_path)]
    assert names == ["corpus", "packets"]
    files = [f"certta/{name}/{part}.json" for name in ("CICDOH20", "TIISSRC23") for part in ("valid", "test")]
    touch(tmp_path, *files)
    (corpus, certta, packets) = multa_sources(tmp_path)
    assert corpus.line.startswith("Kitsune's SSDP Flood, SSL Renegotiation and SYN DoS captures, which the paper uses")
    assert "were not available" in corpus.line
    assert "docs/corpora/kitsune.yaml" in corpus.line
    assert (certta.tasks, certta.kitsune) == (("tunnel", "brute_force", "mirai"), "")
    assert "Kitsune cannot be run on it" in certta.line
    assert packets.kitsune == "labelled"
    touch(tmp_path, *(f"kitsune/{name}/{name.replace(' ', '_')}_pcap.pcapng.gz" for name in KITSUNE))
    (whole, corpus, *_) = multa_sources(tmp_path)
    assert (whole.name, whole.kitsune, len(whole.manifests)) == ("kitsune", "prefix", 3)
    assert "not available" not in corpus.line


def test_classes_of_certta_become_three_tasks_against_the_same_benign_flows(tmp_path):
    files = [f"certta/{name}/{part}.json" for name in ("CICDOH20", "TIISSRC23") for part in ("valid", "test")]
    touch(tmp_path, *files)
    (_, source, _) = multa_sources(tmp_path)
    parse_manifest(source.manifests[0], "certta")
    words = {}
    for entry in source.manifests[0]["captures"]:
        for task, values in entry["words"].items():
            words.setdefault(task, {}).update(values)
    benign = dict.fromkeys(("benign", "audio", "video"), "negative")
    assert words["mirai"] == {**benign, "mirai": "positive"}
    assert words["tunnel"] == {**benign, **dict.fromkeys(("dns2tcp", "dnscat2", "iodine"), "positive")}
    assert words["brute_force"] == {**benign, **dict.fromkeys(("bruteforce-http", "bruteforce-telnet"), "positive")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_quick_run_of_multa(tmp_path, monkeypatch, capsys):
    """On the packets of the corpus alone, where Kitsune runs too; a second call computes nothing."""
    (tmp_path / "data").mkdir()
    from flowloom.pipelines.reproduce.multa import reproduce_multa
    from flowloom.pipelines.reproduce.multa.multa_grid import MULTAScale

    small = MULTAScale(2, 4, (4, 8), (4, 8), (4,), 2, 1, 1, (10,))
    monkeypatch.setattr(MULTAScale, "quick", classmethod(lambda cls: small))
    every = reproduce_multa.multa_sources(tmp_path / "data")
    monkeypatch.setattr(reproduce_multa, "multa_sources", lambda data: every[-1:])
    found = reproduced_twice("multa", tmp_path / "data", tmp_path / "out", capsys)
    claims = {claim["id"]: claim for claim in found["claims"]}
    assert claims["streaming-equal-packets"]["holds"]
    assert {"parameters-packets", "time-litert-packets", "above-kitsune-packets"} <= set(claims)
    assert found["tables"]["figure_4_packets"][0]["series"] == "3 x Kitsune"
