"""Pseudonyms: addresses and flow ids under a secret key; addresses keep their common prefixes (Crypto-PAn)."""

import dataclasses
import hashlib
import logging
import os
import stat

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import column, view

KEY_BYTES = 32
"""16 bytes of AES key, then 16 that become the pad."""

_ADDRESSES_AT_ONCE = 4096
"""An IPv6 address takes 128 blocks of 16 bytes: 8 MiB."""
_MAPPED = np.uint64(0xFFFF)
"""The upper half of the lower word of an IPv4-mapped address, whose upper word is 0."""


@dataclasses.dataclass(frozen=True)
class IdentityKey:
    """The secret that pseudonyms are made with; never written, and not shown by `repr`.

    Raises:
      ValueError: if it is not 32 bytes long.
    """

    secret: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"an identity key must have {KEY_BYTES} bytes, got {len(self.secret)}")

    @property
    def key_id(self) -> str:
        """The first 16 hexadecimal digits of the key's SHA-256, by which two datasets show that they share a key."""
        return hashlib.sha256(self.secret).hexdigest()[:16]


def read_key(path: str) -> IdentityKey:
    """Read a key file of exactly 32 bytes; warns if every user of the machine may read it too.

    Raises:
      FlowloomError: if it cannot be read, or is of another length.
    """
    try:
        with open(path, "rb") as file:
            secret = file.read(KEY_BYTES + 1)
            status = os.fstat(file.fileno())
    except OSError as error:
        raise FlowloomError(
            f"key file {path} cannot be read: {error.strerror}; check the path and its rights"
        ) from None
    if len(secret) != KEY_BYTES:
        raise FlowloomError(
            f"key file {path} must have exactly {KEY_BYTES} bytes, got {status.st_size}; "
            f"make one with: head -c {KEY_BYTES} /dev/urandom > {path}"
        )
    if status.st_mode & stat.S_IROTH:
        logging.getLogger(__name__).warning("key file %s can be read by every user; say: chmod 600 %s", path, path)
    return IdentityKey(secret)


def pseudonymise(addresses: pa.FixedSizeBinaryArray, key: IdentityKey) -> pa.Array:
    """Replace addresses so that two with the same first n bits get pseudonyms with the same first n bits, and no more.

    IPv4-mapped addresses stay such: their last 32 bits are replaced as IPv4, all others as IPv6 over 128 bits. Source:
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
    """Encrypt 16-byte flow ids, so that nobody without the key can tell whether a guessed address made one.

    One AES block each under a key of its own: different ids stay different.
    """
    own = hashlib.sha256(b"flow_id" + key.secret).digest()[:16]
    return column(_encrypted(view(ids), own), ids.type)


def _prefix_preserved(words: np.ndarray, bits: int, key: IdentityKey) -> np.ndarray:
    """Return addresses [rows, 2], upper word first, with their first `bits` bits replaced.

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
    """Return 16-byte blocks, uint64 [rows, 2] in the order of their bytes, after AES-128, each for itself."""
    # ECB is AES as the bare block function that both schemes are made of, not a mode to hide a message in
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return np.frombuffer(cipher.update(np.ascontiguousarray(blocks).tobytes()), np.uint64).reshape(-1, 2)
