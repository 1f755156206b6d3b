"""Refuses a directory that is not the same on all nodes, before something is saved that another node has to read."""

from __future__ import annotations

import socket
from pathlib import Path

from cairn.errors import ConfigError
from cairn.lightning.agreement import Agreement
from cairn.store import shared
from cairn.store.shared import Process


def check(agreement: Agreement, rank: int, directory: Path, cure: str, patience_s: float = shared.PATIENCE_S) -> None:
    """Check that all ranks see what rank 0 writes to a directory. All ranks call this.

    Args:
        agreement: Between the ranks.
        rank: Rank of this process.
        directory: The directory.
        cure: A sentence: what else to do than to choose another directory.
        patience_s: How long a rank looks for the file of rank 0, in seconds.

    Raises:
        ConfigError: They do not, on all ranks.
    """
    here, name, error = Process(rank, socket.gethostname()), "", None
    if agreement.leads:
        try:
            name = shared.announce(directory)
        except OSError as failed:
            error = f"directory={directory} cannot be written: {failed}. Fix that, or choose another directory."
    name = agreement.share(name)
    found = agreement.gather(here if name and not shared.sees(directory, name, patience_s) else None)
    if blind := [process for process in found if process is not None]:
        error = f"{shared.why_not(directory, here, blind)} Choose a directory on a file system that they share. {cure}"
    if agreement.leads and name:
        shared.withdraw(directory, name)
    if error := agreement.share(error):
        raise ConfigError(error, parameter="directory")
