"""Concealing changes who the hosts are and nothing else; a corpus without a key file has a key of its own content."""

import dataclasses

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from synthetic import synthetic_flows

from flowloom.schemas.arrow.accounting import REJECTS
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.captures.groups import Capture, CaptureGroup, GroupPlan
from flowloom.transforms.flows.conceal import conceal, corpus_key
from flowloom.transforms.flows.flow_ptransforms import ConcealIdentities
from flowloom.transforms.flows.pseudonyms import IdentityKey, pseudonymise, rekey_ids

KEY = IdentityKey(bytes(range(32)))


def plan(*prints: str, first_ns: int | None = 1) -> GroupPlan:
    captures = [Capture(f"{at}.pcap", 9, each, "0" * 64, first_ns, (0,)) for at, each in enumerate(prints)]
    return GroupPlan(tuple(CaptureGroup(c.fingerprint[:16], (c,)) for c in captures), batch([], REJECTS))


def test_ids_and_addresses_change_and_nothing_else():
    flows = synthetic_flows(100)
    found = conceal(flows, KEY)
    assert found["src_ip"].equals(pseudonymise(flows["src_ip"], KEY))
    assert found["dst_ip"].equals(pseudonymise(flows["dst_ip"], KEY))
    assert found["flow_id"].equals(rekey_ids(flows["flow_id"], KEY))
    hidden = ["flow_id", "src_ip", "dst_ip"]
    assert found.drop_columns(hidden).equals(flows.drop_columns(hidden))
    assert found.schema.equals(flows.schema)
    assert conceal(flows.slice(30, 20), KEY).equals(found.slice(30, 20))


def test_the_key_of_a_corpus_is_that_of_its_captures_with_records():
    one, other, damaged = "a" * 64, "b" * 64, "c" * 64
    key = corpus_key(plan(one, other))
    assert corpus_key(plan(other, one)) == key
    unreadable = plan(damaged, first_ns=None).groups
    assert corpus_key(dataclasses.replace(plan(one, other), groups=(*plan(one, other).groups, *unreadable))) == key
    assert len({key, corpus_key(plan(one)), corpus_key(plan(one[:-1] + "b", other))}) == 3, "all digits count"


@pytest.mark.parametrize("key", [None, KEY])
def test_the_transform_conceals_where_there_is_a_key(key):
    flows = synthetic_flows(10)
    with beam.Pipeline("FnApiRunner") as pipeline:
        found = pipeline | "Flows" >> beam.Create([flows]) | "Conceal" >> ConcealIdentities(key)
        wanted = conceal(flows, key) if key else flows
        assert_that(found | beam.Map(lambda rows: rows.to_pylist()), equal_to([wanted.to_pylist()]))
