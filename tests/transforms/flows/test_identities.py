"""Identities: pseudonyms are those of Crypto-PAn, concealing changes hosts and ids only, keys are checked."""

import dataclasses
import hashlib
import ipaddress
import logging

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.arrow.accounting import REJECTS
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.captures.groups import Capture, CaptureGroup, GroupPlan
from flowloom.transforms.flows.identities import (
    IdentityKey,
    conceal_identities,
    corpus_key,
    pseudonymise,
    read_key,
    rekey_ids,
)

KEY = IdentityKey(bytes(range(32)))

SAMPLE_KEY = IdentityKey(bytes.fromhex("1522178d33a4cf80130a5b1649907d10d8988f837979652762574c2d2a842202"))
# of sample_trace_raw.dat and sample_trace_sanitized.dat in the authors' Crypto-PAn 1.0, one of each first byte
SAMPLE_TRACE = {
    "128.11.68.132": "135.242.180.132", "129.118.74.4": "134.136.186.123", "130.132.252.244": "133.68.164.234",
    "141.223.7.43": "141.167.8.160", "141.233.145.108": "141.129.237.235", "152.163.225.39": "151.140.114.167",
    "156.29.3.236": "147.225.12.42", "165.247.96.84": "162.9.99.234", "166.107.77.190": "160.132.178.185",
    "192.102.249.13": "252.138.62.131", "193.150.244.223": "253.169.52.216", "195.205.63.100": "255.186.223.5",
    "198.200.171.101": "249.199.68.213", "199.217.79.101": "248.38.184.213", "202.49.198.20": "245.206.7.234",
    "203.12.160.252": "244.248.163.4", "204.184.162.189": "243.192.77.90", "205.178.38.67": "242.108.198.51",
    "207.105.49.5": "241.118.205.138", "208.147.89.59": "227.237.98.191", "209.12.231.7": "226.243.167.8",
    "212.120.124.31": "228.135.163.231", "216.148.237.145": "235.84.194.111", "24.0.250.221": "100.15.198.226",
    "38.15.67.68": "64.3.66.187", "4.3.88.225": "124.60.155.63", "63.14.55.111": "95.9.215.7",
    "64.14.118.196": "0.255.183.58", "10.185.25.118": "117.161.29.118",
}  # fmt: skip
# of the implementations in Go (Yawning/cryptopan) and TypeScript (noinkling/node-cryptopan) under the same key
IPV6 = {
    "::1": "78ff:f001:9fc0:20df:8380:b1f1:704:ed",
    "::2": "78ff:f001:9fc0:20df:8380:b1f1:704:ef",
    "::ffff": "78ff:f001:9fc0:20df:8380:b1f1:704:f838",
    "2001:db8::1": "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1e",
    "2001:db8::2": "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1c",
}

keys = st.binary(min_size=32, max_size=32).map(IdentityKey)
addresses = st.integers(0, 2**128 - 1) | st.integers(0, 2**32 - 1).map(lambda number: (0xFFFF << 32) | number)


def packed(numbers: list[int]) -> pa.Array:
    return pa.array([number.to_bytes(16, "big") for number in numbers], pa.binary(16))


def mapped(text: str) -> int:
    return (0xFFFF << 32) | int(ipaddress.IPv4Address(text))


def pseudonyms(numbers: list[int], key: IdentityKey) -> list[int]:
    return [int.from_bytes(cell, "big") for cell in pseudonymise(packed(numbers), key).to_pylist()]


def common_bits(one: int, other: int) -> int:
    return 128 - (one ^ other).bit_length()


def test_ipv4_is_the_authors_sample_trace():
    found = pseudonyms([mapped(address) for address in SAMPLE_TRACE], SAMPLE_KEY)
    assert found == [mapped(pseudonym) for pseudonym in SAMPLE_TRACE.values()]


def test_ipv6_is_that_of_other_implementations():
    found = pseudonyms([int(ipaddress.IPv6Address(address)) for address in IPV6], SAMPLE_KEY)
    assert found == [int(ipaddress.IPv6Address(pseudonym)) for pseudonym in IPV6.values()]


@settings(deadline=None, max_examples=25)
@given(addresses, st.integers(0, 128), addresses, keys)
def test_prefixes_are_kept_and_no_more(address, bits, other, key):
    # another address with exactly the first `bits` bits of this one
    tail = (1 << (128 - bits)) - 1
    neighbour = (address & ~tail) | (~address & (tail ^ (tail >> 1))) | (other & (tail >> 1))
    one, two = pseudonyms([address, neighbour], key)
    if (address >> 32 == 0xFFFF) == (neighbour >> 32 == 0xFFFF):
        assert common_bits(one, two) == common_bits(address, neighbour) == min(bits, 128)
    else:
        assert one != two


@settings(deadline=None, max_examples=25)
@given(st.lists(addresses, min_size=1, max_size=12), st.data(), keys)
def test_neither_neighbours_nor_slices_change_a_pseudonym(numbers, data, key):
    start = data.draw(st.integers(0, len(numbers) - 1))
    whole = pseudonymise(packed(numbers), key)
    assert pseudonymise(packed(numbers).slice(start), key).equals(whole.slice(start))
    assert pseudonymise(packed(numbers[::-1]), key).to_pylist() == whole.to_pylist()[::-1]


