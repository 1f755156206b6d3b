"""W&B's history: one row per optimizer step, the same after a resume, and offline when nobody answers.

Lightning's logger counts rows by itself, so that what a resumed run repeats appears twice, shifted. Here the row is the
step. A journal beside W&B's own files holds every row; what W&B does not have yet at a resume is sent again from it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor

log = logging.getLogger(__name__)

_STEP = "trainer/global_step"
_COSTS = "checkpoint/"
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}


class Journal:
    """The rows of a run, a line of JSON each, oldest first.

    Args:
        path: the file; made, or emptied, with the first row, unless `cut` was called before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows = 0
        self._fresh = True

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w" if self._fresh else "a") as file:
            file.write(json.dumps(row) + "\n")
        self._fresh = False
        self.num_rows += 1

    def sync(self) -> None:
        """Let the rows survive a power cut."""
        if self.num_rows:
            with open(self.path) as file:
                os.fsync(file.fileno())

    def cut(self, num_rows: int) -> list[dict[str, Any]]:
        """Forget all rows but the first ones; returns those."""
        lines = list(read(self.path))[:num_rows]
        if lines:
            temp = self.path.with_suffix(".tmp")
            temp.write_text("".join(json.dumps(row) + "\n" for row in lines))
            temp.replace(self.path)
        self.num_rows, self._fresh = len(lines), not lines
        return lines


def prepare(run: Path, offline: bool) -> None:
    """Keep W&B's files with the run, lose no more than a second of its log, and stay away from the network if offline.

    W&B reads these from the environment; what the user has set there wins, but for the folders.
    """
    own = run / "wandb"
    own.mkdir(parents=True, exist_ok=True)
    for name, value in {"DATA_DIR": own, "CACHE_DIR": own / "cache", "CONFIG_DIR": own / "config"}.items():
        os.environ[f"WANDB_{name}"] = str(value)
    defaults = {
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB__TRANSACTION_LOG_FLUSH_INTERVAL": "1",
        "WANDB_INIT_TIMEOUT": "30",
        "WANDB_FINISH_TIMEOUT": "60",  # for metrics and console; checkpoints are waited for before
    }
    if offline:  # the argument of wandb.init alone would still try the network once
        defaults["WANDB_MODE"] = "offline"
    for name, text in defaults.items():
        os.environ.setdefault(name, text)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows in a journal; nothing where there is none. What a kill has cut off in the last line is left out."""
    if path.is_file():
        with open(path) as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)


def journal_path(run: Path) -> Path:
    """Where a run's journal lies."""
    return run / "wandb" / "history.jsonl"


class WandbLogger(loggers.WandbLogger):
    """Lightning's logger with the optimizer step as W&B's step.

    Args:
        save_dir: the run directory.
        offline: no network at all; `WANDB_MODE` in the environment wins.
        forget: when W&B cannot be reached, the run goes offline and says so; this clears away what the client has kept
            of its try. None: what the client raises comes through.
        more: as for Lightning's, `log_model` left out: checkpoints are tracked by themselves.
    """

    def __init__(
        self, save_dir: str | Path, offline: bool = True, forget: Callable[[], None] | None = None, **more: Any
    ) -> None:
        super().__init__(save_dir=str(save_dir), **more)
        self._wandb_init.pop("anonymous", None)  # W&B warns of it, whatever it is
        self.mode = _MODES.get(os.environ.get("WANDB_MODE", ""), "offline" if offline else "online")
        self.journal = Journal(journal_path(Path(save_dir)))
        self._forget = forget
        self._step = 0
        self._told = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; offline if it cannot be made online."""
        if self._experiment is None:
            self._wandb_init["mode"] = self.mode
            try:
                return super().experiment
            except Exception as error:
                if self.mode != "online" or self._forget is None:
                    raise
                self._forget()
                self._go_offline(error)
        return super().experiment

    def _go_offline(self, error: Exception) -> None:
        self.mode = self._wandb_init["mode"] = "offline"
        log.error(
            "W&B cannot be reached (%s): this run is logged offline. `python -m cairn sync %s` sends it later.",
            str(error).splitlines()[0].rstrip("."),
            self.save_dir,
        )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if not all(name.startswith(_COSTS) for name in metrics):  # they are known later, and go to the row of then
            self._step = max(self._step, step or 0)
        row = {_STEP: self._step, **{name: _number(value) for name, value in metrics.items()}}
        plain = {name: value for name, value in row.items() if isinstance(value, int | float | str)}
        self._note({"_step": self._step, "_timestamp": time.time(), **plain})
        if self._step >= self.first_step:
            self.experiment.log(row, step=self._step)

    @property
    def first_step(self) -> int:
        """W&B has everything before this one: a row that comes again is left out."""
        return int(getattr(self.experiment, "starting_step", 0) or 0)

    def _note(self, row: Mapping[str, Any]) -> None:
        try:
            self.journal.add(row)
        except OSError as error:
            if not self._told:
                log.error("%s cannot be written: %s.", self.journal.path, error.strerror)
            self._told = True

    def state_dict(self) -> dict[str, Any]:
        """How many rows belong to this position; they are on the disk when this returns.

        Raises:
            OSError: they could not be written.
        """
        self.journal.sync()
        return {"rows": self.journal.num_rows, "step": self._step}

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the journal to the rows of the checkpoint, and send W&B those that it does not have."""
        rows = self.journal.cut(state["rows"])
        if len(rows) < state["rows"]:
            rank_zero_warn(f"{self.journal.path} has {len(rows)} rows, and the checkpoint knew {state['rows']}.")
        self._step = state["step"]
        send(self.experiment, rows)

    def close(self, exit_code: int, preempted: bool = False) -> None:
        """End W&B's run, if there is one; 0 is success. A preempted one is shown as such."""
        if self._experiment is not None:
            if preempted:
                self._experiment.mark_preempting()
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None

    def finalize(self, status: str) -> None:
        """Nothing: `close` ends the run, with its exit code."""


def send(run: Any, rows: list[dict[str, Any]]) -> int:
    """Send rows of a journal to W&B's run, as if they were logged now; returns how many it did not have."""
    missing = [row for row in rows if row["_step"] >= int(getattr(run, "starting_step", 0) or 0)]
    for row in missing:
        run.log({name: value for name, value in row.items() if name != "_step"}, step=row["_step"])
    return len(missing)


def _number(value: Any) -> Any:
    """A tensor of one number as that number; the rest as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
