"""Identities of hosts, hidden under a secret key before anything is derived from flows.

Addresses keep their common prefixes (Crypto-PAn); flow ids, which are hashes of addresses, are encrypted.
"""

import dataclasses
import hashlib
import logging
import os
import stat
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import IDENTITY
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import column, view
from flowloom.transforms.captures.groups import GroupPlan

KEY_BYTES = 32
"""16 bytes of AES key, then 16 that become the pad."""

_ADDRESSES_AT_ONCE = 4096
"""An IPv6 address takes 128 blocks of 16 bytes: 8 MiB."""
_MAPPED = np.uint64(0xFFFF)
"""The upper half of the lower word of an IPv4-mapped address, whose upper word is 0."""


@dataclasses.dataclass(frozen=True)
class IdentityKey:
    """Secret of 32 bytes from which pseudonyms are made; never stored, and not shown by `repr`.

    Raises:
      ValueError: if it is not 32 bytes long.
    """

    secret: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"an identity key must have {KEY_BYTES} bytes, got {len(self.secret)}")

    @property
    def key_id(self) -> str:
        """First 16 hexadecimal digits of the key's SHA-256: equal in two datasets that share a key."""
        return hashlib.sha256(self.secret).hexdigest()[:16]


def read_key(path: str) -> IdentityKey:
    """Reads a key file of exactly 32 bytes, and warns if every user of the machine may read it.

    Raises:
      FlowloomError: if it cannot be read, or is of another length.
    """
    try:
        with open(path, "rb") as file:
            secret = file.read(KEY_BYTES + 1)
            status = os.fstat(file.fileno())
    except OSError as error:
        raise FlowloomError(
            f"key file {path} cannot be read: {error.strerror}; check the path and its permissions"
        ) from None
    if len(secret) != KEY_BYTES:
        raise FlowloomError(
            f"key file {path} must have exactly {KEY_BYTES} bytes, got {status.st_size}; "
            f"make one with: head -c {KEY_BYTES} /dev/urandom > {path}"
        )
    if status.st_mode & stat.S_IROTH:
        logging.getLogger(__name__).warning("key file %s can be read by every user; run: chmod 600 %s", path, path)
    return IdentityKey(secret)


def corpus_key(plan: GroupPlan, published: Sequence[str] = ()) -> IdentityKey:
    """Returns the key under `identity: drop`: a hash of the fingerprints of all captures with records.

    A dataset shows 64 of a fingerprint's 256 bits, in the names of groups. To know the others one must have the
    captures, and then there is nothing left to guess. The same captures give the same ids without a key file.

    Args:
      plan: the capture groups of the corpus.
      published: digests of published files, some of them metered too.
    """
    fingerprints = sorted(
        capture.fingerprint for group in plan.groups for capture in group.captures if capture.first_ns is not None
    )
    return IdentityKey(hashlib.sha256("".join(["identity", *fingerprints, *published]).encode()).digest())


def conceal_identities(flows: pa.RecordBatch, key: IdentityKey | None) -> pa.RecordBatch:
    """Replaces the addresses of flows by pseudonyms and encrypts flow ids; without a key flows stay as they are.

    Args:
      flows: columns `flow_id`, `src_ip` and `dst_ip` (the addresses may be null), and any others.
      key: the secret; with the same key the same address has the same pseudonym in every batch.
    """
    if key is None:
        return flows
    concealed = {name: _pseudonyms(flows[name], key) for name in IDENTITY}
    concealed["flow_id"] = rekey_ids(flows["flow_id"], key)
    columns = [concealed.get(name, flows[name]) for name in flows.schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=flows.schema)


