"""The checkpoint that a new run starts from: a file, one in W&B, or one in an object store."""

from __future__ import annotations

from pathlib import Path

from cairn.remote import origin
from cairn.remote.address import is_address
from cairn.wandb import start as wandb_start


def local_file(named: str, run: Path) -> Path:
    """Return the file that a run starts from; one that is elsewhere is fetched into the run directory, once.

    Args:
        named: A path, `wandb:entity/project/name:alias`, or an address such as `s3://bucket/prefix/RUN`.
        run: The run directory.

    Raises:
        CairnError: It could not be fetched.
    """
    if is_address(named):
        return origin.fetched(named, run / "start")
    return wandb_start.local_file(named, run)
