"""Tables of CICIDS2017 (Sharafaldin et al., ICISSP 2018) in their published variants.

The variants differ in the order, spelling and number of columns, in line ends, in encodings, and in their labels.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.arrow.feature_tables import (
    CICIDS_FAMILIES,
    CICIDS_FEATURES,
    CICIDS_LABEL_HEADERS,
    feature_columns,
    feature_schema,
)
from flowloom.schemas.arrow.rows import with_published_labels
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.transforms.arrays.columns import repeated_text
from flowloom.transforms.published.delimited_text import TextRows, plain_label, read_header, read_rows
from flowloom.transforms.published.published_files import PublishedFile, published_files
from flowloom.transforms.published.published_rejects import Rejects

ATTACK_TASK, FAMILY_TASK = "attack", "family"

NonFinite = Literal["set-aside", "zero", "null"]


def read_cicids_tables(
    path: str, rejects: Rejects, *, features: Sequence[str] = CICIDS_FEATURES, non_finite: NonFinite = "set-aside"
) -> Iterator[pa.RecordBatch]:
    """Returns an iterator over the rows of one table, a folder or an archive of tables.

    Args:
      features: columns to read, of `CICIDS_FEATURES`; a table that lacks one of them is a reject as a whole.
      non_finite: treatment of NaN, infinity and empty cells, such as the rates of flows without duration:
        `set-aside` rejects their rows, `zero` and `null` replace the cells.

    Returns:
      Batches of `schemas.arrow.feature_tables.feature_schema` with published labels of the kinds `attack`, as
      `plain_label` spells them, and `family` (`CICIDS_FAMILIES`), null for labels without a family.

    Raises:
      FlowloomError: if a feature or `non_finite` has another value.
    """
    for name in features:
        if name not in CICIDS_FEATURES:
            raise FlowloomError(
                f"features must be among the {len(CICIDS_FEATURES)} that all tables have, got {name!r}"
                f"{did_you_mean(name, CICIDS_FEATURES)}"
            )
    if non_finite not in ("set-aside", "zero", "null"):
        raise FlowloomError(f"non_finite must be set-aside, zero or null, got {non_finite!r}")
    return _tables(path, rejects, list(features), non_finite)


def _tables(path: str, rejects: Rejects, features: list[str], non_finite: NonFinite) -> Iterator[pa.RecordBatch]:
    for file in published_files(path, rejects):
        columns = feature_columns(read_header(file, ",", rejects))
        label = next((name for name in CICIDS_LABEL_HEADERS if name in columns), None)
        missing = [name for name in features if name not in columns]
        if label is None or missing:
            detail = f"expected a label column and {len(features)} features, got {len(columns)} columns"
            detail += f"; {', '.join(missing)} are missing" if missing else "; none is a label"
            rejects.add(file.uri, [0], RejectReason.OTHER_FORMAT, detail)
            continue
        wanted = {name: columns.index(name) for name in [*features, label]}
        for rows in read_rows(file, ",", len(columns), wanted, rejects):
            yield _batch(file, rows, features, label, non_finite, rejects)


def _batch(
    file: PublishedFile, rows: TextRows, features: list[str], label: str, non_finite: NonFinite, rejects: Rejects
) -> pa.RecordBatch:
    table = pl.DataFrame({name: pl.Series(rows.columns[name]) for name in [*features, label]})
    table = table.with_columns(pl.all().str.strip_chars())
    values = table.select(pl.col(features).cast(pl.Float64, strict=False))
    empty = table.select(pl.col(features) == "")
    text = values.select(pl.all().is_null()).to_numpy() & ~empty.to_numpy()
    bad = text.any(axis=1) | (table[label] == "").to_numpy()
    detail = f"expected {len(features)} numbers and a label"
    rejects.add(file.uri, rows.positions[bad], RejectReason.BAD_ROW, detail)
    finite = values.select(pl.all().is_finite().fill_null(False))
    keep = ~bad
    if non_finite == "set-aside":
        infinite = keep & ~finite.select(pl.all_horizontal(pl.all())).to_series().to_numpy()
        detail = "a feature is NaN, infinite or empty"
        rejects.add(file.uri, rows.positions[infinite], RejectReason.NOT_FINITE, detail)
        keep &= ~infinite
    else:
        other = 0.0 if non_finite == "zero" else None
        values = values.select(
            pl.when(finite[name]).then(pl.col(name)).otherwise(pl.lit(other, pl.Float64)).alias(name)
            for name in features
        )
    kept = np.flatnonzero(keep)
    values, labels = values[kept], table[label][kept]
    spelt = {text: plain_label(text) for text in labels.unique()}
    attack = labels.replace_strict(spelt, return_dtype=pl.String)
    family = attack.replace_strict(CICIDS_FAMILIES, default=None, return_dtype=pl.String)
    schema = with_published_labels(feature_schema(features), [ATTACK_TASK, FAMILY_TASK])
    arrays = [file.ids(rows.positions[kept]), repeated_text(file.group, len(kept))]
    arrays += [values[name].to_arrow() for name in features]
    arrays += [series.to_arrow().cast(pa.string()) for series in (attack, family)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
