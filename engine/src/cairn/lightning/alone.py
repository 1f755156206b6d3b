"""Checks that a `Checkpointer` has its trainer, and the names in its directory, to itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from cairn.errors import ConfigError
from cairn.store import names

_LINKS = {names.LAST, names.BEST}


def check(checkpointer: Any, others: list[Any], trainer: Trainer) -> None:
    """Check the other callbacks of the trainer.

    Args:
        checkpointer: The `Checkpointer`.
        others: The other ones of the trainer.
        trainer: The trainer.

    Raises:
        ConfigError: There are two of them, or another callback writes files with the names of our links.
    """
    directory = checkpointer.policy.directory
    if others:
        raise ConfigError(
            f"The Trainer has two Checkpointers, of {directory} and of {others[0].policy.directory}: pass one, with "
            f"further `triggers` and `rules` if there are more reasons to save."
        )
    if trainer.callbacks.count(checkpointer) > 1:
        raise ConfigError(f"The Trainer has the Checkpointer of {directory} twice: pass it once.")
    for callback in trainer.callbacks:
        if (taken := _taken(callback)) and _is_same(getattr(callback, "dirpath", None), directory):
            raise ConfigError(
                f"{type(callback).__name__} and the Checkpointer would both write {taken} in {directory}: give "
                f"{type(callback).__name__} another dirpath."
            )


def _taken(callback: Any) -> str:
    """Return the name of a link of ours that Lightning's ModelCheckpoint uses for a file; '' if there is none."""
    ending = getattr(callback, "FILE_EXTENSION", ".ckpt")
    last = getattr(callback, "CHECKPOINT_NAME_LAST", "") if getattr(callback, "save_last", None) else ""
    used = {f"{name}{ending}" for name in (last, getattr(callback, "filename", None)) if name}
    return min(used & _LINKS, default="")


def _is_same(dirpath: Any, directory: Path) -> bool:
    return isinstance(dirpath, str | os.PathLike) and Path(dirpath).resolve() == directory.resolve()
