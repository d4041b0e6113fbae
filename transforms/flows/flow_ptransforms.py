"""PTransforms over flows that need no scheduling."""

import dataclasses
from typing import Any

import apache_beam as beam
import pyarrow as pa

from flowloom.transforms.flows.conceal import conceal
from flowloom.transforms.flows.pseudonyms import IdentityKey


@dataclasses.dataclass
class ConcealIdentities(beam.PTransform):
    """`conceal` over a PCollection of flow batches; without a key they stay as they are.

    Label sources know addresses, so they are asked before this. Splits and shards are told by hashes of ids and
    addresses; they come after it, or they would tell on them.
    """

    key: IdentityKey | None

    def expand(self, flows: Any) -> Any:
        """Return batches without addresses that are real; without a key the same ones."""
        if self.key is None:
            return flows
        return flows | beam.Map(conceal, self.key).with_output_types(pa.RecordBatch)
