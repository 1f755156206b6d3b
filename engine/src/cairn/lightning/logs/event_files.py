"""Event files of a TensorBoardLogger: a resume removes what was written after the checkpoint, so each step is once.

    checkpoint knows   events.1: 900 bytes
    killed run left    events.1: 1400 bytes   events.2
    after the resume   events.1:  900 bytes   replaced.2   events.3

Only files of this run are touched: with a fixed `version`, other runs may write to the same folder. A file names the
process that has written it. The checkpoint knows the processes up to then, and notes in the folder those that have
begun or resumed the run since then. A run that was killed before its first checkpoint begins again: all of its files
are set aside.

`purge_step` of TensorBoard would hide points by their step alone: too many of those that have a step of their own, such
as a number of samples, and too few of those that are logged at the end of an epoch.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

from cairn import opening

log = logging.getLogger(__name__)

_MARK = "tfevents"
"""TensorBoard reads each file with this in its name."""
_HEADER_BYTES = 100
"""A file without an event is smaller."""
_BEGAN_S = int(time.time())
"""Files of this process are younger. In a container, the process of another attempt may have the same number."""


@dataclass
class _Run:
    """The run that a logger writes for, and the processes that have written for it."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    processes: set[str] = field(default_factory=set)
    goes_on: bool = False
    """Whether it continues from a checkpoint that knows its files."""
    newer: dict[Path, int | None] = field(default_factory=dict)
    """Files with events after the checkpoint, and the size to cut them to; None: all of the file is newer."""


_RUNS: WeakKeyDictionary[TensorBoardLogger, _Run] = WeakKeyDictionary()


