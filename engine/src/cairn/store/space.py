"""Check before training that a directory can be written and that checkpoints will fit."""

from __future__ import annotations

import logging
from pathlib import Path

from cairn import units
from cairn.errors import ConfigError
from cairn.policy import keep
from cairn.store import disk, links
from cairn.store.history import History

log = logging.getLogger(__name__)


def check_writable(directory: Path) -> None:
    """Create a directory and try to write to it.

    Raises:
        ConfigError: That is not possible.
    """
    if why := disk.why_unwritable(directory):
        raise ConfigError(
            f"directory={directory} cannot be written: {why}. Fix that, or choose another directory.",
            parameter="directory",
        )
    if not links.are_possible(directory):
        log.info("%s has no symbolic links: last.ckpt and best.ckpt are small text files there.", directory)


def check_space(history: History | None, num_bytes: int, num_shards: int = 1) -> None:
    """Check that the disk has room for checkpoints; log a warning if it has room for one only.

    Args:
        history: The checkpoints that are there, and the rules for the next ones; None: this process only writes shards.
        num_bytes: Estimated size of a checkpoint: all shards go to the same disk.
        num_shards: In how many files of about the same size it is written, each by a process with a limit of its own.

    Raises:
        ConfigError: There is no room for the first one, or this process may not write files of that size.
    """
    limit_bytes, file_bytes = disk.max_file_bytes(), -(-num_bytes // num_shards)
    if limit_bytes is not None and file_bytes > limit_bytes:
        what = "A checkpoint of this run" if num_shards == 1 else f"Each of the {num_shards} shards of a checkpoint"
        raise ConfigError(
            f"{what} needs about {units.format_bytes(file_bytes)}, and this process may not write files over "
            f"{units.format_bytes(limit_bytes)}: raise the limit with ulimit -f."
        )
    if history is None:
        return
    first, second = keep.peak_bytes(history.rules, history.saved, history.mode, num_bytes, count=2)
    free = disk.free_bytes(history.directory) + history.num_untidy_bytes
    needed, available = units.format_bytes(num_bytes), units.format_bytes(free)
    if first > free:
        raise ConfigError(
            f"A checkpoint of this run needs about {needed}, and only {available} are free in "
            f"directory={history.directory}: free some space, or choose another directory.",
            parameter="directory",
        )
    if second > free:
        log.warning(
            "A checkpoint of this run needs about %s, and %s are free in %s: the second one will not fit, because the "
            "first one stays until the second is committed.",
            needed,
            available,
            history.directory,
        )
