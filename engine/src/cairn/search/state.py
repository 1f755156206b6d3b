"""WHAT has become of a search: `sweep.json` in its directory, rewritten after each event.

The file is all that a repeated command needs, and all that `cairn report` reads. Optuna's journal next to it says the
same in Optuna's words.

    running --> paused --> running ...   at each rung; then one of
                       --> stopped       others were better
                       --> finished      trained to its end
    running --> failed
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cairn import opening, records
from cairn.errors import ResumeError, SaveError
from cairn.records import RecordError
from cairn.store import disk
from cairn.types import Mode

NAME = "sweep.json"
FORMAT = 1
TrialState = Literal["running", "paused", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class Reached:
    """A rung that a trial has come to."""

    rung: int
    score: float | None
    """None: it was not a finite number."""
    epoch: int
    """Complete epochs."""
    batches: int
    """Trained for this rung."""
    total_batches: int
    """Of the trial so far."""
    finished_at: str
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class Trial:
    """One run of a search."""

    number: int
    directory: str
    """Its run directory, relative to that of the search."""
    parameters: Mapping[str, Any]
    state: TrialState = "running"
    bracket: int = 0
    error: str = ""
    """Why it has failed, in one line."""
    rungs: tuple[Reached, ...] = ()
    full_batches: int | None = None
    """What a run to the end takes; None: unknown."""

    @property
    def score(self) -> float | None:
        """Its score at the last rung that it has come to."""
        return self.rungs[-1].score if self.rungs else None

    @property
    def total_batches(self) -> int:
        """Batches that it has trained."""
        return self.rungs[-1].total_batches if self.rungs else 0

    def at(self, rung: int) -> Reached | None:
        """Return what it was at a rung; None if it has not come to it."""
        return next((item for item in self.rungs if item.rung == rung), None)

    def reaches(self, rung: int, score: float | None, epoch: int, total_batches: int) -> Trial:
        """Return the trial when it has come to a rung; its state stays."""
        finite = score if score is not None and math.isfinite(score) else None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        here = Reached(rung, finite, epoch, total_batches - self.total_batches, total_batches, now)
        return replace(self, rungs=(*self.rungs, here))


@dataclass(frozen=True)
class Search:
    """A whole search."""

    sweeper: Literal["halving", "optuna"]
    """`optuna`: one rung."""
    command: tuple[str, ...]
    """Overrides of the command, as they were typed."""
    metric: str
    mode: Mode
    sampler: str
    seed: int
    eta: int
    schedule: Literal["halving", "hyperband"]
    rungs: tuple[str, ...]
    """Where trials stop; the last is `end`."""
    num_trials: int
    parameters: Mapping[str, Any]
    trials: tuple[Trial, ...] = ()
    state: Literal["running", "finished"] = "running"
    format: int = field(default=FORMAT)

    def with_trial(self, trial: Trial) -> Search:
        """Return the search with a trial that is new, or in another state than before."""
        others = {item.number: item for item in self.trials}
        return replace(self, trials=tuple(sorted({**others, trial.number: trial}.values(), key=lambda one: one.number)))

    def of_bracket(self, number: int) -> list[Trial]:
        """Return the trials of a bracket."""
        return [trial for trial in self.trials if trial.bracket == number]


def read(directory: Path) -> Search | None:
    """Return the search in a directory; None if there is none.

    Raises:
        ResumeError: The file is not the state of a search, or of a later version.
    """
    path = directory / NAME
    try:
        found = records.parse(opening.read_bytes(path))
        if isinstance(found, dict) and isinstance(found.get("format"), int) and found["format"] > FORMAT:
            raise ResumeError(f"{path} was written by a newer version of Cairn: use that version.")
        return records.read(Search, found)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResumeError(f"{path} cannot be read: {error.strerror or error}.") from error
    except RecordError as error:
        raise ResumeError(f"{path} is not the state of a search ({error}).") from error


def write(directory: Path, search: Search) -> None:
    """Write the search to its directory, in one step.

    Raises:
        SaveError: It could not be written.
    """
    plain = asdict(search)
    order = ("format", "sweeper", "state", "command", "metric", "mode", "sampler", "seed", "eta", "schedule", "rungs")
    plain = {**{key: plain[key] for key in order}, **plain}
    plain["trials"] = [_without_nothing(trial) for trial in plain["trials"]]
    try:
        disk.put(directory / NAME, (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        why = error.strerror or error
        raise SaveError(
            f"{directory / NAME} could not be written: {why}. Mend that, and repeat the command."
        ) from error


def _without_nothing(trial: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in trial.items() if key != "error" or value}


def unfinished(folder: Path, command: Sequence[str]) -> Path | None:
    """Return the newest search below a folder that this command has begun and not finished; None if there is none."""
    found: list[tuple[float, Path]] = []
    for path in folder.glob(f"*/{NAME}"):
        try:
            search = read(path.parent)
        except ResumeError:
            continue
        if search is not None and search.state == "running" and sorted(search.command) == sorted(command):
            found.append((path.stat().st_mtime, path.parent))
    return max(found)[1] if found else None
