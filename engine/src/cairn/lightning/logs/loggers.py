"""Loggers with a state, such as `cairn.CSVLogger`: a resume sets them back to the position of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn.errors import SaveError
from cairn.lightning.logs.event_files import EventFiles


def states(trainer: Trainer) -> dict[str, Any]:
    """Return the state of each logger that has one.

    Raises:
        SaveError: A logger could not write the rows up to this position.
    """
    with _as_a_failed_save():
        found = {name: (logger, logger.state_dict()) for name, logger in _resumable(trainer).items()}
    return {name: state for name, (logger, state) in found.items() if _is_state(logger, state)}


def _is_state(logger: Any, state: Any) -> bool:
    """Whether a logger has really returned a state: a stand-in for one, such as a `Mock`, has a method of any name."""
    return isinstance(state, Mapping) or hasattr(type(logger), "state_dict")


def restore(trainer: Trainer, saved: Mapping[str, Any]) -> None:
    """Restore what `states` returned. Our loggers change no file before `training_begins` or their next row."""
    for name, logger in _resumable(trainer).items():
        if name in saved:
            logger.load_state_dict(saved[name])
    for name in dict.fromkeys(_name(logger) for logger in trainer.loggers if not _can_resume(logger)):
        rank_zero_warn(
            f"{name} has no state that a checkpoint could hold: what it logged after this checkpoint stays there, and "
            f"is logged again. TensorBoardLogger and the loggers of Cairn have each row once."
        )


def note_start(trainer: Trainer, checkpoints: Path) -> None:
    """Let event files know which run they belong to: one without a checkpoint is known by its directory.

    Args:
        trainer: The trainer.
        checkpoints: The checkpoint directory.
    """
    for logger in _resumable(trainer).values():
        if isinstance(logger, EventFiles):
            logger.note_start(checkpoints)


def training_begins(trainer: Trainer) -> None:
    """Remove what was logged after the checkpoint: until now, the start could have been refused."""
    for logger in _resumable(trainer).values():
        getattr(logger, "training_begins", lambda: None)()


def sync(trainer: Trainer) -> None:
    """Sync the rows up to the last `states` to disk. The writer calls this while training continues.

    Raises:
        SaveError: A logger could not write its rows.
    """
    with _as_a_failed_save():
        for logger in _resumable(trainer).values():
            getattr(logger, "sync", lambda: None)()


@contextmanager
def _as_a_failed_save() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise SaveError(f"The metrics up to this checkpoint could not be written: {why}.") from error


def _resumable(trainer: Trainer) -> dict[str, Any]:
    """Return the loggers that have a state, by class and number, such as `CSVLogger 0`."""
    classes: dict[str, int] = {}
    found: dict[str, Any] = {}
    for logger in trainer.loggers:
        if not (_is_tensorboard(logger) or _has_state(logger)):
            continue
        keeper = EventFiles(logger) if _is_tensorboard(logger) else logger
        name = type(logger).__name__
        classes[name] = number = classes.get(name, -1) + 1
        found[f"{name} {number}"] = keeper
    return found


def _can_resume(logger: Any) -> bool:
    """Whether a logger has a state, or writes nothing."""
    return _is_tensorboard(logger) or _has_state(logger) or isinstance(logger, DummyLogger)


def _has_state(logger: Any) -> bool:
    return hasattr(logger, "state_dict") and hasattr(logger, "load_state_dict")


def _is_tensorboard(logger: Any) -> TypeGuard[TensorBoardLogger]:
    return isinstance(logger, TensorBoardLogger) and not hasattr(logger, "state_dict")


def _name(logger: Any) -> str:
    return f"{type(logger).__module__.partition('.')[0]}'s {type(logger).__name__}"