def pseudonymise(addresses: pa.FixedSizeBinaryArray, key: IdentityKey) -> pa.Array:
    """Replaces addresses by pseudonyms that share exactly as many leading bits as the addresses do.

    Of IPv4-mapped addresses only the last 32 bits are replaced; all others are replaced over 128 bits. Source:
    Crypto-PAn (Xu, Fan, Ammar and Moon, "Prefix-Preserving IP Address Anonymization", ICNP 2002, section 4).

    Args:
      addresses: binary(16) [rows] without nulls.
    """
    encoded = addresses.dictionary_encode()
    words = view(encoded.dictionary).byteswap()
    mapped = (words[:, 0] == 0) & (words[:, 1] >> np.uint64(32) == _MAPPED)
    pseudonyms = np.empty_like(words)
    pseudonyms[~mapped] = _prefix_preserved(words[~mapped], 128, key)
    # an IPv4 address takes the upper 32 bits of a block
    v4 = np.zeros((int(mapped.sum()), 2), np.uint64)
    v4[:, 0] = words[mapped, 1] << np.uint64(32)
    v4[:, 1] = (_prefix_preserved(v4, 32, key)[:, 0] >> np.uint64(32)) | (_MAPPED << np.uint64(32))
    v4[:, 0] = 0
    pseudonyms[mapped] = v4
    return column(pseudonyms.byteswap(), addresses.type).take(encoded.indices)


def rekey_ids(ids: pa.FixedSizeBinaryArray, key: IdentityKey) -> pa.Array:
    """Encrypts 16-byte flow ids, so that a guessed address cannot be tested against them without the key.

    Each id is one AES block under a key of its own, so different ids stay different.
    """
    own = hashlib.sha256(b"flow_id" + key.secret).digest()[:16]
    return column(_encrypted(view(ids), own), ids.type)


def _pseudonyms(addresses: pa.FixedSizeBinaryArray, key: IdentityKey) -> pa.Array:
    """Returns the pseudonyms of addresses; null, as in a published file without one, stays null."""
    if not addresses.null_count:
        return pseudonymise(addresses, key)
    known = addresses.is_valid().to_numpy(zero_copy_only=False)
    found = pseudonymise(addresses.drop_null(), key)
    place = np.where(known, np.cumsum(known) - 1, 0).astype(np.int64)
    validity = pa.py_buffer(np.packbits(known, bitorder="little"))
    return found.take(pa.Array.from_buffers(pa.int64(), len(place), [validity, pa.py_buffer(place)]))


def _prefix_preserved(words: np.ndarray, bits: int, key: IdentityKey) -> np.ndarray:
    """Returns addresses [rows, 2], upper word first, with their first `bits` bits replaced.

    Bit n is flipped by the first bit of AES over the n bits before it, filled up with the pad's.
    """
    cipher_key, pad_seed = key.secret[:16], key.secret[16:]
    pad = _encrypted(np.frombuffer(pad_seed, np.uint64).reshape(1, 2), cipher_key).byteswap()
    ones = np.tri(bits, 128, -1, dtype=np.uint8)
    prefix = np.packbits(ones, axis=1).view(">u8").astype(np.uint64)
    fill = pad & ~prefix
    replaced = words.copy()
    for at in range(0, len(words), _ADDRESSES_AT_ONCE):
        some = words[at : at + _ADDRESSES_AT_ONCE]
        blocks = (some[:, None, :] & prefix) | fill
        first_bytes = _encrypted(blocks.byteswap().reshape(-1, 2), cipher_key).view(np.uint8)[:, 0]
        flips = np.zeros((len(some), 128), np.uint8)
        flips[:, :bits] = (first_bytes >> 7).reshape(-1, bits)
        replaced[at : at + _ADDRESSES_AT_ONCE] ^= np.packbits(flips, axis=1).view(">u8").astype(np.uint64)
    return replaced


def _encrypted(blocks: np.ndarray, key: bytes) -> np.ndarray:
    """Returns 16-byte blocks, uint64 [rows, 2] in the order of their bytes, each encrypted with AES-128 alone."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # of an extra, for pseudonyms alone

    # both schemes need AES as a bare block function, which is ECB; no message is hidden with it
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return np.frombuffer(cipher.update(np.ascontiguousarray(blocks).tobytes()), np.uint64).reshape(-1, 2)
