"""Execute the function in train.py in this process, and turn every way that it can end into one outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from cairn.errors import CairnError, SaveError
from cairn.hydra import command_line
from cairn.hydra.parse.keys import logs_in_config_words
from cairn.hydra.parse.objects import build_object
from cairn.hydra.run import build, ending, environment, evaluation, introduce, mismatch, predicting
from cairn.hydra.run.build import Built
from cairn.hydra.run.init_weights import InitWeights
from cairn.hydra.run.outcome import Outcome, Status, outcome_of
from cairn.hydra.run.point import first_intact, joint_check
from cairn.hydra.run.start import JobContext, NothingToDo, Start, begin, follow
from cairn.jobs.rendezvous import Rendezvous
from cairn.jobs.signals import Interruption
from cairn.lightning import torchrun
from cairn.lightning.checks import callbacks
from cairn.lightning.loops.calls import Stopped
from cairn.run.directory import RunDirectory
from cairn.types import PAUSE

log = logging.getLogger(__name__)

Body = Callable[["Run"], Any]
"""The function in train.py."""


class Run:
    """The argument of the function in train.py. Each process of the run executes this function with its own `Run`.

    Add code of your own between any two calls: wrap the model, inspect a batch, call `trainer.validate`. A resumed run
    executes the function again from its first line; `fit` then continues at the batch where it stopped.

    Attributes:
        config: The resolved configuration.
        directory: The run directory.
    """

    def __init__(self, start: Start) -> None:
        self.config: DictConfig = start.settings.config
        self.directory: Path = start.directory.path
        self._start, self._settings = start, start.settings
        self._built: Built | None = None
        self._metrics: dict[str, float] = {}
        self._scores: dict[str, float] | None = None
        self._limit = ""
        """`max_time` or `pause` if it ended the training."""
        self._has_predicted = not predicting.prepare(self._settings)
        self._init_weights = InitWeights(start)
        build.prepare(start)

    def data(self) -> LightningDataModule:
        """Build the data module that the group `data` describes."""
        data: LightningDataModule = build_object("data", self._settings.data)
        return data

    def model(self) -> LightningModule:
        """Build the model that the group `model` describes, with the weights of `init_weights`, if it names a file."""
        return build.model(self._start, self._init_weights)

    def trainer(self, *callbacks: Callback, **options: Any) -> Trainer:
        """Build the trainer with the callbacks, loggers and checkpoints that the configuration describes.

        Args:
            *callbacks: Additional callbacks.
            **options: Arguments of Lightning's Trainer that override the group `trainer`.
        """
        self._built = build.trainer(self._start, [*callbacks, self._init_weights], options)
        return self._built.trainer

    def fit(self, trainer: Trainer, model: LightningModule, data: Any = None, val_data: Any = None) -> None:
        """Train from the start, or continue where the run was stopped. With `train=false`, do nothing.

        Args:
            trainer: The trainer that `trainer()` returned.
            model: The model, wrapped or not.
            data: A data module, or loaders for training.
            val_data: Loaders for validation, if `data` is not a data module.
        """
        built, start = self._check(trainer), self._start
        if not self._settings.train:
            return
        path = start.plan.path
        introduce.run(start, built, model, self._init_weights)
        cure = mismatch.NEW_RUN if start.plan.saved is None else mismatch.RESUME
        with callbacks.explained(trainer), mismatch.explained(str(path) if path else None, model, cure):
            trainer.fit(model, data, val_data, ckpt_path=str(path) if path else None, weights_only=True)
        self._limit = built.checkpoints.stopped_by  # `max_time`: the run ends as planned, and is tested; or a pause
        if start.context.signals.received:  # after the last boundary; everything is saved
            raise KeyboardInterrupt
        self._metrics = _numbers(trainer.callback_metrics)

    def test(self, trainer: Trainer, model: LightningModule, data: Any = None) -> dict[str, float] | None:
        """Test the best checkpoint, else the newest, else the current weights; not with `test=false` or in a pause.

        Args:
            trainer: The trainer that `trainer()` returned.
            model: The model, wrapped or not.
            data: A data module, or loaders for the test.

        Returns:
            The logged metrics; None without a test.
        """
        built = self._check(trainer)
        if not self._settings.test or self.is_paused:
            return None
        if not is_overridden("test_step", model):
            log.info("Not tested: %s has no test_step.", type(model).__name__)
            return None
        chosen = self._chosen(built)
        with mismatch.explained(chosen, model, mismatch.TEST):
            scores = trainer.test(model, data, ckpt_path=chosen, weights_only=True, verbose=False)
        self._scores = _numbers({name: value for loader in scores for name, value in loader.items()})
        return self._scores

    @property
    def is_paused(self) -> bool:
        """Whether `fit` has returned at `pause_at`, before the end of the training."""
        return self._limit == PAUSE

    def predict(self, trainer: Trainer, model: LightningModule, data: Any = None) -> Path | None:
        """Write the predictions of the checkpoint that is tested. With `predict=false`, do nothing.

        The arguments are those of `test`. Returns the directory, which `cairn.load_predictions` reads; or None.
        """
        built = self._check(trainer)
        if not self._settings.predict or self.is_paused:
            return None
        self._has_predicted, chosen = True, self._chosen(built)
        with mismatch.explained(chosen, model, mismatch.TEST):
            return predicting.predict(self._settings, self.directory, trainer, model, data, chosen)

    def result(self) -> float | None:
        """Return the metric that `optimized_metric` names, for a sweeper; None if it names none.

        Raises:
            CairnError: This metric was not logged.
        """
        name, logged = self._settings.optimized_metric, {**self._metrics, **(self._scores or {})}
        if name is None:
            return None
        if name not in logged:
            where = f" before pause_at={self._start.pause_at}: pause after a validation" if self.is_paused else ""
            names = ", ".join(sorted(logged)) or "none"
            raise CairnError(f"optimized_metric={name!r} was not logged{where}. Logged metrics: {names}.")
        return logged[name]

    def _chosen(self, built: Built) -> str | None:
        """Return the checkpoint to test, on all processes: the best, or else the newest; None: there is none."""
        ours = [Path(path) for path in (built.checkpoints.best_model_path, built.checkpoints.last_model_path) if path]
        path = first_intact(*ours) if self._settings.train else self._start.plan.path  # known on rank 0
        return built.trainer.strategy.broadcast(str(path or "")) or None

    def _outcome(self, result: Any) -> Outcome:
        """Return the outcome of a run whose body returned `result`, which may be a number, a tensor or None."""
        result = result.item() if hasattr(result, "item") else result
        if not self._has_predicted and not self.is_paused:
            log.warning(predicting.NOT_CALLED)
        trained: Status = "paused" if self.is_paused else "stopped" if self._limit else "finished"
        status = trained if self._settings.train else "tested"
        why = self._start.pause_at if self.is_paused else self._limit
        return Outcome(status, why or "", 0, self._metrics, self._scores, result)

    def _check(self, trainer: Trainer) -> Built:
        if self._built is None or self._built.trainer is not trainer:
            raise CairnError(
                "This trainer does not save checkpoints of the run: build it with run.trainer(), which takes more "
                "callbacks and any argument of lightning.Trainer."
            )
        return self._built


def run(cfg: DictConfig, body: Body, context: JobContext) -> Any:
    """Execute a run in the directory that Hydra has created, or resume the run in it.

    Args:
        cfg: The configuration that Hydra has composed.
        body: The function in train.py.
        context: Signals and the job of this process.

    Returns:
        The return value of the body, for a sweeper.

    Raises:
        Interruption: The run was stopped by a signal or by the time limit of its job, and is saved.
        SystemExit: Code 1 for a user-facing error.
    """
    hydra = HydraConfig.get()
    directory = RunDirectory(Path(hydra.runtime.output_dir))
    own = torchrun.rank_in(context.attempt)
    notice = Rendezvous(directory.path, own)
    if own.number > 0:
        facts = notice.wait(meanwhile=joint_check(directory, own).help)
        if facts is not None and facts["config"] is not None and facts["run"] is not None:
            join(body, context, facts["config"], facts["run"], facts["start"], facts.get("pause_at"))
        return None
    try:
        with environment.restored():
            try:
                with notice.deciding():
                    start = begin(cfg, directory, tuple(hydra.overrides.task), notice, context)
            except Exception as error:
                outcome = outcome_of(error, context.signals.name)
                if directory.before is None:
                    directory.end(outcome.status, outcome.why)
                else:
                    directory.before.put_back()
                command_line.put_back()
            else:
                if isinstance(start, NothingToDo):
                    return start.result
                outcome = execute(start, body)
    finally:
        notice.announce(None)
        directory.unlock()  # the next job of a sweep may run in this process, in the same directory
    return ending.leave(outcome, directory, is_alone=hydra.mode == RunMode.RUN)


def join(
    body: Body, context: JobContext, config: str, run: str, start: str | None, pause_at: str | None = None
) -> None:
    """Join a run that the main process has started.

    Args:
        body: The function in train.py.
        context: Signals and the job of this process.
        config: Path of the file with the configuration of the run.
        run: Id of the run.
        start: Path of the checkpoint to resume from.
        pause_at: Where the run pauses.

    Raises:
        Interruption: A signal has reached this process outside of training; others, see `ending.leave_another`.
    """
    with environment.restored():
        outcome = execute(follow(config, run, start, context, pause_at), body)
    error = outcome.error
    if error is None or isinstance(error, Stopped | SaveError):
        # All processes of the run stop like this. The launcher kills the main process, which may still be busy, when
        # another one exits with an error: exit with 0.
        return
    if outcome.status == "stopped" and not isinstance(error, Exception):
        raise Interruption(outcome.why) from error
    ending.leave_another(error)


def execute(start: Start, body: Body) -> Outcome:
    """Execute the body, and record how it ended: in the run directory, on the terminal, in W&B.

    Args:
        start: Decisions of this start.
        body: The function in train.py.

    Returns:
        The outcome. It holds the exception that ended the run, if there was one; the exception is not raised.
    """
    built: Built | None = None
    try:
        session = Run(start)
        try:
            with logs_in_config_words():
                result = body(session)
        finally:
            built = session._built
        outcome = session._outcome(result)
        if start.is_main:
            evaluation.record(start.directory, start.settings.config, start.plan, outcome)
    except BaseException as error:
        outcome = outcome_of(error, start.context.signals.name)
    try:
        # Before waiting for W&B: an error there does not change the outcome of the run.
        ending.record(start, built, outcome)
    finally:
        ending.close_uploads(start, built, outcome)
    return outcome


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
