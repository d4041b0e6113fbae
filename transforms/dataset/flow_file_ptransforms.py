"""PTransform that writes batches of flows, with any columns of the user's own, as Parquet files."""

import dataclasses
import os
from collections.abc import Iterable

import apache_beam as beam
import pyarrow as pa

from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.dataset.flow_files import (
    UnnamedFile,
    finish_files,
    require_no_flows,
    split_by_file,
    write_file,
)
from flowloom.transforms.io.filesystems import is_url


@dataclasses.dataclass
class WriteFlows(beam.PTransform):
    """Writes batches of flows as Parquet files `flows-00000-of-00008.parquet` of one folder.

    A file has the flows whose ids have its number as hash, in order of start and id, so the same flows give the same
    bytes on any engine. Batches need the columns `flow_id` and `start`, and all have the same columns. A worker holds
    the rows of one file in memory. The files appear when all of them are complete.

    Args:
      folder: folder or URL that has no such files yet; workers on other machines have to share it.
      files: number of files at most; one without flows is not written.

    Raises:
      FlowloomError: if there are fewer than 1 file, or the folder has flows already.

    Example:
      >>> import tempfile
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> captures = ["captures/web/nginx/plain-01.pcap.zst"]
      >>> out = tempfile.mkdtemp()
      >>> flows = captures | fl.beam.ReadCaptures() | fl.beam.MeterFlows()
      >>> [file.removeprefix(out) for file in flows | fl.beam.WriteFlows(out, files=1)]
      ['/flows-00000-of-00001.parquet']
    """

    folder: str | os.PathLike[str]
    files: int = 8

    def __post_init__(self) -> None:
        if self.files < 1:
            raise FlowloomError(f"files must be at least 1, got {self.files}")

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[str]:
        """Returns the path of each file."""
        folder = os.fspath(self.folder)
        folder = folder if is_url(folder) else os.path.abspath(folder)
        require_no_flows(folder)
        return (
            batches
            | "Split" >> beam.FlatMap(split_by_file, self.files).with_output_types(tuple[int, pa.RecordBatch])
            | "OncePerFile" >> beam.GroupByKey()
            | "Write" >> beam.Map(_written, folder, self.files).with_output_types(UnnamedFile)
            | "AllTogether" >> beam.WithKeys(None)
            | "Gather" >> beam.GroupByKey()
            | "Finish" >> beam.FlatMap(_finished, folder).with_output_types(str)
        )


def _written(element: tuple[int, Iterable[pa.RecordBatch]], folder: str, files: int) -> UnnamedFile:
    number, batches = element
    return write_file(number, list(batches), folder, files)


def _finished(element: tuple[None, Iterable[UnnamedFile]], folder: str) -> list[str]:
    return finish_files(element[1], folder)
