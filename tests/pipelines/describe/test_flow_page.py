"""`flowloom show`: one flow by its id or a prefix, its packets, key, labels and origin."""

import collections
import ipaddress
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.cli import main as cli
from flowloom.pipelines.describe import find_flow as finding
from flowloom.pipelines.describe.find_flow import find_flow
from flowloom.pipelines.describe.flow_page import flag_letters, flow_packets, render_flow, show_flow
from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, read_card
from flowloom.schemas.errors import FlowloomError

pytestmark = pytest.mark.timeout(120)

VARIANTS = {
    "aurora": "",
    "rainbow": "layout: rainbow\n",
    "drop": "identity: drop\n",
}


@pytest.fixture(scope="module", params=VARIANTS)
def dataset(request, corpus, manifest, tmp_path_factory) -> Path:
    file = corpus / f"show-{request.param}.yaml"
    file.write_text(manifest + VARIANTS[request.param])
    out = tmp_path_factory.mktemp("show") / request.param
    build(BuildOptions(file, out, workers=1))
    return out


def rows_of(dataset):
    """Returns all rows of a dataset by flow id in hexadecimal, one for each stripe, with their split."""
    rows = collections.defaultdict(list)
    for shard in read_card(dataset).shards:
        for row in pq.read_table(dataset / shard.path).to_pylist():
            rows[row["flow_id"].hex()].append((shard.split, row))
    return rows


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_every_flow_is_found_with_its_labels_and_split(dataset, monkeypatch):
    monkeypatch.setattr(finding, "BATCH_ROWS", 7)
    card = read_card(dataset)
    rows = rows_of(dataset)
    for flow_id, stripes in list(rows.items())[:12]:
        flow = find_flow(dataset, card, flow_id)
        assert flow.flow_id == flow_id
        assert flow.split == stripes[0][0]
        expected = {task.name: None for task in card.tasks}
        for _, row in stripes:
            for task in card.tasks:
                label = row.get(label_column(task.name))
                if label is not None:
                    expected[task.name] = task.vocabulary[label]
        assert flow.labels == expected
        assert flow.row["pkt_size"] == stripes[0][1]["pkt_size"]


def test_a_prefix_is_enough_if_one_flow_has_it(dataset):
    card, ids = read_card(dataset), sorted(rows_of(dataset))
    chosen = ids[len(ids) // 2]
    unique = next(n for n in range(1, 33) if sum(each.startswith(chosen[:n]) for each in ids) == 1)
    for digits in (chosen[:unique], chosen[: unique + 1].upper()):
        assert find_flow(dataset, card, digits).flow_id == chosen
    ((digit, count),) = collections.Counter(each[0] for each in ids).most_common(1)
    assert count > 1
    with pytest.raises(FlowloomError, match=f"flow id {digit} must belong to one flow of .*, got several, such as"):
        find_flow(dataset, card, digit)


def test_unknown_ids_are_one_sentence(dataset, capsys):
    card = read_card(dataset)
    with pytest.raises(FlowloomError, match="has no flow whose id begins with ffffffffffff; check the id"):
        find_flow(dataset, card, "f" * 12)
    for wrong in ("", "xyz", "0" * 33):
        with pytest.raises(FlowloomError, match=f"must be 1 to 32 hexadecimal digits, got '{wrong}'"):
            find_flow(dataset, card, wrong)
    with pytest.raises(FlowloomError, match="must have the view flows to show a flow, got packets"):
        find_flow(dataset, card.model_copy(update={"views": ("packets",)}), "0")
    with pytest.raises(SystemExit):
        cli.main(["show", str(dataset), "f" * 12])
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_page_shows_packets_key_labels_and_origin(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flow_id, ((split, row), *_) = max(rows_of(dataset).items(), key=lambda each: len(each[1][0][1]["pkt_size"]))
    with pytest.raises(SystemExit) as ended:
        cli.main(["show", str(dataset), flow_id])
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines()[1] == f"flow-{flow_id}.html"
    page = Path(f"flow-{flow_id}.html").read_text()
    text = text_of(page)
    assert page.count("<title>packet ") == 2 * len(row["pkt_size"])
    for packet in flow_packets(row):
        assert packet.title in page
    assert flow_id in text
    assert f"{split} split" in text
    captures = pq.read_table(dataset / CAPTURES_TABLE).to_pylist()
    (uri,) = [each["uri"] for each in captures if each["group"] == row["group"]]
    assert uri in text
    if "src_ip" in row:
        address = ipaddress.IPv6Address(row["src_ip"])
        assert f"{address.ipv4_mapped or address}, port {row['src_port']}" in text
    else:
        assert "address not in the dataset" in text
        assert "dropped from the dataset" in text
    flow = find_flow(dataset, read_card(dataset), flow_id)
    for task, label in flow.labels.items():
        assert f"{task} {label or 'unknown'}" in text
    path, _ = show_flow(dataset, flow_id, tmp_path / "page.html")
    assert Path(path).read_text() == page


def test_published_flows_lack_columns_and_have_a_page(dataset):
    card = read_card(dataset)
    flow = find_flow(dataset, card, next(iter(rows_of(dataset))))
    kept = ("flow_id", "group", "duration_ns", "bytes_fwd", "bytes_bwd", "pkt_size", "pkt_dir", "pkt_gap_ns")
    row = {name: value if name in kept else None for name, value in flow.row.items()}
    text = text_of(render_flow(card, finding.StoredFlow(flow.flow_id, "test", row, flow.labels, flow.shards), []))
    assert "None" not in text
    assert "not listed in the dataset" in text
    empty = {**row, "pkt_size": [], "pkt_dir": [], "pkt_gap_ns": []}
    page = render_flow(card, finding.StoredFlow(flow.flow_id, "test", empty, flow.labels, flow.shards), [])
    assert "stores no packet of the flow" in page


def test_flags_are_letters_with_syn_and_fin_first():
    assert [flag_letters(flags) for flags in (0x02, 0x12, 0x18, 0x11, 0x04, 0)] == ["S", "SA", "PA", "FA", "R", ""]
