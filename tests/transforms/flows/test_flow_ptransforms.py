"""PTransforms of flows, run eagerly: each gives what the function of its name gives in memory."""

import pytest
from synthetic import synthetic_flows

from flowloom.transforms.flows.flow_ptransforms import ConcealIdentities
from flowloom.transforms.flows.identities import IdentityKey, conceal_identities


@pytest.mark.parametrize("key", [None, IdentityKey(bytes(range(32)))])
def test_identities_are_concealed_where_there_is_a_key(key):
    batches = [synthetic_flows(10), synthetic_flows(5, seed=1)]
    concealed = batches | ConcealIdentities(key)
    assert concealed == [conceal_identities(flows, key) for flows in batches]
    assert (concealed == batches) == (key is None)
