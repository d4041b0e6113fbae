"""Log of final figures: each configuration is looked at once, and every look is on the record.

A method that is changed after its final figures were seen is chosen by test rows. So `flowloom reproduce --final`
writes the hash of its configuration into `OUT/final.jsonl` before it computes anything, and again when the page is
complete.
"""

import dataclasses
import datetime as dt
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from flowloom.pipelines.reproduce.engine.experiments import Experiment
from flowloom.schemas.errors import FlowloomError

LOG = "final.jsonl"


@dataclasses.dataclass(frozen=True)
class Look:
    """A line of the log.

    Attributes:
      event: `begun` before anything is computed, `shown` when the page is complete.
      date: time in UTC, as ISO 8601.
      configuration: hash of all experiments (`configuration_hash`).
      command: the command line.
      experiments: number of experiments.
      version: of Flowloom.
    """

    event: Literal["begun", "shown"]
    date: str
    paper: str
    configuration: str
    command: str
    experiments: int
    version: str


def configuration_hash(paper: str, experiments: Sequence[Experiment]) -> str:
    """Returns the hash of a paper's grid: names and settings of all experiments, with content hashes of their data.

    It depends neither on their order nor on the machine.
    """
    document = [paper, *sorted([each.name, each.key] for each in experiments)]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:16]


class FinalLog:
    """The log of an output folder.

    Args:
      out: the folder, made if missing.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / LOG

    def begin(self, paper: str, experiments: Sequence[Experiment], command: str) -> None:
        """Logs that a configuration begins or continues.

        Raises:
          FlowloomError: if its figures were shown before, or the log is damaged.
        """
        configuration = configuration_hash(paper, experiments)
        for look in self.looks(paper):
            if (look.event, look.configuration) == ("shown", configuration):
                raise FlowloomError(
                    f"{self.path}: the final figures of configuration {configuration} of {paper} were shown on "
                    f"{look.date}, and nobody looks at them twice; read {self.path.parent / 'final' / 'index.html'}"
                )
        version = importlib.metadata.version("flowloom")
        self._append(Look("begun", _now(), paper, configuration, command, len(experiments), version))

    def standing(self, paper: str) -> str:
        """Returns a sentence for the page of the configuration that began last: its hash, and what was shown before."""
        looks = self.looks(paper)
        begun = _begun_last(looks)
        earlier = {look.configuration: look.date for look in looks if look.event == "shown"}
        before = "No other final figures were shown in this folder before."
        if earlier:
            listed = ", ".join(f"{configuration} on {date}" for configuration, date in earlier.items())
            before = (
                f"Final figures of other configurations were shown before ({listed}), so this one may be chosen by "
                "test rows."
            )
        return f"These are final figures, of configuration {begun.configuration}, begun on {begun.date}. {before}"

    def shown(self, paper: str) -> None:
        """Logs that the page of the configuration that began last is complete."""
        self._append(dataclasses.replace(_begun_last(self.looks(paper)), event="shown", date=_now()))

    def looks(self, paper: str) -> list[Look]:
        """Returns the lines of a paper, in order.

        Raises:
          FlowloomError: if a line is damaged.
        """
        if not self.path.exists():
            return []
        found = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                found.append(Look(**json.loads(line)))
            except (TypeError, ValueError):
                raise FlowloomError(
                    f"{self.path}, line {number} must be a look at final figures, got {line[:40]!r}; restore the log "
                    "from a copy"
                ) from None
        return [look for look in found if look.paper == paper]

    def _append(self, look: Look) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = dataclasses.asdict(look)
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(document) + "\n")


def _begun_last(looks: Sequence[Look]) -> Look:
    return next(look for look in reversed(looks) if look.event == "begun")


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
