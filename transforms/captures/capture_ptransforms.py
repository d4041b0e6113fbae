"""PTransforms from names of captures to groups of captures."""

import dataclasses
from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa

from flowloom.schemas.corpus.manifest import FILE_GROUP, CaptureSource
from flowloom.transforms.captures.groups import Capture, GroupPlan, identified, match_name, plan_each_group


@dataclasses.dataclass
class ReadCaptures(beam.PTransform):
    """Finds captures by path, folder, glob or URL, and puts them into groups. Each group is metered by itself.

    Files with the same bytes are one capture. Only the ends and the first records of a file are read here. A name that
    matches nothing and a file that cannot be opened are rows of rejects in a plan without groups.

    Args:
      group: as in a manifest. `file`: each capture is a group of its own; `rotated`: files whose names differ by a
        counter or a time are one group; any other name: all captures are one group.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> (plan,) = ["captures/web/nginx/plain-01.pcap.zst"] | fl.beam.ReadCaptures()
      >>> [len(group.captures) for group in plan.groups], plan.rejects.num_rows
      ([1], 0)
    """

    group: str = FILE_GROUP

    def expand(self, names: beam.PCollection[str]) -> beam.PCollection[GroupPlan]:
        """Returns a plan for each group, and one more for rejects if there are any."""
        return (
            names
            | "Match" >> beam.FlatMap(_matched).with_output_types(tuple[str, pa.RecordBatch | None])
            | "Once" >> beam.GroupByKey()
            | "Identify" >> beam.MapTuple(_identified).with_output_types(Capture | pa.RecordBatch)
            | "AllTogether" >> beam.WithKeys(None)
            | "Gather" >> beam.GroupByKey()
            | "Plan" >> beam.FlatMap(_planned, CaptureSource(glob="", group=self.group)).with_output_types(GroupPlan)
            | "Spread" >> beam.Reshuffle()
        )


def _matched(name: str) -> Iterator[tuple[str, pa.RecordBatch | None]]:
    """Yields a key for each file, and for what is rejected a key of its own with the reject rows."""
    uris, rejects = match_name(name)
    for uri in uris:
        yield uri, None
    if rejects.num_rows:
        yield name, rejects


def _identified(uri: str, rejects: Iterable[pa.RecordBatch | None]) -> Capture | pa.RecordBatch:
    known = next(iter(rejects))
    return identified(uri, [0]) if known is None else known


def _planned(element: tuple[None, Iterable[Capture | pa.RecordBatch]], source: CaptureSource) -> list[GroupPlan]:
    return plan_each_group(element[1], source)
