"""Decides what a run goes on from, and whether a file can be started from; touches nothing."""

from __future__ import annotations

import logging
import re
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn.errors import CheckpointError, ResumeError
from cairn.store import disk
from cairn.store.catalog import Catalog, Rejected, verify_file
from cairn.types import Saved

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """What to go on from."""

    path: Path | None
    """None: from the beginning."""
    saved: Saved | None = None
    rejected: tuple[Rejected, ...] = ()


def wait_for_writers(directory: Path, patience_s: float = 600.0) -> None:
    """Let a writer finish whose training process was killed: what it commits is what to go on from.

    Raises:
        ResumeError: it does not.
    """
    progress, end = -1, 0.0
    while disk.is_locked(directory):
        if progress < 0:
            log.info("The last checkpoint before is still being written: waiting for it.")
        if (now := _half_written_bytes(directory)) != progress:
            progress, end = now, time.monotonic() + patience_s
        if time.monotonic() > end:
            raise ResumeError(
                f"A process still writes to {directory} and does not end: is its disk gone? Stop it first."
            )
        time.sleep(0.05)


def _half_written_bytes(directory: Path) -> int:
    sizes = 0
    for path in Catalog(directory).leftovers():
        with suppress(OSError):  # it has got its name meanwhile
            sizes += path.lstat().st_size
    return sizes


def find_resume_point(directory: Path) -> ResumePoint:
    """Go on from the newest whole checkpoint in `directory`, if there is one.

    Raises:
        ResumeError: there are committed checkpoints, and not one of them is whole; or a later version wrote the newest.
    """
    saved, rejected = Catalog(directory).newest_intact()
    if newer := [item for item in rejected if item.newer]:
        raise ResumeError(f"{newer[-1].path} cannot be used: {newer[-1].why}.")
    # One without a manifest is the first save of the run, cut off, which the next start removes; more were committed.
    if saved is None and (len(rejected) > 1 or any(item.committed for item in rejected)):
        listing = "; ".join(f"{item.path.name}: {item.why}" for item in rejected)
        raise ResumeError(f"No checkpoint in {directory} is whole ({listing}): move them away to start afresh.")
    return ResumePoint(directory / saved.name if saved else None, saved, tuple(rejected))


def load(path: Path, verified: bool = False) -> dict[str, Any]:
    """Read a checkpoint file, mapped into memory.

    Args:
        verified: its checksum has been compared already.

    Raises:
        CheckpointError: it is missing, no checkpoint, or holds more than tensors and plain values.
    """
    import torch  # not above: to find what a run goes on from takes no torch

    path = _existing(path)
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is no checkpoint: it is not a file that torch.save wrote.")
    if not verified:
        _verify(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a file that is not what it seems
        raise CheckpointError(f"{path} {_refusal(str(error))}") from error
    if not isinstance(state, dict) or "state_dict" not in state:
        raise CheckpointError(f"{path} is no Lightning checkpoint: it has no 'state_dict'.")
    return state


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory: name a file in it, or go on with a run by resume=RUN_DIR.")
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"{path} is a link to {path.readlink()}, which is not there.")
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint {path}.")
    return path.resolve()


def _refusal(why: str) -> str:
    """What torch says of a pickle that it does not load, without its advice to load it all the same."""
    if named := re.search(r"GLOBAL (\S+)", why):
        return (
            f"is refused: it names {named[1]}, and nothing but tensors and plain values is loaded, lest it runs code."
        )
    return f"cannot be loaded: {why.splitlines()[0]}"


def _verify(path: Path) -> None:
    try:
        verify_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}.") from error


def check_epochs_left(path: Path, contents: Mapping[str, Any], max_epochs: int | None) -> None:
    """Compare where a checkpoint stands with where the run shall end.

    Raises:
        ResumeError: it is beyond that already.
    """
    if max_epochs is not None and -1 < max_epochs < contents.get("epoch", 0):
        raise ResumeError(
            f"{path} stands in epoch {contents['epoch']}, beyond trainer.max_epochs={max_epochs}: give more epochs, or "
            f"take its weights alone with init_weights=."
        )


def check_fits(path: Path, weights: Mapping[str, Any], model: Mapping[str, Any], most: int = 4) -> None:
    """Compare the weights of a checkpoint with those that the model has: names and shapes.

    Raises:
        CheckpointError: they differ; the first few differences are named.
    """
    differences = [
        f"{key} is only in the {'file' if key in weights else 'model'}" for key in weights.keys() ^ model.keys()
    ]
    differences += [
        f"{key} is {_shape(weights[key])} in the file and {_shape(model[key])} in the model"
        for key in weights.keys() & model.keys()
        if _shape(weights[key]) != _shape(model[key])
    ]
    if differences:
        more = f", and {len(differences) - most} more" if len(differences) > most else ""
        raise CheckpointError(f"{path} is of another model: {'; '.join(sorted(differences)[:most])}{more}.")


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))
