"""Commands on captures and datasets: tables and summaries for people, JSON for scripts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flowloom.schemas.dataset.dataset_card import CARD, read_card
from flowloom.schemas.dataset.dataset_statistics import REPORT, STATISTICS, read_statistics
from flowloom.schemas.file_digests import SEAL
from flowloom.schemas.folder_lock import locked_output
from flowloom.transforms.inspection.dataset_sketch import DatasetSketch

pytestmark = pytest.mark.timeout(120)


def card_of(folder) -> dict:
    """Returns the card of a dataset without the digest of its content."""
    return {name: value for name, value in json.loads((folder / CARD).read_text()).items() if name != SEAL}


def test_describe_without_statistics_imports_no_tensorflow(dataset):
    code = f"""if True:
        import sys
        from flowloom.pipelines.cli.main import main
        try:
            main(["describe", {str(dataset)!r}, "--json"])
        finally:
            print([name for name in ("apache_beam", "tensorflow", "tfx_bsl", "jinja2") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_flows_prints_its_accounting(run, corpus, tmp_path):
    code, out, err = run("flows", corpus / "web/0.pcap", tmp_path / "none.pcap", "-o", tmp_path / "f.parquet", "--json")
    assert code == 0
    report = json.loads(out)
    (capture,) = report["captures"]
    assert capture["records"] == capture["metered"] + sum(capture["dropped"].values())
    assert capture["dropped"] == {"not-ip": 1}
    assert set(report["seconds"]) == {"read", "decode", "meter", "write", "total"}
    assert "none.pcap" in err
    assert (tmp_path / "f.parquet").is_file()
    code, out, _ = run("flows", corpus / "web/0.pcap", "-o", tmp_path / "f.parquet", "--k", 3)
    assert code == 0
    assert f"{report['flows']} flows" in out


def test_flows_writes_what_the_suffix_says_and_tells_what_it_dropped(run, corpus, tmp_path):
    arguments = ("flows", corpus / "web", "-o", tmp_path / "f.csv", "--captures", tmp_path / "c.jsonl")
    code, _, err = run(*arguments)
    assert code == 0
    header, first, *_ = (tmp_path / "f.csv").read_text().splitlines()
    assert '"src_ip"' in header
    assert '"10.' in first
    captures = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert [Path(each["uri"]).name for each in captures] == [f"{at}.pcap" for at in range(5)]
    assert all(len(each["digest"]) == 64 for each in captures)
    records = sum(each["records"] for each in captures)
    assert f"flows: dropped 5 of {records:,} records: 5 not-ip\n" in err
    code, _, err = run("flows", corpus / "web", "-o", tmp_path / "f.csv", "--no-text-addresses", "--capture-column")
    assert code == 0
    header, first, *_ = (tmp_path / "f.csv").read_text().splitlines()
    assert header.endswith('"capture"')
    assert "00000000000000000000ffff0a" in first


def test_flows_refuses_outputs_that_it_cannot_write(run, corpus, tmp_path):
    code, _, err = run("flows", corpus / "web", "-o", tmp_path / "f.txt")
    assert code == 1
    assert "must end in .parquet, .csv, .csv.gz, .arrow, .jsonl" in err
    code, _, err = run("flows", corpus / "web", "-o", tmp_path / "f.csv", "--captures", tmp_path / "f.csv")
    assert code == 1
    assert "flows and captures must go to two files" in err
    assert list(tmp_path.iterdir()) == []


def test_build_prints_the_card_and_passes_options_to_beam(run, corpus, dataset, tmp_path):
    words = ("build", corpus / "cli.yaml", tmp_path / "out", "--json", "--", "--direct_num_workers=1")
    code, out, err = run(*words)
    assert code == 0
    assert json.loads(out) == card_of(tmp_path / "out")
    assert json.loads(out) == card_of(dataset)
    assert "build:" in err


def test_describe_prints_tables_or_the_card(run, dataset):
    code, out, err = run("describe", dataset)
    assert (code, err) == (0, "")
    for words in ("Dataset small", "Tasks", "Label sources", "Accounting", "dropped: not-ip", "Rejects", "Shards"):
        assert words in out
    code, out, _ = run("describe", dataset, "--json")
    assert json.loads(out) == card_of(dataset)


def test_describe_shows_what_a_split_by_time_and_pseudonyms_need(run, dataset, tmp_path):
    changed = shutil.copytree(dataset, tmp_path / "changed")
    card = card_of(dataset)
    card["split_rule"] |= {"by": "time", "cuts_ns": [1_700_000_000_000_000_000, 1_700_000_060_000_000_000]}
    card |= {"identity": "pseudonym", "key_id": "0123456789abcdef"}
    (changed / CARD).write_text(json.dumps(card))
    _, out, _ = run("describe", changed)
    assert "2023-11-14 22:13:20+00:00, 2023-11-14 22:14:20+00:00" in " ".join(out.split())
    assert "key 0123456789abcdef" in " ".join(out.split())


def test_describe_measures_leakage_on_demand(run, dataset):
    code, out, _ = run("describe", dataset, "--leakage")
    assert code == 0
    assert "Leakage" in out
    assert "Label conflicts" in out
    code, out, _ = run("describe", dataset, "--leakage", "--json")
    leakage = json.loads(out)["leakage"]
    rows = {split: counts["rows"] for split, counts in json.loads(out)["splits"].items()}
    assert leakage["sequences"]["flows"] == leakage["timed_sequences"]["flows"] == rows
    assert leakage["hosts"]["flows"] == {split: 2 * count for split, count in rows.items()}
    assert leakage["host_pairs"]["flows_in_train"] == {"validation": 0, "test": 0}, "no two captures share a host"
    assert set(leakage["conflicts"]) == {"app", "attack"}


def test_describe_writes_statistics_and_a_page(run, dataset, tmp_path):
    described = shutil.copytree(dataset, tmp_path / "described")
    code, out, err = run("describe", described, "--statistics", "--json")
    assert code == 0
    assert json.loads(out) == card_of(dataset)
    assert "report.html" in err
    card, statistics = read_card(described), read_statistics(described)
    assert statistics is not None
    direct = DatasetSketch(card.tasks, card.definition.k)
    for shard in card.shards:
        for rows in pq.ParquetFile(described / shard.path).iter_batches():
            direct.add(shard.split, rows)
    assert statistics.model_dump(exclude={"columns"}) == direct.statistics(card.content_hash).model_dump(
        exclude={"columns"}
    )
    assert statistics.columns["train"]["flow_id"].distinct == card.splits["train"].rows
    assert card.name in (described / REPORT).read_text()
    assert run("verify", described)[0] == 0
    before = (described / STATISTICS).read_bytes()
    assert run("describe", described, "--statistics", "-o", tmp_path / "again")[0] == 0
    assert (tmp_path / "again" / STATISTICS).read_bytes() == before
    assert (tmp_path / "again" / REPORT).read_bytes() == (described / REPORT).read_bytes()


def test_statistics_are_of_the_shards_of_the_card_alone(run, dataset, tmp_path):
    described = Path(shutil.copytree(dataset, tmp_path / "data[1]*"))
    shard = described / next(shard.path for shard in read_card(dataset).shards if shard.rows)
    shutil.copy(shard, shard.with_name("stray.parquet"))
    for folder, out in ((dataset, tmp_path / "right"), (described, tmp_path / "new" / "found")):
        assert run("describe", folder, "--statistics", "-o", out)[0] == 0
    assert (tmp_path / "new" / "found" / STATISTICS).read_bytes() == (tmp_path / "right" / STATISTICS).read_bytes()


def test_statistics_are_written_by_one_process_at_a_time(run, dataset, tmp_path):
    out = tmp_path / "out"
    with locked_output(out):
        code, _, err = run("describe", dataset, "--statistics", "-o", out)
    assert code == 1
    assert f"{out} is in use by process {os.getpid()}" in err
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_damaged_shards_are_refused(run, dataset, tmp_path):
    damaged = shutil.copytree(dataset, tmp_path / "damaged")
    shard = damaged / next(shard.path for shard in read_card(dataset).shards if shard.rows)
    whole = shard.read_bytes()
    for content, words in ((whole[:-9], "must have the SHA-256"), (None, "cannot be read")):
        shard.unlink() if content is None else shard.write_bytes(content)
        code, _, err = run("describe", damaged, "--statistics", "--json")
        assert code == 1
        assert words in err
        assert shard.name in err
        assert not (damaged / STATISTICS).exists()


def test_verify_confirms_a_whole_dataset_and_names_the_first_difference(run, dataset, tmp_path):
    code, out, err = run("verify", dataset)
    assert code == 0
    assert "match the card" in " ".join(out.split())
    assert "part-00000-of-00002.parquet" in err
    code, out, _ = run("verify", dataset, "--json")
    assert json.loads(out)["content_hash"] == json.loads((dataset / CARD).read_text())["content_hash"]
    broken = shutil.copytree(dataset, tmp_path / "broken")
    (broken / "rejects.parquet").unlink()
    code, out, err = run("verify", broken)
    assert (code, out) == (1, "")
    assert "error: rejects.parquet is missing" in err


def test_weave_makes_another_layout_or_names_the_wrong_option(run, dataset, tmp_path):
    code, out, err = run("weave", dataset, tmp_path / "out", "--layout", "rainbow", "--word", "app.web=ssh", "--json")
    assert code == 0
    assert "weave:" in err
    card = json.loads(out)
    assert card == card_of(tmp_path / "out")
    assert card["splits"]["train"]["classes"]["app"]["web"] == 0
    assert [source["content_hash"] for source in card["sources"]] == [
        json.loads((dataset / CARD).read_text())["content_hash"]
    ]
    _, out, _ = run("describe", tmp_path / "out")
    assert "merged from" in out
    for words, message in (
        ((dataset, dataset, tmp_path / "no", "--layout", "rainbw"), "did you mean 'rainbow'"),
        ((dataset, tmp_path / "no", "--layout", "aurora", "--word", "web=ssh"), "--word must be TASK.VALUE=VALUE"),
    ):
        code, out, err = run("weave", *words)
        assert (code, out) == (1, "")
        assert message in " ".join(err.split())
    assert run("weave", dataset, "--layout", "aurora")[0] == 2


def test_init_drafts_a_manifest_that_builds_and_replaces_none(run, corpus, tmp_path):
    folder, draft = tmp_path / "captures", tmp_path / "corpus.yaml"
    for name in ("web", "ssh"):
        shutil.copytree(corpus / name, folder / name)
    code, out, _ = run("init", folder, "-o", draft)
    assert code == 0
    assert f"next: read {draft}, then flowloom build {draft} DATASET --data {folder}" in out
    before = draft.read_text()
    code, out, err = run("init", folder, "-o", draft)
    assert (code, out) == (1, "")
    assert f"{draft} exists already; choose another name with -o, or replace it with --force" in err
    assert draft.read_text() == before
    code, out, _ = run("init", folder, "-o", draft, "--force", "--json")
    assert (code, json.loads(out)["captures"]) == (0, 11)
    code, out, err = run("build", draft, tmp_path / "dataset", "--data", folder, "--json")
    assert (code, set(json.loads(out)["splits"]["train"]["classes"]["folder"])) == (0, {"web", "ssh"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captures", "corpus.yaml", "dataset"]


def test_faults_of_a_dataset_are_warnings_of_build_and_describe(run, corpus, tmp_path):
    text = "name: faulty\ncaptures: [{glob: web/*.pcap, labels: {app: web}}, {glob: ssh/*.pcap, labels: {app: ssh}}, "
    (tmp_path / "c.yaml").write_text(text + "{glob: attack/*.pcap}]\ntasks: {app: {kind: multiclass}}\n")
    code, out, err = run("build", tmp_path / "c.yaml", tmp_path / "out", "--data", corpus)
    assert code == 0
    fault = "attack/*.pcap: 84 flows of 7 capture groups have no label of any task"
    assert f"warning: {fault}" in err
    assert fault not in out
    _, out, _ = run("describe", tmp_path / "out")
    assert "Before you train on this dataset" in out
    assert fault in " ".join(out.split())
    _, _, err = run("build", tmp_path / "c.yaml", tmp_path / "again", "--data", corpus, "--log-format", "json")
    events = [json.loads(line) for line in err.splitlines()]
    assert any(each["event"] == "warning" and fault in each["message"] for each in events)


def test_allow_empty_insists_and_a_training_stops(run, corpus, tmp_path):
    text = "name: e\ncaptures: [{glob: web/0.pcap, labels: {app: web}}]\n"
    (tmp_path / "c.yaml").write_text(text + "tasks: {app: {kind: multiclass, vocabulary: [web, ssh]}}\n")
    code, _, err = run("build", tmp_path / "c.yaml", tmp_path / "out", "--data", corpus)
    assert code == 1
    assert "task 'app': no flow has the label ssh" in err
    assert "add --allow-empty" in err
    code, out, err = run("build", tmp_path / "c.yaml", tmp_path / "out", "--data", corpus, "--allow-empty", "--json")
    assert code == 0
    assert [each["kind"] for each in json.loads(out)["findings"] if each["severity"] == "error"] == ["empty-class"]
    code, _, err = run("train", tmp_path / "out", "-o", tmp_path / "run")
    assert code == 1
    assert "task 'app' must have rows of at least 2 classes in the train split, got only web" in err
