"""What the directory of one job of a sweep is called: by its overrides, so that a repeated sweep finds its jobs."""

from __future__ import annotations

import hashlib
import re

from omegaconf import OmegaConf

_LONGEST = 240
"""Bytes: file systems take 255."""
_LONG = 36
"""Bytes of one override that keeps others from being read, where there are too many."""


def job_dir(overrides: str) -> str:
    """A name for one folder: values may hold slashes, and many overrides are longer than a name may be.

    Args:
        overrides: as Hydra joins them, `checkpoint.save_interval=50,seed=1`.
    """
    name = overrides.replace("/", "_")
    if len(name.encode()) > _LONGEST:
        parts = re.split(r",(?=[+~]*[\w.@]+=)", name)  # not at a comma inside of a value
        name = ",".join(_cut(part, _LONG) for part in parts)
    if name == overrides and name not in ("", ".", ".."):
        return name
    return f"{_cut(name, _LONGEST - 9)}-{_digest(overrides)}" if name else "defaults"


def _cut(text: str, length: int) -> str:
    """No longer than so many bytes."""
    data = text.encode()
    return text if len(data) <= length else data[: length - 1].decode(errors="ignore") + "~"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def register() -> None:
    """Let configs say `${job_dir:...}`."""
    OmegaConf.register_new_resolver("job_dir", job_dir, replace=True)
