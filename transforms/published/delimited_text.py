"""Delimited text files as columns of strings; each row is read or a reject, without a Python object per row."""

import dataclasses
import re
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.published.published_files import DAMAGED, PublishedFile
from flowloom.transforms.published.published_rejects import Rejects

BLOCK_BYTES = 4 << 20

SECONDS = r"^\d{1,10}(\.\d{1,9})?$"
"""Pattern of a time in seconds since the epoch."""


@dataclasses.dataclass(frozen=True)
class TextRows:
    """Some rows of a text file.

    Attributes:
      positions: int64 position of each row in the file, from 0, the header not counted.
      columns: strings, by the names of `read_rows`.
    """

    positions: np.ndarray
    columns: pa.RecordBatch

    def keep(self, mask: pa.Array) -> "TextRows":
        """Returns the rows where a boolean mask is true; it must not have nulls."""
        return TextRows(self.positions[mask.to_numpy(zero_copy_only=False)], self.columns.filter(mask))


def read_header(file: PublishedFile, delimiter: str, rejects: Rejects) -> list[str]:
    """Returns the column headers in a file's first line, stripped; an empty list if the file is damaged."""
    try:
        line = file.content.readline().decode("latin1").removeprefix("\xef\xbb\xbf").rstrip("\r\n")
    except DAMAGED as error:
        rejects.add(file.uri, [0], RejectReason.DECOMPRESSION, f"the compressed stream is damaged ({error})")
        return []
    return [header.strip() for header in line.split(delimiter)]


def read_rows(
    file: PublishedFile, delimiter: str, width: int, wanted: Mapping[str, int], rejects: Rejects
) -> Iterator[TextRows]:
    """Yields the remaining rows of a file; rows with another number of columns are rejects.

    Bytes are read as Latin-1, which decodes every byte, because published tables mix encodings.

    Args:
      width: columns of the file.
      wanted: column number in the file by the name that the column gets.
    """
    skipped: list[int] = []

    def skip(row: csv.InvalidRow) -> str:
        skipped.append(row.number - 1)
        return "skip"

    names = [str(at) for at in range(width)]
    row = 0
    try:
        if not file.content.peek(1):
            return
        reader = csv.open_csv(
            file.content,
            read_options=csv.ReadOptions(
                use_threads=False, block_size=BLOCK_BYTES, column_names=names, encoding="latin1"
            ),
            parse_options=csv.ParseOptions(
                delimiter=delimiter, quote_char=False, ignore_empty_lines=False, invalid_row_handler=skip
            ),
            convert_options=csv.ConvertOptions(
                include_columns=[str(at) for at in wanted.values()],
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
        for block in reader:
            positions = _positions(row, block.num_rows, skipped)
            row += block.num_rows
            yield TextRows(positions, block.rename_columns(list(wanted)))
    except (pa.ArrowInvalid, *DAMAGED) as error:
        reason = RejectReason.BAD_ROW if isinstance(error, pa.ArrowInvalid) else RejectReason.DECOMPRESSION
        detail = f"reading stopped here: {error}; rows before that were read"
        rejects.add(file.uri, [row + len(skipped)], reason, detail)
    rejects.add(file.uri, skipped, RejectReason.BAD_ROW, f"expected {width} columns separated by {delimiter!r}")


def _positions(row: int, rows: int, skipped: list[int]) -> np.ndarray:
    """Returns positions in the file of `rows` rows that follow `row` others, where skipped rows were not counted."""
    counted = np.arange(row, row + rows, dtype=np.int64)
    before = np.array(skipped, np.int64) - np.arange(len(skipped))
    return counted + np.searchsorted(before, counted, side="right")


def seconds_ns(texts: pa.Array) -> np.ndarray:
    """Returns times that match `SECONDS` as int64 ns, exact to the last digit."""
    # the unscaled value of a decimal with 9 digits behind the point is ns; its upper word is zero
    unscaled = np.frombuffer(pc.cast(texts, pa.decimal128(28, 9)).buffers()[1], np.int64)[::2]
    return unscaled[: len(texts)]


def plain_label(text: str) -> str:
    """Returns a published label in lower case, with a single hyphen for all but letters and digits.

    >>> plain_label("Web Attack - XSS")
    'web-attack-xss'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
