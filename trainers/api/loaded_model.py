"""Models that score rows in Python, from a run or an export."""

import os

from flowloom.trainers.deploy.deployed_model import DeployedModel
from flowloom.trainers.deploy.scorer import Scorer


def load_model(path: str | os.PathLike[str]) -> Scorer:
    """Loads the model of a run or an export for scoring; exported mixtures and ONNX files need no TensorFlow.

    Returns:
      A `Scorer`: `score(rows)` takes a batch or a table of flows, as `fl.read_flows` returns it with the flow
      definition `model.definition`, and returns `scores` (identifying columns, and for each task `probability_<task>`,
      `class_<task>` and `predicted_<task>`) and `rejected`, the number of rows without a score by reason.

    Raises:
      FlowloomError: if the folder has neither a finished run nor an export, a file is damaged, or a library is missing.

    Example:

    >>> import flowloom as fl
    >>> scorer = fl.load_model("RUN")
    >>> flows = fl.read_flows("captures/web/nginx/plain-01.pcap.zst", scorer.model.definition)
    >>> scored = scorer.score(flows)
    >>> scored.scores.num_rows, scored.rejected
    (16, {})
    >>> set(scored.scores["predicted_app"].to_pylist()) <= {"web", "ssh"}
    True
    """
    return Scorer(DeployedModel.open(os.fspath(path)))
