"""Addresses as text: 16 stored bytes to `192.0.2.1` or `2001:db8::1`."""

import array
import itertools
import socket

import pyarrow as pa

from flowloom.schemas.arrow.rows import IDENTITY

_MAPPED = bytes(10) + b"\xff\xff"
"""First 12 bytes of an IPv4 address in its IPv4-mapped form."""


def address_text(address: bytes) -> str:
    """Returns the text of one address of 16 bytes: dotted for IPv4, RFC 5952 for IPv6.

    Example:

    >>> address_text(bytes(10) + bytes([255, 255, 192, 0, 2, 1]))
    '192.0.2.1'
    """
    if address[:12] == _MAPPED:
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


def address_texts(addresses: pa.Array) -> pa.Array:
    """Returns the texts of addresses as an Arrow string array; null stays null.

    Each distinct address is written once, as captures repeat few hosts.
    """
    coded = addresses.dictionary_encode()
    texts = [address_text(each).encode() for each in coded.dictionary.to_pylist()]
    offsets = array.array("i", itertools.accumulate(map(len, texts), initial=0))
    distinct = pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(texts)))
    return distinct.take(coded.indices)


def with_text_addresses(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Returns rows with the columns `src_ip` and `dst_ip` as text; rows without these columns stay as they are."""
    columns = [address_texts(rows[name]) if name in IDENTITY else rows[name] for name in rows.schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=text_address_schema(rows.schema))


def text_address_schema(schema: pa.Schema) -> pa.Schema:
    """Returns a schema with the columns `src_ip` and `dst_ip` as text."""
    return pa.schema([field.with_type(pa.string()) if field.name in IDENTITY else field for field in schema])
