"""Identities: whether a flow's hosts can be told from its row, before anything is derived from them."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import IDENTITY
from flowloom.transforms.captures.groups import GroupPlan
from flowloom.transforms.flows.pseudonyms import IdentityKey, pseudonymise, rekey_ids


def conceal(flows: pa.RecordBatch, key: IdentityKey) -> pa.RecordBatch:
    """Replace addresses by pseudonyms, and flow ids, which are hashes of addresses, by encrypted ones."""
    concealed = {name: _pseudonyms(flows[name], key) for name in IDENTITY}
    concealed["flow_id"] = rekey_ids(flows["flow_id"], key)
    columns = [concealed.get(name, flows[name]) for name in flows.schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=flows.schema)


def _pseudonyms(addresses: pa.FixedSizeBinaryArray, key: IdentityKey) -> pa.Array:
    """Return the pseudonyms of addresses, null where a published file does not tell one."""
    if not addresses.null_count:
        return pseudonymise(addresses, key)
    known = addresses.is_valid().to_numpy(zero_copy_only=False)
    found = pseudonymise(addresses.drop_null(), key)
    place = np.where(known, np.cumsum(known) - 1, 0).astype(np.int64)
    validity = pa.py_buffer(np.packbits(known, bitorder="little"))
    return found.take(pa.Array.from_buffers(pa.int64(), len(place), [validity, pa.py_buffer(place)]))


def corpus_key(plan: GroupPlan, published: Sequence[str] = ()) -> IdentityKey:
    """Return the key under `identity: drop`: a hash of the fingerprints of all captures with records.

    A dataset shows 64 of a fingerprint's 256 bits, in the names of groups. To know the rest one must have the captures,
    and whoever has those needs no guesses. The same captures give the same ids without a key file.

    Args:
      published: digests of published files, of which some are metered too.
    """
    prints = sorted(
        capture.fingerprint for group in plan.groups for capture in group.captures if capture.first_ns is not None
    )
    return IdentityKey(hashlib.sha256("".join(["identity", *prints, *published]).encode()).digest())
