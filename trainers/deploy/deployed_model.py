"""Models for scoring: a run or an export, its contract, and its probabilities for rendered rows."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.extras import extra_needed
from flowloom.schemas.models.feature_profile import PROFILE, FeatureProfile
from flowloom.trainers.conversion import onnx_form
from flowloom.trainers.deploy.export_layout import (
    CONTRACT,
    LITERT,
    ONNX,
    export_file,
    model_folder,
    read_contract,
    saved_model_folder,
)
from flowloom.trainers.deploy.flow_scorer import MixtureScorer
from flowloom.trainers.deploy.mixture_weights import read_mixture
from flowloom.trainers.feed.profile_counts import profile_dataset, read_profile
from flowloom.trainers.feed.row_spec import RowSpec
from flowloom.trainers.native_logs import import_tensorflow
from flowloom.trainers.recipes.row_specs import ROW_SPECS
from flowloom.trainers.trees.tree_model import TREES, TreeModel

Forward = Callable[..., dict[str, np.ndarray]]
"""Function from the arrays of `RowSpec.inputs`, in order, to {task: probabilities [B, 1] or [B, classes]}."""

RUN = "run.json"
GRAPH_ROWS = 1024
"""Fixed number of rows per call of a TensorFlow graph; fewer rows are padded."""


@dataclasses.dataclass(frozen=True)
class DeployedModel:
    """The files of a run or an export; open one with `DeployedModel.open`.

    Attributes:
      root: the folder of the run or export.
      kind: `run` or `export`.
      recipe: name of the recipe.
      tasks: label values by task.
      features: the row spec.
      definition: flow definition of the training data.
      dataset: content hash of the training data.
      profile: feature profile of the training data; None if it is unknown, for the reason `profile_missing`.
      profile_missing: the reason for a missing profile; None with a profile.
      engine: the inference engine. `lanes` (mixtures of LSTMs), `trees` and `onnx` score without TensorFlow; a run
        needs it to load the model, an export not.
    """

    root: Path
    kind: Literal["run", "export"]
    recipe: str
    tasks: dict[str, tuple[str, ...]]
    features: RowSpec
    definition: FlowDefinition
    dataset: str
    profile: FeatureProfile | None
    profile_missing: str | None
    engine: str

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Reads the description of the model in a folder, but not the model.

        Args:
          path: the folder, or the `model.onnx` or `model.tflite` in it.

        Raises:
          FlowloomError: if the folder has neither a finished run nor an export, or a damaged one.
        """
        root = model_folder(Path(path))
        if not (root / RUN).is_file() and (root / CONTRACT).is_file():
            contract = _contract(root)
            if contract is not None:
                return cls(root=root, kind="export", **contract)
        with extra_needed(f"the model of {root} needs"):
            import_tensorflow()
        from flowloom.trainers.recipes.run_directory import Run

        run = Run.open(root)
        network = run.recipe.model
        profile, missing = _trained_profile(run)
        return cls(
            root=root,
            kind="run",
            recipe=run.recipe.name,
            tasks={task.name: task.vocabulary for task in run.tasks},
            features=run.features,
            definition=run.source.definition,
            dataset=run.source.content_hash,
            profile=profile,
            profile_missing=missing,
            engine="trees" if network.is_trees else "lanes" if _has_lanes(network) else "tensorflow",
        )

    def load(self) -> Forward:
        """Loads the model and returns its inference function.

        Raises:
          FlowloomError: if its files are missing or damaged, or TensorFlow is needed and not installed.
        """
        with extra_needed(f"the model of {self.root} needs"):
            if self.kind == "run" or self.engine in ("tensorflow", "litert"):
                import_tensorflow()
            if self.kind == "run":
                return self._of_run()
            loaders = {
                "lanes": self._of_weights, "trees": self._of_trees, "litert": self._of_litert, "onnx": self._of_onnx,
                "tensorflow": self._of_graph,
            }  # fmt: skip
            return loaders[self.engine]()

    def _of_run(self) -> Forward:
        from flowloom.trainers.conversion.inference_form import inference_form
        from flowloom.trainers.conversion.lstm_weights import streaming_structure, streaming_weights
        from flowloom.trainers.conversion.pruning import prune_experts
        from flowloom.trainers.models.lmmoe import LMMoE
        from flowloom.trainers.recipes.run_directory import Run

        model = Run.open(self.root).load_model()
        if isinstance(model, TreeModel):
            return model.forward
        if self.engine == "lanes" and isinstance(model, LMMoE):
            pruned = prune_experts(model)
            return MixtureScorer(streaming_structure(pruned), streaming_weights(pruned))
        import tensorflow as tf

        graph = inference_form(model)
        specs = {name: tf.TensorSpec((GRAPH_ROWS, *each.shape), each.dtype) for name, each in self._inputs.items()}
        return self._in_pieces(
            tf.function(lambda rows: graph(rows, training=False), input_signature=[specs], autograph=False)
        )

    def _of_graph(self) -> Forward:
        folder = saved_model_folder(self.root, self._contract)
        import tensorflow as tf

        from flowloom.trainers.deploy.graph_check import check_saved_model

        check_saved_model(folder)
        try:
            served = tf.saved_model.load(str(folder))
        except Exception as error:  # of TensorFlow and protobuf: damage has many kinds
            raise FlowloomError(f"{folder} cannot be read ({error}); export the run again") from None
        return self._in_pieces(lambda rows: served.serve({name: tf.constant(each) for name, each in rows.items()}))

    def _of_litert(self) -> Forward:
        path = export_file(self.root, self._contract, LITERT)
        from flowloom.trainers.conversion.litert import LiteRTModel
        from flowloom.trainers.deploy.graph_check import check_litert

        try:
            content = path.read_bytes()
            check_litert(content, path)
            model = LiteRTModel(content)
        except FlowloomError:
            raise
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise FlowloomError(f"{path} cannot be read ({error}); export the run again") from None
        return lambda *arrays: model(dict(zip(self._inputs, arrays, strict=True)))

    def _of_onnx(self) -> Forward:
        path = export_file(self.root, self._contract, ONNX)
        onnx_form.require_onnx(f"the model of {self.root} needs")
        from flowloom.trainers.deploy.graph_check import check_onnx

        try:
            content = path.read_bytes()
            check_onnx(content, path)
            model = onnx_form.ONNXModel(content)
        except FlowloomError:
            raise
        except Exception as error:  # of ONNX Runtime, whose errors have no common base
            raise FlowloomError(f"{path} cannot be read ({error}); export the run again") from None
        return self._in_pieces(model)

    def _of_weights(self) -> Forward:
        structure, weights = read_mixture(self.root, self._contract)
        if structure["tasks"] != {task: len(vocabulary) for task, vocabulary in self.tasks.items()}:
            raise FlowloomError(
                f"{self.root / CONTRACT}: streaming must have the classes of tasks, got others; export the run again"
            )
        return MixtureScorer(structure, weights)

    def _of_trees(self) -> Forward:
        classes = {task: len(vocabulary) for task, vocabulary in self.tasks.items()}
        return TreeModel.load(export_file(self.root, self._contract, TREES), self.features, classes).forward

    @property
    def _contract(self) -> dict[str, Any]:
        return read_contract(self.root)

    @property
    def _inputs(self) -> Any:
        return self.features.inputs

    def _in_pieces(self, graph: Callable[[dict[str, np.ndarray]], Any]) -> Forward:
        """Returns a function of any number of rows, at least 1, from a graph of `GRAPH_ROWS` rows."""

        def forward(*arrays: np.ndarray) -> dict[str, np.ndarray]:
            rows, parts = len(arrays[0]), []
            for start in range(0, rows, GRAPH_ROWS):
                piece = {}
                for (name, each), array in zip(self._inputs.items(), arrays, strict=True):
                    piece[name] = np.zeros((GRAPH_ROWS, *each.shape), each.dtype)
                    some = array[start : start + GRAPH_ROWS]
                    piece[name][: len(some)] = some
                parts.append({task: np.asarray(predicted) for task, predicted in graph(piece).items()})
            return {task: np.concatenate([part[task] for part in parts])[:rows] for task in self.tasks}

        return forward


