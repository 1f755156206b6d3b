"""What the directory of one job of a sweep is called: by its overrides, so that a repeated sweep finds its jobs."""

from __future__ import annotations

import hashlib

from omegaconf import OmegaConf

_LONGEST = 240
"""Bytes: file systems take 255."""


def job_dir(overrides: str) -> str:
    """A name for one folder: values may hold slashes, and many overrides are longer than a name may be.

    Args:
        overrides: as Hydra joins them, `checkpoint.save_interval=50,seed=1`.
    """
    name = overrides.replace("/", "_")
    if name == overrides and len(name.encode()) <= _LONGEST and name not in ("", ".", ".."):
        return name
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    return f"{name.encode()[: _LONGEST - 10].decode(errors='ignore')}-{digest}" if name else "defaults"


def register() -> None:
    """Let configs say `${job_dir:...}`."""
    OmegaConf.register_new_resolver("job_dir", job_dir, replace=True)