class EventFiles:
    """The event files of a logger.

    Args:
        logger: The logger.
    """

    def __init__(self, logger: TensorBoardLogger) -> None:
        self.logger = logger

    def state_dict(self) -> dict[str, Any]:
        """Write the events so far, and return how much of the files belongs to this position.

        Raises:
            OSError: The events could not be written.
        """
        if rank_zero_only.rank != 0 or not self._is_local:
            return {}
        self.logger.experiment.flush()
        run = self._run
        run.processes.add(_this_process(self.logger))
        return {
            "version": self.logger.version,
            "run": run.id,
            "processes": sorted(run.processes),
            "sizes": {name: path.stat().st_size for name, path in self._files()},
        }

    def sync(self) -> None:
        """Make the events so far survive a power cut. May be called on another thread.

        Raises:
            OSError: A file could not be synced.
        """
        if self._is_local:
            for _, path in self._files():
                with opening.for_reading(path) as file:
                    os.fsync(file.fileno())

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the version of the checkpoint. Its files are cut to the size that they had when training begins."""
        if "sizes" not in state:
            return
        logger, process = self.logger, _this_process(self.logger)
        logger.experiment.close()  # the next event opens a new file
        if logger.version != state["version"]:
            new = Path(logger.log_dir)
            logger._version, logger._experiment = state["version"], None
            _remove_if_unused(new)
            rank_zero_info(f"TensorBoard: the run continues in {logger.log_dir}.")
        sizes = state["sizes"]
        self._take_over(state, process)
        files = dict(self._files())
        self._run.newer = {
            path: sizes.get(name)
            for name, path in files.items()
            if name not in sizes or path.stat().st_size > sizes[name]
        }
        if missing := [name for name, size in sizes.items() if name not in files or files[name].stat().st_size < size]:
            rank_zero_warn(
                f"TensorBoard: {Path(logger.log_dir, missing[0])} has fewer events than the checkpoint knows: the "
                f"others are lost."
            )

    @rank_zero_only
    def note_start(self, checkpoints: Path) -> None:
        """Note this process. Files of earlier starts without a checkpoint are set aside when training begins.

        Args:
            checkpoints: The checkpoint directory. Without a checkpoint, nothing else says which run this is.
        """
        if not self._is_local:
            return
        folder, run, process = Path(self.logger.log_dir), self._run, _this_process(self.logger)
        where = os.path.relpath(checkpoints.resolve(), folder.resolve())  # the same after a move of both
        note = folder / f"attempts.{hashlib.sha256(where.encode()).hexdigest()[:12]}.txt"
        if not run.goes_on and note.exists():
            earlier = opening.read_text(note).split()
            own = [path for path in _found(folder) if _is_by(path, [process]) and _time_of(path) >= _BEGAN_S]
            run.newer = {path: None for path in _found(folder) if _is_by(path, earlier) and path not in own}
        _append(note, process)

    @rank_zero_only
    def training_begins(self) -> None:
        """Remove what was written after the checkpoint."""
        newer, self._run.newer = self._run.newer, {}
        for path, size in newer.items():
            if size is None:
                _set_aside(path)
            else:
                opening.cut(path, size)

    @property
    def _run(self) -> _Run:
        return _RUNS.setdefault(self.logger, _Run())

    def _take_over(self, state: Mapping[str, Any], process: str) -> None:
        """Learn which processes have written for the run of a checkpoint, and add this one to the note about them."""
        run = _RUNS[self.logger] = _Run(state["run"], set(state["processes"]), goes_on=True)
        note = Path(self.logger.log_dir, f"attempts.{run.id}.txt")
        if note.exists():
            run.processes.update(opening.read_text(note).split())
        run.processes.add(process)
        known = {path for _, path in self._files()}
        if others := sorted(path.name for path in note.parent.glob(f"*{_MARK}*") if path not in known):
            rank_zero_warn(
                f"TensorBoard: {note.parent} also has events of another run, which are left alone ({others[0]}). Give "
                f"each run a `version` of its own."
            )
        _append(note, process)

    @property
    def _is_local(self) -> bool:
        return "://" not in self.logger.log_dir

    def _files(self) -> list[tuple[str, Path]]:
        """Return the files of this run, by their path in the folder of the version.

        `add_scalars` makes folders in it.
        """
        folder, ours = Path(self.logger.log_dir), self._run.processes
        return [(path.relative_to(folder).as_posix(), path) for path in _found(folder) if _is_by(path, ours)]


def _this_process(logger: TensorBoardLogger) -> str:
    """Host and process as they stand in the name of a file; tensorboardX names the host only."""
    is_x = type(logger.experiment).__module__.startswith("tensorboardX")
    return socket.gethostname() if is_x else f"{socket.gethostname()}.{os.getpid()}"


def _found(folder: Path) -> list[Path]:
    """Event files in a folder and below it."""
    return sorted(folder.rglob(f"*{_MARK}*"))


def _append(note: Path, process: str) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    with opening.for_appending(note) as file:
        file.write(f"{process}\n".encode())


def _time_of(path: Path) -> int:
    """When a file was begun, in seconds since 1970: `events.out.tfevents.TIME.HOST.PID.NUMBER`."""
    text = path.name.partition(f"{_MARK}.")[2].partition(".")[0]
    return int(text) if text.isdecimal() else 0


def _is_by(path: Path, processes: Collection[str]) -> bool:
    """Whether one of the processes wrote a file: `events.out.tfevents.TIME.HOST.PID.NUMBER`."""
    writer = path.name.partition(f"{_MARK}.")[2].partition(".")[2]
    return any(writer == process or writer.startswith(f"{process}.") for process in processes)


def _set_aside(path: Path) -> None:
    """Take a file out of TensorBoard's sight; remove it if it has no event."""
    if path.stat().st_size < _HEADER_BYTES:
        path.unlink()
    else:
        path.rename(path.with_name(path.name.replace(f"events.out.{_MARK}", "replaced").replace(_MARK, "replaced")))


def _remove_if_unused(folder: Path) -> None:
    """Remove the folder of a version that was made for this start, if nothing was logged in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if all(_MARK in path.name and path.stat().st_size < _HEADER_BYTES for path in files):
        for path in files:
            path.unlink()
        try:
            folder.rmdir()
        except OSError:  # it has folders of other callbacks
            log.debug("%s is kept: it is not empty.", folder)
