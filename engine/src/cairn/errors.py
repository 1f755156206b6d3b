"""All errors that a user can fix, in one tree; each also inherits the builtin that a caller would catch.

    CairnError
    |-- ConfigError             ValueError         a parameter or a configuration value
    |-- DataError               ValueError         the training data
    |-- ModelError              ValueError         building or loading a model
    |-- SpecError               TypeError          a `_target_` that may not be built
    |-- UnsafeStateError        TypeError          a state that could not be loaded again
    |-- MissingFileError        FileNotFoundError
    |-- SaveError               OSError            writing a checkpoint
    |-- RemoteError             OSError            an object store, such as a bucket
    |-- ResumeError             RuntimeError       continuing a run
    `-- CheckpointError         RuntimeError       reading a checkpoint
        |-- CorruptCheckpointError
        `-- NewerFormatError

A message says what happened, then what to do. The command line prints it without a traceback.
"""

from __future__ import annotations

import re
from typing import Literal


class CairnError(Exception):
    """An error that the user can fix.

    Args:
        *args: The message.
        parameter: The parameter of this library that the message is about, which it names as `parameter=value` or
            `parameter: ...`. An interface that knows it under another name can then put that name in its place.
    """

    def __init__(self, *args: object, parameter: str = "") -> None:
        super().__init__(*args)
        self.parameter = parameter


class ConfigError(CairnError, ValueError):
    """A parameter or a configuration value that cannot work."""


class DataError(CairnError, ValueError):
    """Training data that the run cannot use, or that differs from what it used before."""


class ModelError(CairnError, ValueError):
    """A model that cannot be built or loaded like this."""


class SpecError(CairnError, TypeError):
    """A `_target_` that may not be built."""


class UnsafeStateError(CairnError, TypeError):
    """A state that could not be loaded again with `weights_only=True`."""


class MissingFileError(CairnError, FileNotFoundError):
    """A named file that does not exist."""


class SaveError(CairnError, OSError):
    """A checkpoint that could not be written."""


RemoteKind = Literal["missing", "no_bucket", "refused", "full", "unavailable", "misused"]
"""What an object store lacks or refuses.

    missing       an object
    no_bucket     the bucket or container itself
    refused       credentials are missing, wrong or expired, or lack a right
    full          the quota or the disk
    unavailable   the network or the server, which may recover
    misused       an address or a setting that cannot work
"""


class RemoteError(CairnError, OSError):
    """An object store that cannot be used.

    Args:
        *args: The message.
        kind: What is wrong.
    """

    def __init__(self, *args: object, kind: RemoteKind = "unavailable") -> None:
        super().__init__(*args)
        self.kind: RemoteKind = kind


class ResumeError(CairnError, RuntimeError):
    """A run that cannot continue from what is there."""


class CheckpointError(CairnError, RuntimeError):
    """A checkpoint file that cannot be used."""


class CorruptCheckpointError(CheckpointError):
    """A checkpoint file that differs from its manifest, or has none."""


class NewerFormatError(CheckpointError):
    """A checkpoint that a later version of Cairn wrote."""


def named(error: CairnError, name: str) -> str:
    """Return the message of an error that is about a parameter, with another name for the parameter."""
    return renamed(str(error), error.parameter, name)


def renamed(message: str, parameter: str, name: str) -> str:
    """Return a message with another name for its parameter, which it names as `parameter=value` or `parameter: ...`.

    Args:
        message: The message.
        parameter: The parameter; the message is unchanged if this is empty.
        name: What an interface calls it.
    """
    if not parameter:
        return message
    # Only the first mention is the parameter; a later one may be part of a value, such as a path.
    return re.sub(rf"(?<![\w.]){re.escape(parameter)}(?=[=:])", lambda _: name, message, count=1)


def first_line(error: BaseException) -> str:
    """First line of the message of an error, without the full stop; the name of its type if it has no message."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
