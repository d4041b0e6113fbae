"""IP addresses: parsed like the standard library parses them, to the bytes that flows have."""

import ipaddress

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowloom.transforms.arrays.ip_addresses import parse_addresses


def oracle(text: str) -> bytes | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if "%" in text:
        return None
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def parsed(texts: list[str | None]) -> list[bytes | None]:
    addresses, valid = parse_addresses(pa.array(texts, pa.string()))
    return [row.tobytes() if known else None for row, known in zip(addresses, valid, strict=True)]


addresses = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).flatmap(
    lambda six: st.sampled_from([str(six), six.exploded, str(six).upper()])
)
nearly = st.text("0123456789abcdefABg:.%", max_size=24) | st.lists(st.integers(0, 300), min_size=3, max_size=5).map(
    lambda parts: ".".join(map(str, parts))
)
groups = st.lists(st.sampled_from(["0", "1", "ffff", "00ab", "", "12345", "1.2.3.4"]), max_size=10).map(":".join)


@settings(deadline=None)
@given(st.lists(addresses | nearly | groups, max_size=20))
@example(
    ["::", "::1", "1::", "1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:8::", "::1.2.3.4", "1:2:3:4:5:6:1.2.3.4", ":::", "01.2.3.4"]
)
def test_texts_are_parsed_like_the_standard_library(texts):
    assert parsed(texts) == [oracle(text) for text in texts]


def test_both_notations_of_an_address_are_equal():
    assert parsed(["10.0.0.1", "::ffff:10.0.0.1", "::FFFF:a00:1", None, ""]) == [
        bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
    ] * 3 + [None, None]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_slice_is_parsed_as_its_own_rows(kind):
    texts = pa.array(["1.1.1.1", "x", "::2", None], kind)
    addresses, valid = parse_addresses(texts.slice(1, 2))
    assert valid.tolist() == [False, True]
    assert addresses[1].tobytes() == ipaddress.ip_address("::2").packed
