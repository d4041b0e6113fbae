"""Flows joined to a large table of label windows in batches, and a table of 2 GB indexed.

Called with a number of flows it joins that many and prints its own times; called with `table` and a number of bytes it
indexes a table of that size. Without, it runs itself as processes.
"""

import json
import os
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pyarrow as pa
from measure import report, workplace

from flowloom.schemas.arrow.rows import FLOWS, SEQUENCES, label_column
from flowloom.schemas.corpus.label_table import LabelTable
from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.transforms.arrays.columns import column, list_column, repeated_text
from flowloom.transforms.labels.join_labels import FlowSource, join_sources
from flowloom.transforms.labels.label_flows import GroupLabels, label_by_path
from flowloom.transforms.labels.label_tables import read_label_table
from flowloom.transforms.windows.table_rows import table_writer
from flowloom.transforms.windows.window_files import load_index, write_windows
from flowloom.transforms.windows.window_index import window_batch

WINDOWS, FLOW_ROWS, BATCH_ROWS = 1_000_000, 5_000_000, 65_536
TABLE_BYTES, TABLE_STEP = 2_000_000_000, 100_000
GROUP = "00c0ffee00c0ffee"
START_NS = 1_700_000_000_000_000_000
HOUR_NS = 3_600_000_000_000

MANIFEST = parse_manifest(
    {"name": "benchmark", "captures": [{"glob": "a"}], "tasks": {"attack": {"kind": "binary"}}}, "benchmark"
)


def tuples(rng: np.random.Generator, rows: int, hosts: int) -> dict[str, np.ndarray]:
    """Returns five-tuples between random IPv4 hosts."""
    addresses = np.zeros((rows, 2, 16), np.uint8)
    addresses[:, :, 10:12] = 0xFF
    addresses[:, :, 12:] = rng.integers(0, hosts, (rows, 2), dtype=np.uint32).view(np.uint8).reshape(rows, 2, 4)
    return {
        "src_ip": addresses[:, 0].copy().view(np.uint64),
        "dst_ip": addresses[:, 1].copy().view(np.uint64),
        "src_port": rng.integers(1024, 65_536, rows).astype(np.uint16),
        "dst_port": rng.choice(np.array([53, 80, 443], np.uint16), rows),
        "protocol": rng.choice(np.array([6, 17], np.uint8), rows),
    }


