"""`resume=ADDRESS`: a run that lies in an object store comes into its directory, and is resumed there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cairn.errors import ConfigError, ResumeError
from cairn.remote import address, origin
from cairn.remote.address import Address
from cairn.run import mirrored_run
from cairn.run.directory import RunDirectory

_address: Address | None = None
_KEYS = ("checkpoint.mirror", "ckpt_path", "eval", "init_weights", "resume")
"""Keys that may hold an address."""


def why_refused(find: Callable[[str], object]) -> str:
    """Return what is wrong with an address, such as a password in it, before Hydra writes it to a file; or nothing.

    Args:
        find: Returns the value of a key; None: it has none.
    """
    for key in _KEYS:
        value = find(key)
        if isinstance(value, str) and address.is_address(value):
            try:
                address.parse(value)
            except ConfigError as error:
                return f"{key}: {error}"
    return ""


def resumed_address() -> Address | None:
    """Return the address that `resume=` of this process's command names; None: it names none."""
    return _address


def brought(text: str, logs: Path) -> RunDirectory:
    """Return the directory of a run, with its run files; its checkpoints are brought when the run starts.

    Args:
        text: Address of the run.
        logs: Directory of all runs on this machine.

    Raises:
        ConfigError: It is not an address, the store refuses access, or another run has this directory.
        ResumeError: There is no run, or the store cannot be used.
    """
    global _address
    _address = origin.parse(text).run
    run, _ = mirrored_run.bring(text, logs, what=f"resume={text}")
    if run.record() is None:
        raise ResumeError(
            f"resume={text} holds checkpoints, but no run of this project: start a new run from one of them with "
            f"ckpt_path={text}."
        )
    return run
