"""What a sweeper records of a search: `sweep.json` in the directory of the sweep.

Its trials are runs in directories below. A file of a newer format, or one that is damaged, is refused by a sentence:
figures of a part of it would look like those of the whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from cairn import opening, records
from cairn.errors import MissingFileError, ResumeError
from cairn.records import RecordError
from cairn.types import Mode

NAME = "sweep.json"
FORMAT = 1
_LARGEST = 1e150
"""Numbers are smaller than this, so that their squares and differences are finite."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of the search space."""

    kind: Literal["float", "int", "choice"]
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class RungResult:
    """A trial at the stop of a rung."""

    rung: int
    """Index into the rungs of the search."""
    score: float | None
    """Value of the metric; None if there is none, or if it is not a finite number."""
    batches: int
    """Batches that were trained for this rung."""
    total_batches: int
    """Batches of the trial so far."""
    epoch: float | None = None
    finished_at: str = ""
    """ISO 8601."""


@dataclass(frozen=True)
class Trial:
    """One trial: a run with its own values of the parameters."""

    number: int
    directory: str
    """Relative to the directory of the sweep."""
    parameters: Mapping[str, Any]
    state: str
    """running, paused (it waits for the next rung), stopped (others went on), finished, failed."""
    rungs: tuple[RungResult, ...] = ()
    """The rungs that it has reached, in order."""
    bracket: int = 0
    error: str | None = None
    """Why it failed, in one line."""
    full_batches: int | None = None
    """Batches of a run to the end; None if unknown."""

    @property
    def last(self) -> RungResult | None:
        """The last rung that it has reached."""
        return self.rungs[-1] if self.rungs else None

    def at(self, rung: int) -> RungResult | None:
        """Return its result at a rung; None if it has not reached it."""
        return next((result for result in self.rungs if result.rung == rung), None)


@dataclass(frozen=True)
class Search:
    """Contents of `sweep.json`, and where it was."""

    path: Path
    """Directory of the sweep."""
    state: str
    """running or finished."""
    metric: str
    mode: Mode
    rungs: tuple[str, ...]
    """The stop of each rung, such as `3ep`; the last one is the full length."""
    parameters: Mapping[str, Parameter]
    trials: tuple[Trial, ...]
    sweeper: str = ""
    command: tuple[str, ...] = ()
    sampler: str = ""
    seed: int | None = None
    eta: float | None = None
    schedule: str = ""

    @property
    def sign(self) -> float:
        """Factor that makes a lower score the better one."""
        return -1.0 if self.mode == "max" else 1.0

    def folder(self, trial: Trial) -> Path | None:
        """Return the directory of a trial; None if it is not below that of the sweep."""
        # The file may come from other people: a name with `..` could be any directory of this machine.
        path = Path(trial.directory)
        if path.is_absolute() or ".." in path.parts or not path.parts or not _is_name(trial.directory):
            return None
        return self.path / path


def _is_name(text: str) -> bool:
    """Return whether a file system can have a file of this name."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


@dataclass(frozen=True)
class _File:
    """Contents of the file, as they are written."""

    format: int
    state: str
    metric: str
    mode: Mode
    rungs: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    trials: tuple[Trial, ...]
    sweeper: str = ""
    command: tuple[str, ...] = ()
    sampler: str | None = None
    seed: int | None = None
    eta: float | None = None
    schedule: str | None = None


def is_search(path: Path) -> bool:
    """Return whether a directory is that of a search."""
    return (path / NAME).is_file()


def read(path: Path) -> Search:
    """Read the record of a search.

    Args:
        path: Directory of the sweep.

    Raises:
        MissingFileError: There is no such file.
        ResumeError: It cannot be read, or is not such a record.
    """
    file = path.absolute() / NAME
    try:
        found = _checked(records.parse(opening.read_bytes(file)))
    except FileNotFoundError as error:
        raise MissingFileError(f"{file} does not exist: name the directory of a search.") from error
    except OSError as error:
        raise ResumeError(f"{file} cannot be read: {error.strerror or error}.") from error
    except RecordError as error:
        raise ResumeError(
            f"{file} is not the record of a search ({error}). For what saving cost in its runs, add --saving."
        ) from error
    plain = {item.name: getattr(found, item.name) for item in fields(_File) if item.name != "format"}
    return Search(path=path.absolute(), **{**plain, "sampler": found.sampler or "", "schedule": found.schedule or ""})


def _checked(value: Any) -> _File:
    """Return the contents of the file; fields that a later version may add are left out."""
    if not isinstance(value, dict):
        raise RecordError("it has no fields")
    top = _known(_File, value)
    if isinstance(top.get("format"), int) and top["format"] > FORMAT:
        raise RecordError(f"it has format {top['format']}, and this version of cairn reads {FORMAT}: update cairn")
    parameters, trials = top.get("parameters"), top.get("trials")
    if isinstance(parameters, dict):
        top["parameters"] = {name: _known(Parameter, item) for name, item in parameters.items()}
    if isinstance(trials, list):
        top["trials"] = [_trial(item) for item in trials]
    found = records.read(_File, top)
    _check(found)
    return found


def _trial(value: Any) -> Any:
    trial = _known(Trial, value)
    if isinstance(trial, dict) and isinstance(trial.get("rungs"), list):
        trial["rungs"] = [_result(item) for item in trial["rungs"]]
    return trial


def _result(value: Any) -> Any:
    result = _known(RungResult, value)
    score = result.get("score") if isinstance(result, dict) else None
    if isinstance(score, float) and not abs(score) < _LARGEST:
        result["score"] = None
    return result


def _known(cls: type, value: Any) -> Any:
    names = {item.name for item in fields(cls)}
    return {name: item for name, item in value.items() if name in names} if isinstance(value, dict) else value


def _check(found: _File) -> None:
    """Check what the types do not say.

    Raises:
        RecordError: A number cannot be right.
    """
    records.require_finite(found, "eta")
    if not found.rungs:
        raise RecordError("rungs is empty")
    if len({trial.number for trial in found.trials}) < len(found.trials):
        raise RecordError("two trials have the same number")
    for parameter in found.parameters.values():
        records.require_finite(parameter, "low", "high", "step")
        _check_values("a choice", parameter.choices)
    for trial in found.trials:
        records.require_counts(trial, "number", "bracket", "full_batches")
        _check_values(f"a parameter of trial {trial.number}", trial.parameters.values())
        places = [result.rung for result in trial.rungs]
        if places != sorted(set(places)) or any(not 0 <= place < len(found.rungs) for place in places):
            raise RecordError(f"trial {trial.number} has rungs {places}, of {len(found.rungs)}")
        for result in trial.rungs:
            records.require_counts(result, "batches", "total_batches")
            records.require_finite(result, "epoch")


def _check_values(what: str, values: Iterable[Any]) -> None:
    """Check that values can be computed with and written as JSON, whatever their type is."""
    for value in values:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        _check_values(what, inside)
        if isinstance(value, int | float) and not abs(value) < _LARGEST:  # nor NaN
            raise RecordError(f"{what} is not a finite number, or is too large")