def _contract(root: Path) -> dict[str, Any] | None:
    """Returns the fields of an export's model; None if the file belongs to an unfinished run."""
    try:
        contract = read_contract(root)
        if "tasks" not in contract:
            return None
        structure = contract["streaming"].get("structure")
        streamable = structure is not None and not structure.get("pooled")
        engines = {"litert": "litert", "onnx": "onnx"}
        if "trees" in contract:
            engine = "trees"
        elif streamable and not contract["int8"]:
            engine = "lanes"
        else:
            engine = engines.get(contract["format"], "tensorflow")
        profile = read_profile(root, contract.get("sha256", {}).get(PROFILE))
        return {
            "recipe": contract["recipe"],
            "tasks": {task["name"]: tuple(task["vocabulary"]) for task in contract["tasks"]},
            "features": ROW_SPECS[contract["view"]].model_validate(contract["features"]),
            "definition": FlowDefinition.model_validate(contract["definition"]),
            "dataset": contract["dataset"]["content_hash"],
            "profile": profile,
            "profile_missing": None if profile else _unprofiled(contract["view"], "the export"),
            "engine": engine,
        }
    except FlowloomError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FlowloomError(f"the export {root} is damaged ({error}); export the run again") from None


def _has_lanes(network: Any) -> bool:
    """Returns whether the model of these settings is a mixture of LSTMs that `MixtureScorer` computes."""
    return network.kind == "lmmoe" and network.architecture != "ple" and network.expert_kind == "lstm"


def _trained_profile(run: Any) -> tuple[FeatureProfile | None, str | None]:
    """Returns the profile of a run's training data, measured from the dataset if the run lacks it, or the reason."""
    from flowloom.trainers.feed.dataset import Dataset

    if (profile := read_profile(run.root, run.sha256(PROFILE))) or run.features.view != "flows":
        return profile, None if profile else _unprofiled(run.features.view, "the run")
    try:
        dataset = Dataset.open(run.source.path)
    except FlowloomError:
        return None, f"the run has no profile of its training data, and its dataset {run.source.path} does not exist"
    if dataset.card.content_hash != run.source.content_hash:
        return None, f"the run has no profile of its training data, and {run.source.path} is another dataset now"
    return profile_dataset(dataset, run.features.columns, run.features.k), None


def _unprofiled(view: str, model: str) -> str:
    if view != "flows":
        return f"rows of the {view} view are not profiled, only flows are"
    return f"{model} has no profile of its training data; train or export it again"
