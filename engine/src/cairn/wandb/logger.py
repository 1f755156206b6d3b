"""W&B's history: every row once, also those that a resumed run repeats; and offline when nobody answers.

Lightning's logger counts rows by itself, so that what a resumed run repeats appears twice, shifted. Here a journal in
the run directory holds every row of the run, and a list beside it those that W&B has: the difference is what is sent.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from cairn.errors import first_line

log = logging.getLogger(__name__)

_STEP = "trainer/global_step"
_TIME = "_timestamp"
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}

Row = dict[str, Any]
Key = tuple[Any, ...]


class Lines:
    """A file with a line of JSON for each item, oldest first.

    Args:
        path: made, or emptied, with the first item, unless `cut` was called before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._fresh = True

    def add(self, item: Any) -> None:
        """Append one; no half of it is left when that fails.

        Raises:
            OSError: it could not be written.
        """
        self.look()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "wb" if self._fresh else "ab", buffering=0) as file:
            size = file.tell()
            try:
                line = json.dumps(item).encode() + b"\n"
                if file.write(line) != len(line):
                    raise OSError(28, "No space left on device")
            except OSError:
                os.truncate(self.path, size)
                raise
        self._fresh = False
        self.count += 1

    def look(self) -> None:
        """If somebody has deleted the file, say so once: from now on it holds what comes."""
        if self.count and not self.path.exists():
            log.error("%s is gone, and not by this run: its first %d lines are lost.", self.path, self.count)
            self.count = 0

    def sync(self) -> None:
        """Let all of them survive a power cut; while another thread may add one."""
        with suppress(FileNotFoundError), open(self.path) as file:  # there are none, or they were deleted
            os.fsync(file.fileno())

    def cut(self, count: int) -> list[Any]:
        """Forget all but the first ones; returns those."""
        items = list(read(self.path))[:count]
        if self.path.is_file():
            temp = self.path.with_suffix(".tmp")
            with open(temp, "w") as file:
                file.write("".join(json.dumps(item) + "\n" for item in items))
                file.flush()
                os.fsync(file.fileno())
            temp.replace(self.path)
        self.count, self._fresh = len(items), False
        return items


def read(path: Path) -> Iterator[Any]:
    """The items in a file of lines; nothing where there is none. What a kill has cut off is left out."""
    if path.is_file():
        with open(path) as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    log.warning("%s has a line that was cut off: it is left out.", path)


