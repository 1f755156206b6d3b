"""Lightning's W&B logger, with a history that holds each row once, and that goes offline when W&B does not answer."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from cairn.errors import first_line
from cairn.trackers.lines import STEP, TIME, Lines, Row, number
from cairn.uploads.once import ErrorsOnce
from cairn.wandb.history import History

log = logging.getLogger(__name__)

_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}


class _FallbackLogger(loggers.WandbLogger):
    """Goes offline when W&B cannot be reached, and goes on without W&B when that refuses the run.

    Args:
        save_dir: The run directory.
        offline: Use no network; `WANDB_MODE` in the environment wins.
        forget: Clears away what the client keeps of a failed attempt; None: an error of the client is raised.
        more: As for Lightning's logger.
    """

    def __init__(self, save_dir: str | Path, offline: bool, forget: Callable[[], None] | None, **more: Any) -> None:
        super().__init__(save_dir=str(save_dir), **more)
        self._wandb_init.pop("anonymous", None)  # W&B warns about it, whatever its value
        self.mode = _MODES.get(os.environ.get("WANDB_MODE", ""), "offline" if offline else "online")
        self._forget = forget
        self._errors = ErrorsOnce("W&B")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run: offline if it cannot be made online, and one that does nothing if it cannot be made at all."""
        while self._experiment is None:
            self._wandb_init["mode"] = self.mode
            try:
                return super().experiment
            except Exception as error:
                if self._forget is None:
                    raise
                self._forget()
                if self.mode == "online":
                    self._go_offline(error)
                else:
                    self._go_on_without(error)
        return super().experiment if self._has_run else self._experiment

    @property
    def _has_run(self) -> bool:
        return not isinstance(self._experiment, DummyExperiment)

    @property
    def version(self) -> str | None:
        """The id of the run, also if W&B has refused the run."""
        found: str | None = super().version if self._has_run else self._id
        return found

    def _go_on_without(self, error: Exception) -> None:
        self.mode, self._experiment = "disabled", DummyExperiment()  # type: ignore[assignment]
        log.error("W&B refuses this run (%s): it goes on without W&B.", first_line(error))

    def _go_offline(self, error: Exception) -> None:
        self.mode = self._wandb_init["mode"] = os.environ["WANDB_MODE"] = "offline"
        log.error(
            "W&B cannot be reached (%s): this run is logged offline. Send it later with: python -m cairn sync %s",
            first_line(error),
            self.save_dir,
        )

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self._attempt("could not send the configuration", lambda: self._send_config(params))

    def _send_config(self, params: Any) -> None:
        _ = self.experiment
        if self._has_run:
            super().log_hyperparams(params)

    def _attempt(self, what: str, task: Callable[[], Any]) -> bool:
        """Whether a task was done. An error of W&B or its files is logged, and does not stop training."""
        try:
            task()
        except Exception as error:
            self._errors.log(what, f"{what} ({first_line(error)})")
            return False
        return True


