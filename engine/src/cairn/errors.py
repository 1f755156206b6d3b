"""The root of all errors that a user can mend, and those of data and models; checkpoint/errors.py holds the rest.

Each message says what, where, expected, found, and the way out. Each class inherits the builtin that a caller would
catch. `run` shows them as one sentence, without a traceback.
"""

from __future__ import annotations


class CairnError(Exception):
    """Something that the user can mend."""


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


class DataError(CairnError, ValueError):
    """The data are not what the run needs, or not what it had."""


class MissingFileError(CairnError, FileNotFoundError):
    """A file that was named is not there."""


class ModelError(CairnError, ValueError):
    """A model cannot be built or loaded like this."""


class SpecError(CairnError, TypeError):
    """A `_target_` names something that may not be built."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, fit for the middle of a sentence."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