def prepare(run: Path, offline: bool, finish_s: float = 60.0) -> None:
    """Keep W&B's files with the run, lose no more than a second of its log, and stay away from the network if offline.

    W&B reads these from the environment; what the user has set there wins, but for the folders.

    Args:
        run: its directory.
        offline: no network at all.
        finish_s: how long the end waits for metrics and console; checkpoints are waited for before.
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
        "WANDB_FINISH_TIMEOUT": f"{finish_s:g}",
        "WANDB_FINISH_TIMEOUT_RAISES": "true",  # what is not sent by then would be lost without a word
    }
    if offline:  # the argument of wandb.init alone would still try the network once
        defaults["WANDB_MODE"] = "offline"
    for name, text in defaults.items():
        os.environ.setdefault(name, text)


class WandbLogger(loggers.WandbLogger):
    """Lightning's logger with a journal.

    Args:
        save_dir: the run directory.
        offline: no network at all; `WANDB_MODE` in the environment wins.
        forget: when W&B cannot be reached, the run goes offline and says so, and if it does not even take the run
            then (a value that it refuses), goes on without it; this clears away what the client has kept of its try.
            None: what the client raises comes through.
        more: as for Lightning's, `log_model` left out: checkpoints are tracked by themselves.
    """

    def __init__(
        self, save_dir: str | Path, offline: bool = True, forget: Callable[[], None] | None = None, **more: Any
    ) -> None:
        super().__init__(save_dir=str(save_dir), **more)
        self._wandb_init.pop("anonymous", None)  # W&B warns of it, whatever it is
        self.mode = _MODES.get(os.environ.get("WANDB_MODE", ""), "offline" if offline else "online")
        folder = Path(save_dir) / "wandb"
        self.journal = Lines(folder / "history.jsonl")
        self._sent = Lines(folder / "sent.jsonl")
        self._forget = forget
        self._next: int | None = None
        self._has: Counter[Key] = Counter()
        self._told: set[str] = set()
        self.has_ended = True
        """False after a `close` that failed: W&B's client may still be trying to send what is left of the run."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; offline if it cannot be made online, and one that does nothing if it cannot be made at all."""
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
                    self._give_up(error)
        return super().experiment if self._is_there else self._experiment

    @property
    def _is_there(self) -> bool:
        """False: W&B has not taken the run."""
        return not isinstance(self._experiment, DummyExperiment)

    @property
    def version(self) -> str | None:
        """The run's id, also where W&B has not taken it: a run that does nothing has no id to ask for."""
        found: str | None = super().version if self._is_there else self._id
        return found

    def _give_up(self, error: Exception) -> None:
        self.mode, self._experiment = "disabled", DummyExperiment()  # type: ignore[assignment]
        log.error("W&B does not take this run (%s): it goes on without W&B.", first_line(error))

    def _go_offline(self, error: Exception) -> None:
        self.mode = self._wandb_init["mode"] = os.environ["WANDB_MODE"] = "offline"
        log.error(
            "W&B cannot be reached (%s): this run is logged offline. `python -m cairn sync %s` sends it later.",
            first_line(error),
            self.save_dir,
        )

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self._attempt("the configuration could not be sent", lambda: self._send_config(params))

    def _send_config(self, params: Any) -> None:
        _ = self.experiment
        if self._is_there:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        names = {f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name: name for name in metrics}
        row = {full: _number(metrics[name]) for full, name in names.items()}
        row |= {_TIME: time.time()} | ({} if step is None else {_STEP: step})
        self._attempt(f"{self.journal.path} cannot be written", lambda: self.journal.add(_plain(row)))
        self.deliver(row)

    def deliver(self, row: Row) -> bool:
        """Send a row, if W&B does not have it; returns whether it was sent."""
        _ = self.experiment
        if not self._is_there:
            return False
        if self._next is None:
            self._next = self._look_up()
        key = _key(row)
        if self._has[key]:
            self._has[key] -= 1
            return False
        return self._attempt("a row of the history could not be sent", lambda: self._send(row, key))

    def _look_up(self) -> int:
        """What W&B has of the run, by the list of what was sent; returns the number of its next row."""
        if self.mode != "online":
            return 0
        first = int(getattr(self.experiment, "starting_step", 0) or 0)
        there = [item for item in read(self._sent.path) if item[0] < first]
        self._has = Counter(tuple(key) for _, *key in there)
        self._sent.cut(len(there))
        return first

    def _send(self, row: Row, key: Key) -> None:
        assert self._next is not None
        number = max(self._next, int(self.experiment.step or 0))  # whoever uses W&B's run directly takes numbers, too
        self._next = number + 1
        self.experiment.log(row, step=number, commit=True)
        if self.mode == "online":
            self._sent.add([number, *key])

    def _attempt(self, what: str, task: Callable[[], Any]) -> bool:
        """Nothing that W&B, or its files, may do stops a training; it is told once. Returns whether it was done."""
        try:
            task()
        except Exception as error:
            if what not in self._told:
                log.error("W&B: %s (%s). Training goes on; this is told once.", what, first_line(error))
            self._told.add(what)
            return False
        return True

    def state_dict(self) -> dict[str, Any]:
        """How many rows belong to this position; they are written when this returns, `sync` has yet to be called."""
        self.journal.look()
        return {"rows": self.journal.count}

    def sync(self) -> None:
        """Let what `state_dict` knows survive a power cut; called by another thread than all else.

        Raises:
            OSError: that is not sure.
        """
        self.journal.sync()
        self._sent.sync()

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the journal to the rows of the checkpoint, and send W&B those that it does not have."""
        rows = self.journal.cut(state["rows"])
        if len(rows) < state["rows"]:
            rank_zero_warn(f"{self.journal.path} has {len(rows)} rows, and the checkpoint knew {state['rows']}.")
        for row in rows:
            self.deliver(row)

    def preempt(self) -> None:
        """Somebody else has stopped the run: if it ends with another code than 0, W&B shows that as no failure."""
        if self._experiment is not None:
            self._attempt("its run could not be marked as preempted", self._experiment.mark_preempting)

    def close(self, exit_code: int, limit_s: float | None = None) -> bool:
        """End W&B's run, if there is one.

        Args:
            exit_code: 0 is success.
            limit_s: wait no longer; None: as long as W&B was told to.

        Returns:
            Whether W&B has taken all that it was given.
        """
        if self._experiment is not None:
            experiment, self._experiment = self._experiment, None
            if why := why_not(partial(experiment.finish, exit_code=exit_code), limit_s):
                self._told.add(why)
                self.has_ended = False
                log.error(
                    "W&B: its run could not be ended (%s), so that the end of its history may be missing there. "
                    "`python -m cairn sync %s` sends it.",
                    why,
                    self.save_dir,
                )
        return not self._told

    def finalize(self, status: str) -> None:
        """Nothing: `close` ends the run, with its exit code."""


def why_not(task: Callable[[], Any], limit_s: float | None) -> str:
    """Do something that may fail or hang, and wait no longer for it; returns why it was not done, empty if it was."""
    said: list[str] = []

    def work() -> None:
        try:
            task()
            said.append("")
        except Exception as error:
            said.append(first_line(error) or repr(error))

    if limit_s is None:
        work()
    else:
        thread = threading.Thread(target=work, name="wandb-end", daemon=True)
        thread.start()
        thread.join(limit_s)
    return said[0] if said else "there was no more time"


def _plain(row: Row) -> Row:
    """What the journal can hold of a row: no picture and no table."""
    return {name: value for name, value in row.items() if isinstance(value, int | float | str)}


def _key(row: Row) -> Key:
    """What makes a row this row: a resumed run logs the same numbers under the same names at the same step again.

    Of what the journal holds of it, so that the same row has the same key when it comes from there.
    """
    return (row.get(_STEP), *sorted(name for name in _plain(row) if name not in (_STEP, _TIME)))


def _number(value: Any) -> Any:
    """A tensor or an array of one number as that number; the rest as it is."""
    num = value.numel() if hasattr(value, "numel") else getattr(value, "size", None)
    return value.item() if num == 1 and hasattr(value, "item") else value
