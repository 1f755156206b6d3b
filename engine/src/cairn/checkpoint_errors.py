"""What can go wrong with checkpoints, as a tree below `CairnError`."""

from __future__ import annotations

from cairn.errors import CairnError


class ConfigError(CairnError, ValueError):
    """A value in the configuration cannot work."""


class ResumeError(CairnError, RuntimeError):
    """A run cannot go on from what is there."""


class CheckpointError(CairnError, RuntimeError):
    """A checkpoint file cannot be used."""


class CorruptCheckpointError(CheckpointError):
    """A checkpoint file is not what its manifest says."""


class NewerFormatError(CheckpointError):
    """A checkpoint was written by a later version."""


class UnsafeStateError(CairnError, TypeError):
    """The state to save holds something that could not be loaded again safely."""


class SaveError(CairnError, OSError):
    """A checkpoint could not be written."""