class WandbLogger(_FallbackLogger):
    """Logs metrics to Weights & Biases. A row that a resumed run repeats is not sent again.

    Args:
        save_dir: The run directory.
        offline: Use no network; `WANDB_MODE` in the environment wins.
        forget: Clears away what the client keeps of a failed attempt to reach W&B. With it, a run for which W&B cannot
            be reached goes offline, and one that W&B refuses even then goes on without W&B; both are logged. None: an
            error of the client is raised.
        more: As for Lightning's logger, except for `log_model`: see `cairn.wandb.Artifacts`.
    """

    def __init__(
        self, save_dir: str | Path, offline: bool = True, forget: Callable[[], None] | None = None, **more: Any
    ) -> None:
        super().__init__(save_dir, offline, forget, **more)
        self._history = History(Path(save_dir) / "wandb")
        self._position: Mapping[str, Any] | None = None
        """The state to go back to before anything is written; None: the journal is there already."""
        self.has_ended = True
        """False after a `close` that failed: W&B's client may still be trying to send what is left of the run."""

    @property
    def journal(self) -> Lines:
        """All rows of the run."""
        return self._history.journal

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.training_begins()
        names = {f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name: name for name in metrics}
        row = {full: number(metrics[name]) for full, name in names.items()}
        row |= {TIME: time.time()} | ({} if step is None else {STEP: step})
        self._attempt(f"could not write {self.journal.path}", lambda: self._history.add(row))
        self.deliver(row)

    def deliver(self, row: Row) -> bool:
        """Send a row, unless W&B has it.

        Args:
            row: A row of the journal.

        Returns:
            Whether it was sent.
        """
        run, results = self.experiment, list[bool]()
        if self._has_run:
            online = self.mode == "online"
            self._attempt(
                "could not send a row of the history", lambda: results.append(self._history.send(row, run, online))
            )
        return any(results)

    def state_dict(self) -> dict[str, Any]:
        """How many rows belong to this position. They are written, but survive a power cut only after `sync`."""
        self.training_begins()
        self.journal.notice_deletion()
        return {"rows": self.journal.count}

    def sync(self) -> None:
        """Make what `state_dict` counts survive a power cut. Called by another thread than everything else.

        Raises:
            OSError: This is not certain.
        """
        self._history.sync()

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to the rows of the checkpoint, when training begins or a row is logged."""
        self._position = state

    @rank_zero_only
    def training_begins(self) -> None:
        """Cut the journal to the rows of the checkpoint, and send W&B those that it does not have."""
        state, self._position = self._position, None
        if state is None:
            return
        rows = self.journal.cut(state["rows"])
        if len(rows) < state["rows"]:
            rank_zero_warn(f"{self.journal.path} has {len(rows)} rows, and the checkpoint had {state['rows']}.")
        for row in rows:
            self.deliver(row)

    def preempt(self) -> None:
        """Mark the run as preempted: if it ends with another code than 0, W&B does not show that as a failure."""
        if self._experiment is not None:
            self._attempt("could not mark its run as preempted", self._experiment.mark_preempting)

    def close(self, exit_code: int, limit_s: float | None = None) -> bool:
        """End W&B's run, if there is one.

        Args:
            exit_code: 0 for success.
            limit_s: Maximum time to wait, in seconds; None: as long as W&B's client waits.

        Returns:
            Whether W&B has accepted everything that it was sent.
        """
        if self._experiment is not None:
            experiment, self._experiment = self._experiment, None
            if why := why_not_done(partial(experiment.finish, exit_code=exit_code), limit_s):
                self._errors.kinds.add(why)
                self.has_ended = False
                log.error(
                    "W&B: could not end its run (%s): the end of its history may be missing there. Send it with: "
                    "python -m cairn sync %s",
                    why,
                    self.save_dir,
                )
        return not self._errors.kinds

    def finalize(self, status: str) -> None:
        """Does nothing: `close` ends the run, with its exit code."""


def end_run(logger: loggers.WandbLogger, exit_code: int, limit_s: float | None) -> bool:
    """End the W&B run of any logger: otherwise, the next job of a sweep would log into it.

    Args:
        logger: Ours or Lightning's own.
        exit_code: 0 for success.
        limit_s: Maximum time to wait, in seconds; None: as long as W&B's client waits.

    Returns:
        Whether the run has ended.
    """
    if isinstance(logger, WandbLogger):
        logger.close(exit_code, limit_s)
        return logger.has_ended
    if logger._experiment is None:
        return True
    if why := why_not_done(partial(logger.experiment.finish, exit_code=exit_code), limit_s):
        log.error("W&B: could not end its run (%s).", why)
    return not why


def why_not_done(task: Callable[[], Any], limit_s: float | None) -> str:
    """Do something that may fail or hang.

    Args:
        task: Called without arguments.
        limit_s: Maximum time to wait for it, in seconds; None: no limit.

    Returns:
        Why it was not done; empty if it was.
    """
    results: list[str] = []

    def work() -> None:
        try:
            task()
            results.append("")
        except Exception as error:
            results.append(first_line(error) or repr(error))

    if limit_s is None:
        work()
    else:
        thread = threading.Thread(target=work, name="wandb-end", daemon=True)
        thread.start()
        thread.join(limit_s)
    return results[0] if results else "it did not answer in time"
