"""Addresses as text agree with Python's `ipaddress`."""

import ipaddress

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.schemas.arrow.address_texts import address_texts, with_text_addresses
from flowloom.schemas.arrow.rows import ADDRESS


def stored(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else ipaddress.ip_address(f"::ffff:{text}").packed


@settings(deadline=None)
@given(st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6), st.none()), max_size=20))
def test_texts_are_those_of_the_addresses(addresses):
    column = pa.array([None if each is None else stored(str(each)) for each in addresses], ADDRESS)
    for text, address in zip(address_texts(column).to_pylist(), addresses, strict=True):
        assert (text is None) == (address is None)
        if text is not None:
            mapped = getattr(address, "ipv4_mapped", None)
            assert ipaddress.ip_address(text) == (mapped or address)


def test_addresses_are_short_as_in_rfc_5952():
    column = pa.array([stored("192.0.2.1"), stored("2001:db8:0:0:1:0:0:1")], ADDRESS)
    assert address_texts(column).to_pylist() == ["192.0.2.1", "2001:db8::1:0:0:1"]


def test_rows_without_addresses_stay_as_they_are():
    rows = pa.RecordBatch.from_pydict({"src_port": [1, 2]})
    assert with_text_addresses(rows).equals(rows)
