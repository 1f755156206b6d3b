"""Checks before Hydra writes to a directory: Hydra itself would fail with a traceback, or write to another file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig, OmegaConf

from cairn import opening
from cairn.store import disk
from cairn.trackers.secrets import SECRET, keys_with_secrets

_FIRST_BYTES = 30_000
"""Enough for the files with the configuration, which Hydra and the start of a run write."""


def directory(path: Path, key: str) -> None:
    """Check that a directory can be written.

    Args:
        path: The directory.
        key: The key that names it.
    """
    if why := disk.why_unwritable(path, _FIRST_BYTES):
        refuse(f"{key}={path} cannot be written: {why}. Choose another directory, or set paths.log_dir=DIR.")


def files(written: Sequence[Path], folders: Sequence[Path]) -> None:
    """Check that files and folders are not links.

    Args:
        written: Files that are written, and may be missing.
        folders: Folders of such files.
    """
    odd = [*opening.links_among(written), *(folder for folder in folders if folder.is_symlink())]
    if odd:
        refuse(f"{odd[0]} is a link or not a regular file, and this run would write to it. Move it away.")


def no_secrets(config: DictConfig) -> None:
    """Check that no logger has an address with a password or a token: Hydra would store it with the run.

    Args:
        config: The composed configuration.
    """
    plain = OmegaConf.to_container(config.get("logger") or OmegaConf.create(), resolve=False)
    for key in keys_with_secrets(plain, "logger"):
        refuse(SECRET.format(key=key))


def refuse(message: str) -> NoReturn:
    """Print an error and exit with code 1."""
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(1)
