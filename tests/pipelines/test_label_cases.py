"""Label tables as data sets publish them: each labels the flows of one day."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from capture_files import ACK, SYN, ethernet, ipv4, pcap, tcp

from flowloom.pipelines.build import BuildOptions, build
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.dataset.label_table_account import LabelTableAccount
from flowloom.schemas.progress import Progress

pytestmark = pytest.mark.timeout(300)

CLIENT, SERVER = "192.0.2.10", "198.51.100.20"
SECOND = 1_000_000_000
FLOWS = {
    "a": (1_499_254_927, 50_001, 80), "b": (1_499_256_000, 40_000, 22), "c": (1_499_256_600, 40_000, 22),
    "icmp": (1_499_259_900, 0, 0), "e": (1_499_274_930, 50_002, 80), "f": (1_499_279_459, 50_003, 443),
}  # fmt: skip
"""Flows of 2017-07-05 by name: start in seconds since the epoch (11:42:07, 12:00, 12:10, 13:05, 17:15:30, 18:30:59
UTC), ports of client and server. In Halifax it is three hours earlier."""


def day() -> bytes:
    """Returns the capture: a packet from either side, a second apart; one echo request."""
    frames = []
    for start_s, client, server in FLOWS.values():
        if not client:
            echo = bytes([8, 0, 0, 0, 0, 1, 0, 1])
            frames.append((start_s * SECOND, ethernet(ipv4(echo, CLIENT, SERVER, protocol=1))))
            continue
        there = ipv4(tcp(b"", client, server, SYN), CLIENT, SERVER)
        back = ipv4(tcp(b"", server, client, ACK), SERVER, CLIENT)
        frames += [(start_s * SECOND, ethernet(there)), ((start_s + 1) * SECOND, ethernet(back))]
    return pcap(frames)


@dataclasses.dataclass(frozen=True)
class Case:
    """A table: its text and keys, the labels that flows should get, and the account of its rows."""

    text: str
    keys: dict[str, Any]
    labels: dict[str, int]
    rows: dict[str, int]
    path: str = "table.csv"
    told: tuple[str, ...] = ()


CIC = (
    "Flow ID, Source IP, Source Port, Destination IP, Destination Port, Protocol, Timestamp, Flow Duration,"
    " Fwd Header Length,Fwd Header Length, Flow Bytes/s, Label"
)
CIC_KEYS = {
    "columns": {
        "src_ip": "Source IP", "dst_ip": "Destination IP", "src_port": "Source Port", "dst_port": "Destination Port",
        "protocol": "Protocol", "start": "Timestamp", "duration_us": "Flow Duration", "label": "Label",
    },
    "time_format": "%d/%m/%Y %H:%M", "time_zone": "America/Halifax", "tolerance_s": 60,
    "words": {"BENIGN": "negative", "DoS Hulk": "positive"},
}  # fmt: skip


def cic(*rows: tuple[int, int, int, str, str]) -> str:
    """Returns a table of CICIDS2017: ports, protocol, time and label of rows, with empty rows behind them."""
    lines = [f"x,{CLIENT},{one},{SERVER},{other},{proto},{time},3000,40,40,NaN,{label}"
             for one, other, proto, time, label in rows]  # fmt: skip
    return "\n".join([CIC, *lines, ",,,,,,,,,,,"]) + "\n"


ZEEK = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"
NAMES = "ts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration"
KINDS = "time\tstring\taddr\tport\taddr\tport\tenum\tinterval"
WORDS = {"Benign": "negative", "Malicious": "positive"}
AFTERNOON = cic(
    (50_001, 80, 6, "5/7/2017 8:42", "BENIGN"), (50_002, 80, 6, "5/7/2017 2:15", "DoS Hulk"),
    (50_003, 443, 6, "5/7/2017 3:30", "BENIGN"),
)  # fmt: skip

CASES = {
    "zeek": Case(
        f"{ZEEK}#fields\t{NAMES}\tlabel\n#types\t{KINDS}\tstring\n"
        f"1499256000.000000\tC1\t{CLIENT}\t40000\t{SERVER}\t22\ttcp\t1.000000\tBenign\n"
        f"1499256600.000000\tC2\t{CLIENT}\t40000\t{SERVER}\t22\ttcp\t-\tMalicious\n"
        f"1499259900.000000\tC3\t{CLIENT}\t8\t{SERVER}\t0\ticmp\t-\tMalicious\n#close\t2017-07-05-20-00-00\n",
        {"preset": "zeek", "words": WORDS},
        {"b": 0, "c": 1, "icmp": 1},
        {"rows": 3, "matched": 3},
        "conn.log",
    ),
    "zeek-iot23": Case(
        f"{ZEEK}#fields\t{NAMES}\ttunnel_parents   label   detailed-label\n"
        f"#types\t{KINDS}\tset[string]   string   string\n"
        f"1499256000.000000\tC1\t{CLIENT}\t40000\t{SERVER}\t22\ttcp\t1.0\t-   Benign   -\n"
        f"1499256600.000000\tC2\t{CLIENT}\t40000\t{SERVER}\t22\ttcp\t-\t(empty)   Malicious   C&C\n"
        f"1499257000.000000\tC2\t{CLIENT}\t40000\t{SERVER}\t22\ttcp\t-\t(empty)   -   -\n",
        {"preset": "zeek", "words": WORDS},
        {"b": 0, "c": 1},
        {"rows": 3, "matched": 2, "unreadable": 1},
        "conn.log.labeled",
    ),
    "zeek-json": Case(
        f'{{"ts":1499256000.000001,"uid":"C1","id.orig_h":"{CLIENT}","id.orig_p":40000,"id.resp_h":"{SERVER}",'
        '"id.resp_p":22,"proto":"tcp","tunnel_parents":[],"label":"Benign"}\n'
        f'{{"ts":"2017-07-05T12:10:00.500000Z","id.orig_h":"{CLIENT}","id.orig_p":40000,"id.resp_h":"{SERVER}",'
        '"id.resp_p":22,"proto":"tcp","duration":0.5,"label":"Malicious"}\n',
        {"preset": "zeek", "words": WORDS},
        {"b": 0, "c": 1},
        {"rows": 2, "matched": 2},
        "conn.json",
    ),
    "no-header": Case(
        f"{CLIENT},40000,{SERVER},22,tcp,CON,1.0,1,1499256000,1499256001,,0\n"
        f"{CLIENT},40000,{SERVER},22,tcp,CON,1.0,1,1499256600,1499256601, Fuzzers ,1\n",
        {
            "header": False, "time_format": "epoch_s",
            "columns": {"src_ip": 1, "src_port": 2, "dst_ip": 3, "dst_port": 4, "protocol": 5, "start": 9, "label": 12},
        },
        {"b": 0, "c": 1},
        {"rows": 2, "matched": 2},
    ),
    "hex-ports": Case(
        "srcip,sport,dstip,dsport,proto,Stime,Ltime,attack_cat,Label\n"
        f"{CLIENT},0x9c40,{SERVER},0x0016,tcp,1499256600,1499256601, Fuzzers ,1\n"
        f"{CLIENT},-,{SERVER},-,icmp,1499259900,1499259901,Recon,1\n"
        f"{CLIENT},546,{SERVER},1,unas,1499259900,1499259901,Recon,1\n"
        f"{CLIENT},50001,{SERVER},80,tcp,1499254920,1499254929,,0\n",
        {
            "time_format": "epoch_s",
            "columns": {
                "src_ip": "srcip", "src_port": "sport", "dst_ip": "dstip", "dst_port": "dsport", "protocol": "proto",
                "start": "Stime", "end": "Ltime", "label": "Label",
            },
        },
        {"a": 0, "c": 1, "icmp": 1},
        {"rows": 4, "matched": 3, "unreadable": 1},
    ),
    "mixed-times": Case(
        cic(
            (50_001, 80, 6, "05/07/2017 08:42:07", "BENIGN"), (50_002, 80, 6, "5/7/2017 14:15", "DoS Hulk"),
            (50_003, 443, 6, "2017-07-05T15:30:59", "BENIGN"),
        ),
        CIC_KEYS | {"time_format": ["%d/%m/%Y %H:%M", "%Y-%m-%dT%H:%M:%S"]},
        {"a": 0, "e": 1, "f": 0},
        {"rows": 4, "matched": 3, "unreadable": 1},
    ),
    "twelve-hours-unsaid": Case(
        AFTERNOON,
        CIC_KEYS | {"default": "negative"},
        dict.fromkeys(FLOWS, 0),
        {"rows": 4, "matched": 1, "outside": 2, "unreadable": 1},
        told=("write twelve_hour_from: 8", "2 of 2 sampled rows without a flow match under clock_offset_s: -43200"),
    ),
    "twelve-hours": Case(
        AFTERNOON,
        CIC_KEYS | {"twelve_hour_from": 7},
        {"a": 0, "e": 1, "f": 0},
        {"rows": 4, "matched": 3, "unreadable": 1},
    ),
    "cicids2017": Case(
        AFTERNOON,
        {"preset": "cicids2017", "words": CIC_KEYS["words"]},
        {"a": 0, "e": 1, "f": 0},
        {"rows": 4, "matched": 3, "unreadable": 1},
    ),
    "protocol-0": Case(
        cic((0, 0, 0, "5/7/2017 10:05", "DoS Hulk")),
        CIC_KEYS,
        {"icmp": 1},
        {"rows": 2, "matched": 1, "unreadable": 1},
    ),
    "binetflow": Case(
        "StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,Label\n"
        f"2017/07/05 12:00:00.000000,1.0,tcp,{CLIENT},40000,   ->,{SERVER},22,flow=Background-TCP-Attempt-1\n"
        f"2017/07/05 12:10:00.000000,1.0,tcp,{CLIENT},40000,   ->,{SERVER},22,flow=From-Botnet-V42-TCP-Attempt-2\n"
        f"2017/07/05 13:05:00.000000,0.0,icmp,{CLIENT},0x0008,  <->,{SERVER},0xb8ef,flow=To-Normal-V42\n",
        {
            "preset": "ctu-13",
            "words": {"flow=Background*": "negative", "flow=From-Botnet*": "positive", "flow=*Normal*": None},
        },
        {"b": 0, "c": 1},
        {"rows": 3, "matched": 3},
    ),
    "attack-spans": Case(
        # CSE-CIC-IDS2018 publishes hosts and times of attacks, not flows
        "date,start,finish,attacker,victim,attack\n"
        f"05-07-2017,9:05,9:20,{CLIENT},{SERVER},SSH-Bruteforce\n"
        f"05-07-2017,14:00,15:45,{CLIENT},{SERVER},DoS-Hulk\n",
        {
            "columns": {
                "src_ip": "attacker", "dst_ip": "victim", "date": "date", "start": "start", "end": "finish",
                "label": "attack",
            },
            "time_format": "%d-%m-%Y %H:%M", "time_zone": "America/Halifax", "default": "negative",
            "words": {"*": "positive"},
        },
        {"a": 0, "b": 0, "c": 1, "icmp": 0, "e": 1, "f": 1},
        {"rows": 2, "matched": 1, "several": 1},
    ),
    "mawilab": Case(
        "anomalyID,srcIP,srcPort,dstIP,dstPort,taxonomy,heuristic,distance,nbDetectors,label\n"
        f"1,{CLIENT},,,22,ntscSYN,10,1.5,4,anomalous\n2,,,203.0.113.9,,ttl,10,1.5,4,suspicious\n",
        {"preset": "mawilab", "words": {"anomalous": "positive", "suspicious": None}, "default": "negative"},
        {"a": 0, "b": 1, "c": 1, "icmp": 0, "e": 0, "f": 0},
        {"rows": 2, "several": 1, "unmatched": 1},
        told=("the captures have no flow between the hosts of 1 of 1 sampled rows",),
    ),
    "wrong-clock": Case(
        cic((50_001, 80, 6, "5/7/2017 8:42", "BENIGN"), (50_002, 80, 6, "5/7/2017 14:15", "DoS Hulk")),
        CIC_KEYS | {"time_zone": "UTC"},
        {},
        {"rows": 3, "unmatched": 1, "outside": 1, "unreadable": 1},
        told=("2 of 2 sampled rows without a flow match under clock_offset_s: -10800",),
    ),
    "wrong-protocol": Case(
        cic((50_001, 80, 17, "5/7/2017 8:42", "BENIGN")),
        CIC_KEYS,
        {},
        {"rows": 2, "unmatched": 1, "unreadable": 1},
        told=("1 of 1 sampled rows without a flow match flows of another protocol",),
    ),
    "exchanged-ports": Case(
        cic((80, 50_001, 6, "5/7/2017 8:42", "BENIGN")),
        CIC_KEYS,
        {},
        {"rows": 2, "unmatched": 1, "unreadable": 1},
        told=("1 of 1 sampled rows without a flow match if their ports are exchanged",),
    ),
}  # fmt: skip


def task_name(case: str) -> str:
    return case.replace("-", "_")


@dataclasses.dataclass(frozen=True)
class Built:
    card: DatasetCard
    labels: dict[str, dict[str, int]]
    told: list[str]


def built(folder: Path, workers: int, split_bytes: str = "1MiB") -> Built:
    """Builds one dataset with a task for each case."""
    tables = []
    for name, case in CASES.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / case.path).write_text(case.text)
        tables.append({"path": f"{name}/{case.path}", "task": task_name(name), **case.keys})
    (folder / "day.pcap").write_bytes(day())
    document = {
        "name": "day", "captures": [{"glob": "day.pcap", "label_tables": tables}],
        "tasks": {task_name(name): {"kind": "binary"} for name in CASES}, "splits": {"by": "flow"}, "leakage": "skip",
        "output": {"shards": 1, "split_bytes": split_bytes},
    }  # fmt: skip
    (folder / "day.yaml").write_text(yaml.safe_dump(document))
    told: list[Progress] = []
    out = folder / f"out-{workers}-{split_bytes}"
    card = build(BuildOptions(folder / "day.yaml", out, workers=workers, allow_empty=True), told.append)
    rows = pa.concat_tables(pq.ParquetFile(out / shard.path).read() for shard in card.shards).to_pylist()
    starts = {start_s: name for name, (start_s, *_) in FLOWS.items()}
    labels: dict[str, dict[str, int]] = {name: {} for name in CASES}
    for row in rows:
        for name in CASES:
            if (code := row[f"label_{task_name(name)}"]) is not None:
                labels[name][starts[int(row["start"].timestamp())]] = code
    return Built(card, labels, [event.text for event in told if event.stays])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Built:
    return built(tmp_path_factory.mktemp("day"), 1)


@pytest.mark.parametrize("name", CASES)
def test_a_table_labels_the_flows_of_its_rows(dataset, name):
    assert dataset.labels[name] == CASES[name].labels


@pytest.mark.parametrize("name", CASES)
def test_every_row_is_counted_and_told(dataset, name):
    case = CASES[name]
    (account,) = [table for table in dataset.card.label_tables if table.task == task_name(name)]
    counted = {
        key: getattr(account, key) for key in ("rows", "unreadable", "matched", "several", "unmatched", "outside")
    }
    assert counted == dict.fromkeys(counted, 0) | case.rows
    assert account.rows == account.unreadable + account.matched + account.several + account.unmatched + account.outside
    (coverage,) = [entry for entry in dataset.card.coverage if entry.task == task_name(name)]
    assert (account.flows, account.flows_without_row) == (len(FLOWS), coverage.unmatched)
    (text,) = [text for text in dataset.told if f"{account.source} (task" in text]
    assert all(part in text for part in (account.counted, *case.told))
    assert text.startswith("warning: ") == bool(case.told)
    assert bool(case.told) == any(finding.text == account.fault for finding in dataset.card.findings)


def test_workers_and_stretches_change_nothing(dataset, tmp_path):
    other = built(tmp_path, 2, "1KiB")
    assert (other.card.content_hash, other.labels) == (dataset.card.content_hash, dataset.labels)
    assert other.card.label_tables == dataset.card.label_tables


def test_cards_without_accounts_of_tables_open(dataset):
    document = dataset.card.model_dump(mode="json")
    del document["label_tables"]
    for entry in document["coverage"]:
        del entry["unmatched"]
    assert DatasetCard.model_validate(document).label_tables == ()


def test_a_table_with_few_lost_rows_is_no_fault():
    few = {"rows": 100, "unreadable": 0, "matched": 95, "several": 0, "unmatched": 5, "outside": 0}
    account = LabelTableAccount(task="t", source="x.csv", flows=99, flows_without_row=4, **few)
    assert account.fault is None
    assert account.counted == "x.csv (task t): 100 rows: 95 match one flow, 5 none; 4 of 99 flows have no row"
    assert account.model_copy(update={"matched": 80, "unmatched": 20}).fault is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("binetflow", [0, 1]), ("cic_12h_default", [0] * 7), ("cic_mixed_seconds", [0, 1, 0]), ("cic_proto0_icmp", [1]),
        ("unsw_hex", [0, 1, 1]), ("zeek", [0, 1]),
    ],
)  # fmt: skip
def test_public_reports_are_read(real_data, tmp_path, name, labels):
    cases = real_data.parent / "cases" / "labels"
    if not cases.is_dir():
        pytest.skip("needs the folder of cases beside the real captures")
    card = build(BuildOptions(cases / f"{name}.yaml", tmp_path / "out", workers=1, allow_empty=True))
    rows = pa.concat_tables(pq.ParquetFile(tmp_path / "out" / shard.path).read() for shard in card.shards)
    known = rows.sort_by("start")["label_attack"].drop_null().to_pylist()
    assert known == labels