def test_ipv4_stays_ipv4_and_keys_differ():
    sources = synthetic_flows(9000)["src_ip"]  # more than are encrypted at once
    found = pseudonymise(sources, SAMPLE_KEY)
    assert {cell[:12] for cell in found.to_pylist()} == {bytes(10) + b"\xff\xff"}
    assert len(set(found.to_pylist())) == len(set(sources.to_pylist())) > 8000
    other = pseudonymise(sources, IdentityKey(bytes(32)))
    assert np.mean([a == b for a, b in zip(found.to_pylist(), other.to_pylist(), strict=True)]) < 0.01


def test_ids_are_encrypted_one_by_one():
    ids = synthetic_flows(500)["flow_id"]
    found = rekey_ids(ids, SAMPLE_KEY)
    assert len(set(found.to_pylist()) | set(ids.to_pylist())) == 1000
    assert rekey_ids(ids.slice(100, 50), SAMPLE_KEY).equals(found.slice(100, 50))
    assert set(rekey_ids(ids, IdentityKey(bytes(32))).to_pylist()).isdisjoint(found.to_pylist())


def test_an_empty_batch_has_no_pseudonyms():
    assert len(pseudonymise(packed([]), SAMPLE_KEY)) == len(rekey_ids(packed([]), SAMPLE_KEY)) == 0


def test_a_key_shows_only_its_id(tmp_path):
    (tmp_path / "key").write_bytes(SAMPLE_KEY.secret)
    key = read_key(str(tmp_path / "key"))
    assert key == SAMPLE_KEY
    assert key.key_id == hashlib.sha256(SAMPLE_KEY.secret).hexdigest()[:16]
    assert repr(key) == "IdentityKey()"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"x" * 31, "exactly 32 bytes, got 31"), (b"x" * 33, "exactly 32 bytes, got 33; make one with: head -c 32")],
)
def test_a_key_of_another_length_is_rejected(tmp_path, content, message):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(FlowloomError, match=message):
        read_key(str(tmp_path / "key"))
    with pytest.raises(ValueError, match="must have 32 bytes"):
        IdentityKey(content)


def test_an_error_names_a_missing_key(tmp_path):
    with pytest.raises(FlowloomError, match="none cannot be read: No such file or directory"):
        read_key(str(tmp_path / "none"))


def test_a_key_that_every_user_may_read_causes_a_warning(tmp_path, caplog):
    (tmp_path / "key").write_bytes(bytes(32))
    (tmp_path / "key").chmod(0o600)
    with caplog.at_level(logging.WARNING):
        read_key(str(tmp_path / "key"))
        assert caplog.text == ""
        (tmp_path / "key").chmod(0o644)
        read_key(str(tmp_path / "key"))
    assert "can be read by every user; run: chmod 600" in caplog.text


def plan(*fingerprints: str, first_ns: int | None = 1) -> GroupPlan:
    captures = [Capture(f"{at}.pcap", 9, each, "0" * 64, first_ns, (0,)) for at, each in enumerate(fingerprints)]
    return GroupPlan(tuple(CaptureGroup(c.fingerprint[:16], (c,)) for c in captures), batch([], REJECTS))


def test_ids_and_addresses_change_and_nothing_else():
    flows = synthetic_flows(100)
    found = conceal_identities(flows, KEY)
    assert found["src_ip"].equals(pseudonymise(flows["src_ip"], KEY))
    assert found["dst_ip"].equals(pseudonymise(flows["dst_ip"], KEY))
    assert found["flow_id"].equals(rekey_ids(flows["flow_id"], KEY))
    hidden = ["flow_id", "src_ip", "dst_ip"]
    assert found.drop_columns(hidden).equals(flows.drop_columns(hidden))
    assert found.schema.equals(flows.schema)
    assert conceal_identities(flows.slice(30, 20), KEY).equals(found.slice(30, 20))
    assert conceal_identities(flows, None) is flows


def test_an_unknown_address_stays_null():
    flows = synthetic_flows(4)
    unknown = flows.set_column(
        flows.schema.get_field_index("src_ip"),
        flows.schema.field("src_ip").with_nullable(True),
        _without(flows["src_ip"], 2),
    )
    assert unknown.schema.names == flows.schema.names
    found = conceal_identities(unknown, KEY)["src_ip"].to_pylist()
    known = conceal_identities(flows, KEY)["src_ip"].to_pylist()
    assert found == [*known[:2], None, known[3]]


def _without(addresses: pa.Array, row: int) -> pa.Array:
    cells = addresses.to_pylist()
    return pa.array([*cells[:row], None, *cells[row + 1 :]], addresses.type)


def test_the_key_of_a_corpus_is_that_of_its_captures_with_records():
    one, other, damaged = "a" * 64, "b" * 64, "c" * 64
    key = corpus_key(plan(one, other))
    assert corpus_key(plan(other, one)) == key
    unreadable = plan(damaged, first_ns=None).groups
    assert corpus_key(dataclasses.replace(plan(one, other), groups=(*plan(one, other).groups, *unreadable))) == key
    assert len({key, corpus_key(plan(one)), corpus_key(plan(one[:-1] + "b", other))}) == 3, "all digits count"
