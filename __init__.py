"""Flowloom builds multi-task datasets from packet captures, and trains multi-task traffic models on them.

`import flowloom as fl` loads nothing else: each name is imported at its first use. Flows need neither Beam nor
TensorFlow.

>>> import flowloom as fl
>>> fl.read_flows("captures/web/nginx/plain-01.pcap.zst").num_rows
16
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowloom.pipelines.api import beam_transforms as beam
    from flowloom.pipelines.api.dataset_copies import fetch as fetch
    from flowloom.pipelines.api.dataset_copies import publish as publish
    from flowloom.pipelines.api.dataset_copies import verify as verify
    from flowloom.pipelines.api.dataset_jobs import build as build
    from flowloom.pipelines.api.dataset_jobs import weave as weave
    from flowloom.pipelines.draft.draft_manifest import draft_manifest as draft_manifest
    from flowloom.pipelines.flow_tables.flow_scan import RejectWarning as RejectWarning
    from flowloom.pipelines.flow_tables.flow_scan import read_flows as read_flows
    from flowloom.pipelines.flow_tables.flow_scan import scan_flows as scan_flows
    from flowloom.pipelines.flow_tables.packet_table import read_packets as read_packets
    from flowloom.schemas.corpus.flow_definition import FlowDefinition as FlowDefinition
    from flowloom.schemas.corpus.manifest import CorpusManifest as CorpusManifest
    from flowloom.schemas.corpus.tasks import Task as Task
    from flowloom.schemas.errors import FlowloomError as FlowloomError
    from flowloom.trainers.api import model_classes as models
    from flowloom.trainers.api.loaded_model import load_model as load_model
    from flowloom.trainers.api.open_dataset import OpenDataset as Dataset
    from flowloom.trainers.api.open_dataset import open_dataset as open_dataset
    from flowloom.trainers.api.trained_run import TrainedRun as Run
    from flowloom.trainers.api.trained_run import open_run as open_run
    from flowloom.trainers.api.trained_run import train as train

    __version__: str

__all__ = [
    "CorpusManifest",
    "Dataset",
    "FlowDefinition",
    "FlowloomError",
    "RejectWarning",
    "Run",
    "Task",
    "__version__",
    "beam",
    "build",
    "draft_manifest",
    "fetch",
    "load_model",
    "models",
    "open_dataset",
    "open_run",
    "publish",
    "read_flows",
    "read_packets",
    "scan_flows",
    "train",
    "verify",
    "weave",
]

_PLACES = {
    "CorpusManifest": "schemas.corpus.manifest",
    "Dataset": "trainers.api.open_dataset:OpenDataset",
    "FlowDefinition": "schemas.corpus.flow_definition",
    "FlowloomError": "schemas.errors",
    "RejectWarning": "pipelines.flow_tables.flow_scan",
    "Run": "trainers.api.trained_run:TrainedRun",
    "Task": "schemas.corpus.tasks",
    "beam": "pipelines.api.beam_transforms:",
    "build": "pipelines.api.dataset_jobs",
    "draft_manifest": "pipelines.draft.draft_manifest",
    "fetch": "pipelines.api.dataset_copies",
    "load_model": "trainers.api.loaded_model",
    "models": "trainers.api.model_classes:",
    "open_dataset": "trainers.api.open_dataset",
    "open_run": "trainers.api.trained_run",
    "publish": "pipelines.api.dataset_copies",
    "read_flows": "pipelines.flow_tables.flow_scan",
    "read_packets": "pipelines.flow_tables.packet_table",
    "scan_flows": "pipelines.flow_tables.flow_scan",
    "train": "trainers.api.trained_run",
    "verify": "pipelines.api.dataset_copies",
    "weave": "pipelines.api.dataset_jobs",
}
"""By public name its module, and after a colon its name there if that differs; nothing after it is the module."""

_WITH_TENSORFLOW = ("Run", "models", "open_run", "train")
"""Names whose modules import TensorFlow."""


def __getattr__(name: str) -> Any:
    """Returns a public name, imported at its first use (PEP 562), so that `import flowloom` loads nothing else."""
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("flowloom")
    if name not in _PLACES:
        raise AttributeError(f"module 'flowloom' has no attribute {name!r}")
    import importlib

    from flowloom.schemas.extras import extra_needed

    module, colon, inner = _PLACES[name].partition(":")
    with extra_needed(f"flowloom.{name} needs"):
        if name in _WITH_TENSORFLOW:
            from flowloom.trainers.native_logs import import_tensorflow

            import_tensorflow()
        found = importlib.import_module(f"flowloom.{module}")
        value = globals()[name] = getattr(found, inner or name) if inner or not colon else found
    return value


def __dir__() -> list[str]:
    """Returns the public names, including lazy ones."""
    return sorted({*globals(), *__all__})
