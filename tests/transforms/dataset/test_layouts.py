"""Layouts: Aurora keeps rows with all labels; Rainbow keeps each known label once, in its stripe."""

import pyarrow as pa
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import FLOWS, label_column
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.views import StoredViews
from flowloom.transforms.dataset.layouts import lay_out

TASKS = (Task(name="app", kind="multiclass", vocabulary=("web", "ssh")), Task(name="attack", kind="binary"))
APP = [0, None, 1, None, 1, 0]
ATTACK = [None, None, 1, 0, None, 1]


def flows() -> pa.RecordBatch:
    return (
        synthetic_flows(6)
        .append_column(pa.field("label_app", pa.int32()), pa.array(APP, pa.int32()))
        .append_column(pa.field("label_attack", pa.int32()), pa.array(ATTACK, pa.int32()))
        .append_column(pa.field(SPLIT_COLUMN, pa.int8(), nullable=False), pa.array([0, 1, 2, 0, 1, 2], pa.int8()))
    )


def test_aurora_is_the_labelled_flows():
    ((stripe, rows),) = lay_out(flows(), TASKS, "aurora")
    assert stripe == ""
    assert rows.equals(flows())


def test_rainbow_has_each_known_label_in_one_stripe():
    stripes = dict(lay_out(flows(), TASKS, "rainbow"))
    assert list(stripes) == ["app", "attack"]
    for task, known in (("app", APP), ("attack", ATTACK)):
        at = [row for row, code in enumerate(known) if code is not None]
        expected = flows().select([*FLOWS.names, label_column(task), SPLIT_COLUMN]).take(pa.array(at))
        assert stripes[task].equals(expected)


def test_a_stripe_without_rows_is_absent():
    unlabelled = flows().take(pa.array([1]))
    assert list(lay_out(unlabelled, TASKS, "rainbow")) == []


def test_pseudonyms_are_stored_like_addresses():
    pseudonyms = StoredViews("pseudonym")
    assert pseudonyms.schema("flows", TASKS).equals(StoredViews("keep").schema("flows", TASKS))
    ((_, rows),) = lay_out(flows(), TASKS, "aurora", pseudonyms)
    assert rows.equals(flows())


def test_addresses_can_be_dropped():
    ((_, rows),) = lay_out(flows(), TASKS, "aurora", StoredViews("drop"))
    assert {"src_ip", "dst_ip"}.isdisjoint(rows.schema.names)
    assert [*StoredViews("drop").schema("flows", TASKS).names, SPLIT_COLUMN] == rows.schema.names