def table(seed: int = 0) -> pa.RecordBatch:
    """Returns a table of flows of up to a minute within an hour; each five-tuple is there about twice."""
    rng = np.random.default_rng(seed)
    known = tuples(rng, WINDOWS // 2, 100_000)
    rows = rng.integers(0, WINDOWS // 2, WINDOWS)
    first_ns = START_NS + rng.integers(0, HOUR_NS, WINDOWS)
    codes = rng.integers(0, 2, WINDOWS).astype(np.int32)
    return window_batch(
        {name: values[rows] for name, values in known.items()},
        first_ns,
        first_ns + rng.integers(0, 60_000_000_000, WINDOWS),
        codes,
    )


def flow_batch(windows: pa.RecordBatch, seed: int, rows: int) -> pa.RecordBatch:
    """Returns flows; about half are rows of the table, in random direction, and the others are not."""
    rng = np.random.default_rng([1, seed])
    listed = windows.take(column(rng.integers(0, windows.num_rows, rows), pa.int64()))
    foreign = tuples(rng, rows, 100_000)
    known, turned = rng.random(rows) < 0.5, rng.random(rows) < 0.5
    values: dict[str, np.ndarray] = {}
    for name, other in foreign.items():
        held = np.frombuffer(listed[name].buffers()[1], other.dtype).reshape(other.shape)
        values[name] = np.where(known.reshape(-1, *[1] * (other.ndim - 1)), held, other)
    for one, two in (("src_ip", "dst_ip"), ("src_port", "dst_port")):
        mask = turned.reshape(-1, *[1] * (values[one].ndim - 1))
        values[one], values[two] = np.where(mask, values[two], values[one]), np.where(mask, values[one], values[two])
    first_ns = np.frombuffer(listed["first_ns"].buffers()[1], np.int64)
    values["start"] = np.where(known, first_ns, START_NS + rng.integers(0, HOUR_NS, rows))
    values["duration_ns"] = rng.integers(0, 10_000_000_000, rows)
    values["flow_id"] = rng.integers(0, 256, (rows, 16), dtype=np.uint8)
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(16)
    arrays = []
    for field in FLOWS:
        if field.name == "group":
            arrays.append(repeated_text(GROUP, rows))
        elif field.name in SEQUENCES:
            arrays.append(list_column(offsets, np.ones(rows * 16, str(SEQUENCES[field.name])), field.type))
        else:
            of_field = values[field.name] if field.name in values else np.ones(rows, str(field.type))
            arrays.append(column(of_field, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=FLOWS)


def join(folder: str, rows: int) -> dict[str, float]:
    """Joins flows in batches and returns CPU seconds of indexing and of joining; making the flows is not counted."""
    path = os.path.join(folder, "windows.arrow")
    windows = table()
    write_windows(path, windows, "time")
    source = FlowSource("attack", "table", "table", windows=path, tolerance_ns=1_000_000_000)
    labels = (GroupLabels(GROUP, (None,), (), True, (source,)),)

    def labelled(flows: pa.RecordBatch) -> pa.RecordBatch:
        return join_sources(label_by_path(flows, labels, MANIFEST.tasks), {GROUP: (source,)}, MANIFEST)[0]

    small = write_small(folder, windows)
    join_sources(
        label_by_path(flow_batch(windows, 0, 64), labels, MANIFEST.tasks), {GROUP: (small,)}, MANIFEST
    )  # compiles, or loads what was
    begun = time.process_time()
    load_index(path)
    indexing = time.process_time() - begun
    joining, known, done = 0.0, 0, 0
    while done < rows:
        flows = flow_batch(windows, done, min(BATCH_ROWS, rows - done))
        begun = time.process_time()
        batch = labelled(flows)
        joining += time.process_time() - begun
        known += batch.num_rows - batch[label_column("attack")].null_count
        done += batch.num_rows
    return {"seconds_index": indexing, "seconds_join": joining, "labelled": known / rows}


def write_small(folder: str, windows: pa.RecordBatch) -> FlowSource:
    """Returns a source of few windows, to load kernels with."""
    path = os.path.join(folder, "small.arrow")
    write_windows(path, windows.slice(0, 16), "time")
    load_index(path)
    return FlowSource("attack", "small", "table", windows=path)


def write_table(path: str, size: int) -> None:
    """Writes a CSV of about that many bytes: five-tuples of many hosts, times within a day, two labels."""
    rng = np.random.default_rng(2)
    with open(path, "wb") as file:
        file.write(b"src,sport,dst,dport,proto,start,lasts,label\n")
        while file.tell() < size:
            numbers = {f"b{at}": rng.integers(0, 256, TABLE_STEP) for at in range(5)}
            numbers |= {"port": rng.integers(1024, 65_536, TABLE_STEP), "label": rng.integers(0, 2, TABLE_STEP)}
            numbers["ms"] = START_NS // 1_000_000 + rng.integers(0, 86_400_000, TABLE_STEP)
            rows = pl.DataFrame(numbers).select(
                pl.format("10.{}.{}.{}", "b0", "b1", "b2"), "port", pl.format("192.168.{}.{}", "b3", "b4").alias("dst"),
                pl.lit(443).alias("dport"), pl.lit("tcp").alias("proto"),
                pl.format("{}.{}", pl.col("ms") // 1000, (pl.col("ms") % 1000).cast(str).str.zfill(3)).alias("start"),
                pl.lit("0.5").alias("lasts"), "label",
            )  # fmt: skip
            file.write(rows.write_csv(include_header=False).encode())


def index_rows(folder: str, size: int) -> dict[str, float]:
    """Indexes a table of that many bytes, and returns CPU seconds and rows; writing the table is not counted."""
    path = os.path.join(folder, "table.csv")
    write_table(path, size)
    columns = {
        "src_ip": "src", "src_port": "sport", "dst_ip": "dst", "dst_port": "dport", "protocol": "proto",
        "start": "start", "duration_s": "lasts", "label": "label",
    }  # fmt: skip
    keys = {"path": path, "task": "attack", "columns": columns, "time_format": "epoch_s"}
    begun = time.process_time()
    with table_writer(os.path.join(folder, "table.windows")) as write:
        summary = read_label_table(LabelTable.model_validate(keys), path, MANIFEST.tasks[0], write)
    return {"seconds": time.process_time() - begun, "rows": summary.rows}


def measured(*arguments: object) -> tuple[dict[str, float], float]:
    """Runs itself with arguments, and returns what it prints and its peak memory in MiB."""
    process = subprocess.Popen([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    taken = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return taken, usage.ru_maxrss / 1024


def main() -> None:
    """Prints flows and rows per second, and the peak memory of processes against smaller ones."""
    if len(sys.argv) > 2:
        os.sched_setaffinity(0, {0})
        with workplace() as folder:
            print(json.dumps(index_rows(str(folder), int(sys.argv[2]))))
        return
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {0})
        with workplace() as folder:
            print(json.dumps(join(str(folder), int(sys.argv[1]))))
        return
    taken, peaks = {}, {}
    for rows in (BATCH_ROWS, FLOW_ROWS):
        taken[rows], peaks[rows] = measured(rows)
    figures = taken[FLOW_ROWS]
    report(
        "labels",
        flows=FLOW_ROWS,
        windows=WINDOWS,
        batch_rows=BATCH_ROWS,
        labelled=figures["labelled"],
        cpu_seconds_index=figures["seconds_index"],
        cpu_seconds_join=figures["seconds_join"],
        flows_per_cpu_s=FLOW_ROWS / figures["seconds_join"],
        flows_per_cpu_s_with_index=FLOW_ROWS / (figures["seconds_join"] + figures["seconds_index"]),
        peak_mib=peaks[FLOW_ROWS],
        peak_mib_one_batch=peaks[BATCH_ROWS],
    )
    table, peak = measured("table", TABLE_BYTES)
    _, small_peak = measured("table", TABLE_BYTES // 8)
    report(
        "label table",
        bytes=TABLE_BYTES,
        rows=table["rows"],
        rows_per_cpu_s=table["rows"] / table["seconds"],
        peak_mib=peak,
        peak_mib_of_an_eighth=small_peak,
    )


if __name__ == "__main__":
    main()
