"""Loggers with a state, such as `cairn.CSVLogger`: a resume sets them back to the position of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

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
        keeper: Any = logger
        if isinstance(logger, TensorBoardLogger) and not hasattr(logger, "state_dict"):
            keeper = EventFiles(logger)
        if hasattr(keeper, "state_dict") and hasattr(keeper, "load_state_dict"):
            name = type(logger).__name__
            classes[name] = number = classes.get(name, -1) + 1
            found[f"{name} {number}"] = keeper
    return found
