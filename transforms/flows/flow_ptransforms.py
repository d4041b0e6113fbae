"""PTransforms over flows."""

import dataclasses

import apache_beam as beam
import pyarrow as pa

from flowloom.transforms.flows.identities import IdentityKey, conceal_identities


@dataclasses.dataclass
class ConcealIdentities(beam.PTransform):
    """`conceal_identities` over a PCollection of flow batches.

    Label sources match real addresses, so flows are labelled before. Splits and shards follow hashes of ids and
    addresses, so both are assigned afterwards; otherwise they would reveal something of the real ones.

    Args:
      key: the secret; None leaves flows as they are.
    """

    key: IdentityKey | None

    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[pa.RecordBatch]:
        """Conceals the hosts of batches of `schemas.arrow.rows.FLOWS`."""
        if self.key is None:
            return flows
        return flows | beam.Map(conceal_identities, self.key).with_output_types(pa.RecordBatch)
