"""A training in memory: model, feed and epochs of a recipe on a dataset, without files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import keras
import numpy as np

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.trainers.evaluation.metrics import auc
from flowloom.trainers.evaluation.predictions import compiled, predict
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Batch, Feed
from flowloom.trainers.feed.row_spec import RowSpec
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.layers.kernel_lstm import without_kernels
from flowloom.trainers.models.protocol import MultiTaskModel
from flowloom.trainers.recipes.builders import MODELS
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.row_specs import train_rows
from flowloom.trainers.training.early_stopping import best_epoch, mean, score, stalled, total_loss
from flowloom.trainers.training.epoch_loop import Epoch, PartialEpoch, mean_losses, train_epochs
from flowloom.trainers.training.latecomers import Arrivals, LatecomerFeed
from flowloom.trainers.training.learning_rate import cosine_rate, plateau_rate
from flowloom.trainers.training.optimizer import CoupledAdam
from flowloom.trainers.training.paradigms import PARADIGMS, WEIGHTINGS, Incremental

EVALUATION_BATCH = 1024


class Training:
    """A model with its feed, its optimizer and its paradigm.

    Args:
      recipe: settings of model and training.
      dataset: restricted to the tasks that are trained.
      features: the model's view of a row.
      synthetic: the dataset with synthetic rows (`with_synthetic_rows`), whose train split is used instead; None: no
        such rows.
      model: the model to continue with, which may have other tasks too; None: a new model.

    Raises:
      FlowloomError: if the dataset has no rows to train on, or recipe and dataset do not fit each other.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        features: RowSpec,
        synthetic: Dataset | None = None,
        model: MultiTaskModel | None = None,
    ) -> None:
        self._recipe, self._dataset, self._features, self._synthetic = recipe, dataset, features, synthetic
        self.paradigm = dataset.card.layout if recipe.schedule.paradigm == "auto" else recipe.schedule.paradigm
        """Name of the paradigm; for `auto` that of the dataset's layout."""
        kind, tasks = PARADIGMS[self.paradigm], [task.name for task in dataset.tasks]
        if recipe.loss.weighting != "fixed" and kind.striped:
            raise FlowloomError(
                f"loss.weighting={recipe.loss.weighting} cannot be combined with paradigm {self.paradigm} of dataset "
                f"{dataset.root}, whose steps train one task each; set schedule.paradigm=rainbow_mixed or "
                "loss.weighting=fixed"
            )
        self.arrivals = self._arrivals() if self.paradigm == "incremental" else None
        """Phases of the tasks, if they arrive one after another."""
        self._feed = self._latecomer_feed(self.arrivals) if self.arrivals else self._train_feed(dataset, kind.striped)

        keras.utils.set_random_seed(recipe.seed)
        schedule = recipe.schedule
        self.model: keras.Model = model or self._new_model("mixed_bfloat16" if schedule.mixed_precision else "float32")
        if schedule.xla:
            without_kernels(self.model)
        decay = {"decoupled_decay" if schedule.optimizer == "adamw" else "coupled_decay": schedule.weight_decay}
        self.optimizer = CoupledAdam(schedule.learning_rate, **decay, global_clipnorm=schedule.clip_norm)
        self.weighting = WEIGHTINGS[recipe.loss.weighting](self.model, tasks, recipe.seed)
        self._paradigm = kind(
            self.model,
            self.optimizer,
            dataset.tasks,
            recipe.loss.weights,
            self._feed.signature,
            self.weighting,
            recipe.loss.reduction,
            schedule.microbatch,
            schedule.xla,
            recipe.loss.label_smoothing,
        )
        self._validate = self._validation()

    def _new_model(self, precision: str) -> Any:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            return MODELS[self._recipe.model.kind](self._recipe, self._features, self._dataset.tasks)
        except ValueError as error:
            raise FlowloomError(str(error)) from error
        finally:
            keras.config.set_dtype_policy(before)

    def single_precision_model(self) -> Any:
        """Returns the model that is stored, which computes in float32 even after mixed precision."""
        if not self._recipe.schedule.mixed_precision:
            return self.model
        kept = self._new_model("float32")
        for variable, trained in zip(kept.variables, self.model.variables, strict=True):
            variable.assign(trained)
        return kept

    def _train_feed(self, dataset: Dataset, striped: bool) -> Feed:
        recipe, feed, synthetic = self._recipe, self._recipe.feed, self._synthetic
        return Feed(
            synthetic or dataset,
            "train",
            cast(TableSpec, self._features).scaled if synthetic else self._features,
            feed.batch_size,
            **train_rows(recipe, dataset, self._features),
            striped=striped,
            balance=None if synthetic else feed.balance,
        )

    def _arrivals(self) -> Arrivals:
        schedule = self._recipe.schedule
        tasks = schedule.arrivals or tuple(task.name for task in self._dataset.tasks)
        return Arrivals(
            tasks,
            schedule.latecomer,
            schedule.phase_epochs,
            schedule.repair_epochs,
            schedule.replay_share,
        )

    def _latecomer_feed(self, arrivals: Arrivals) -> LatecomerFeed:
        feeds = {
            task.name: self._train_feed(self._dataset.restricted([task.name]), striped=True)
            for task in self._dataset.tasks
        }
        return LatecomerFeed(feeds, arrivals)

    @property
    def planned_epochs(self) -> int:
        """Largest number of epochs."""
        return self.arrivals.epochs if self.arrivals else self._recipe.schedule.epochs

    def kept_epoch(self, history: Sequence[dict[str, Any]]) -> int:
        """Returns the epoch whose weights are kept."""
        return best_epoch(history) if self._selects else len(history)

    @property
    def _selects(self) -> bool:
        """True if training stops when it stalls and keeps the best epoch."""
        return PARADIGMS[self.paradigm].selects and self._recipe.schedule.keep == "best"

    def epochs(
        self,
        history: list[dict[str, Any]],
        progress: Callable[[Progress], None] = ignore_progress,
        begun: PartialEpoch | None = None,
        stepped: Callable[[PartialEpoch], None] = lambda _: None,
    ) -> Iterator[dict[str, Any]]:
        """Trains on from the end of a history; appends the record of every epoch to it, and yields it.

        Model, optimizer and weighting must be in the state after the history's last epoch, or inside the next.

        Args:
          history: the records of all epochs so far.
          progress: called after each step.
          begun: the trained part of the next epoch.
          stepped: called before `progress`, to save the state of the training.
        """

        def after_step(epoch: Epoch, part: PartialEpoch) -> None:
            stepped(part)
            text = f"epoch {epoch.number} of {self.planned_epochs}, step {part.steps} of {epoch.steps}"
            progress(Progress(text, part.steps, epoch.steps))

        def record_of(epoch: Epoch, totals: np.ndarray) -> dict[str, Any]:
            record = {
                "epoch": epoch.number,
                "steps": epoch.steps,
                "loss": mean_losses((task.name for task in self._dataset.tasks), totals),
                "weights": self._weights(),
                **self._validate(),
            }
            record["validation_total_loss"] = total_loss(record["validation_loss"], self._recipe.loss.weights)
            record["score"] = score(record, self._recipe.schedule.monitor)
            history.append(record)
            return record

        return train_epochs(self._paradigm.step, self._epochs_after(history, begun), record_of, after_step)

    def _epochs_after(self, history: Sequence[dict[str, Any]], begun: PartialEpoch | None) -> Iterator[Epoch]:
        """Yields the epochs that follow a history, which grows by a record between two of them."""
        done = begun.steps if begun else 0
        stream = self._feed.stream(sum(record["steps"] for record in history) + done)
        while len(history) < self.planned_epochs and not self._stops(history):
            number = len(history) + 1
            if self.arrivals and self.arrivals.phase(number).first_epoch == number and not begun:
                cast(Incremental, self._paradigm).begin_phase()
            self.optimizer.learning_rate = self._learning_rate(history)
            self.weighting.begin_epoch([record["loss"] for record in history])
            totals = begun.totals if begun else np.zeros((len(self._dataset.tasks), 2))
            stripes = self._feed.stripes(number - 1)
            # stripes come first in zip: after the last of them no batch is taken from the stream
            batches: Iterable[tuple[str | None, Batch]] = zip(stripes[done:], stream, strict=False)
            if self._recipe.schedule.decay == "cosine":
                batches = self._at_cosine_rates(number, done, batches)
            yield Epoch(number, batches, totals, done, len(stripes))
            begun, done = None, 0

    def _stops(self, history: Sequence[dict[str, Any]]) -> bool:
        return self._selects and stalled(history, self._recipe.schedule.patience)

    def _learning_rate(self, history: Sequence[dict[str, Any]]) -> float:
        """Returns the rate of the next epoch by the total validation losses of its phase."""
        schedule = self._recipe.schedule
        begun = self.arrivals.phase(len(history) + 1).first_epoch - 1 if self.arrivals else 0
        losses = [
            record["validation_total_loss"] for record in history[begun:] if record["validation_total_loss"] is not None
        ]
        return plateau_rate(schedule.learning_rate, losses, schedule.plateau_factor, schedule.plateau_patience)

    def _at_cosine_rates(
        self, number: int, done: int, batches: Iterable[tuple[str | None, Batch]]
    ) -> Iterator[tuple[str | None, Batch]]:
        """Yields the batches of an epoch from step `done` on, after setting the rate of each."""
        phase = self.arrivals.phase(number) if self.arrivals else None
        first, last = (phase.first_epoch, phase.last_epoch) if phase else (1, self.planned_epochs)
        steps = [len(self._feed.stripes(each - 1)) for each in range(first, last + 1)]
        for update, batch in enumerate(batches, start=sum(steps[: number - first]) + done + 1):
            self.optimizer.learning_rate = cosine_rate(self._recipe.schedule.learning_rate, update, sum(steps))
            yield batch

    def _weights(self) -> dict[str, float]:
        """Returns the weight of each task's loss at the end of an epoch."""
        return {
            task.name: float(weight) * self._recipe.loss.weights.get(task.name, 1.0)
            for task, weight in zip(self._dataset.tasks, self.weighting.weights.numpy(), strict=True)
        }

    def _validation(self) -> Callable[[], dict[str, Any]]:
        """Returns a function that measures the model on the validation split; without rows, all values are None."""
        dataset, tasks = self._dataset, [task.name for task in self._dataset.tasks]
        if not any(group.rows for group in dataset.row_groups("validation", view=self._features.view)):
            undefined = dict.fromkeys(tasks)
            return lambda: {
                "validation_loss": undefined, "validation_auc": undefined, "validation_mean_auc": None
            }  # fmt: skip
        feed = Feed(dataset, "validation", self._features, EVALUATION_BATCH)
        forward = compiled(self.model, feed)

        def validate() -> dict[str, Any]:
            predictions = predict(forward, feed)
            aucs = {task: auc(predictions[task]) for task in tasks}
            losses = {task: predictions[task].loss for task in tasks}
            return {"validation_loss": losses, "validation_auc": aucs, "validation_mean_auc": mean(aucs.values())}

        return validate
