"""Readers of published files by their format."""

import os
from collections.abc import Iterator

import pyarrow as pa

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.published_sources import (
    CerttaFlows,
    CicidsTables,
    IscxImages,
    KitsuneFlows,
    PublishedSource,
    QuicArrays,
    QuicTexts,
)
from flowloom.transforms.published.published_rejects import Rejects


def read_published(
    entry: PublishedSource, folder: str, definition: FlowDefinition, rejects: Rejects
) -> Iterator[pa.RecordBatch]:
    """Yields an entry's rows with their published labels.

    Args:
      folder: the folder that relative paths are relative to.
      definition: the number of packets in a sequence, and for Kitsune's packets the definition of a flow.
      rejects: takes the rows and files that cannot be read.

    Raises:
      FlowloomError: if the format cannot be metered by the definition.
    """
    # polars is not loaded for captures alone
    from flowloom.transforms.published.certta import read_certta_flows
    from flowloom.transforms.published.cicids2017 import read_cicids_tables
    from flowloom.transforms.published.iscx_images import read_iscx_images, read_iscx_twelve
    from flowloom.transforms.published.kitsune import read_kitsune_flows
    from flowloom.transforms.published.ucdavis_quic import read_quic_arrays, read_quic_texts

    path, *others = (os.path.normpath(os.path.join(folder, name)) for name in (entry.path, *entry.files[1:]))
    match entry:
        case QuicTexts():
            yield from read_quic_texts(path, rejects, k=definition.k)
        case QuicArrays():
            yield from read_quic_arrays(path, others[0], rejects, k=definition.k)
        case CerttaFlows():
            yield from read_certta_flows(path, rejects, k=definition.k)
        case KitsuneFlows():
            yield from read_kitsune_flows(path, others[0] if others else None, definition, rejects)
        case CicidsTables():
            yield from read_cicids_tables(path, rejects, features=entry.features, non_finite=entry.non_finite)
        case IscxImages(variant=None):
            yield from read_iscx_images(
                path, others[0], rejects, classes=entry.classes, tunnel=entry.tunnel, header=entry.header,
                mask=entry.mask,
            )  # fmt: skip
        case IscxImages(variant=str(variant)):
            yield from read_iscx_twelve(
                path, variant, rejects, split="train" if entry.part == "train" else "t10k", header=entry.header,
                mask=entry.mask,
            )  # fmt: skip
