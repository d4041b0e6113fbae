"""Root PTransforms run eagerly, as `[element, ...] | Transform()` runs the others."""

from typing import Any

import apache_beam as beam


def run_root(root: beam.PTransform) -> Any:
    """Returns the outputs of a PTransform of a pipeline as lists."""
    return [None] | _FromRoot(root)


class _FromRoot(beam.PTransform):
    def __init__(self, root: beam.PTransform):
        super().__init__()
        self._root = root

    def expand(self, elements):
        return elements.pipeline | self._root
