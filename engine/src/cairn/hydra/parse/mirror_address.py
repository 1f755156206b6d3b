"""The address of a run's mirror: `checkpoint.mirror`, then the path of its directory below `paths.log_dir`.

The run directory keeps this path in `mirror.json`: it may be moved, and its mirror stays the same.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from cairn import opening, records
from cairn.errors import ConfigError
from cairn.hydra.parse.objects import in_yaml
from cairn.records import RecordError
from cairn.remote import address
from cairn.remote.address import Address, run_path
from cairn.run import summary
from cairn.run.directory import ADDRESS_FILE
from cairn.store import disk

_MOST_BYTES = 2**16


@dataclass(frozen=True)
class _Known:
    """Contents of `mirror.json`."""

    prefix: str
    """Value of `checkpoint.mirror`."""
    path: str
    """What follows it in the address."""


def of_run(config: DictConfig, run: Path) -> Address | None:
    """Return the address of the mirror of a run; None: it has none.

    Args:
        config: The configuration of the run.
        run: Its run directory.

    Raises:
        ConfigError: `checkpoint.mirror` is not an address, or lies in the run directory; or `mirror.json` cannot be
            read.
    """
    prefix = _prefix(config)
    if prefix is None:
        return None
    known = _known(run)
    if known is not None and known.prefix == str(prefix):
        path = known.path
    else:
        path = _default_path(config, run)
    where = _joined(prefix, path)
    address.check_apart(where, run)
    return where


def of_start(config: DictConfig, run: Path, resumed: Address | None) -> Address | None:
    """Return the address of the mirror of a run that starts now; None: it has none.

    Args:
        config: The configuration of the run.
        run: Its run directory.
        resumed: Address that the run was brought from: if it is below `checkpoint.mirror`, it stays that of the run.

    Raises:
        ConfigError: As for `of_run`.
    """
    prefix = _prefix(config)
    is_below = prefix is not None and resumed is not None and str(resumed).startswith(f"{prefix}/")
    return resumed if is_below else of_run(config, run)


def keep(config: DictConfig, run: Path, resumed: Address | None) -> None:
    """Keep the address of a run in its directory.

    Args:
        config: The configuration of the run.
        run: Its run directory.
        resumed: As for `of_start`.

    Raises:
        ConfigError: As for `of_run`, or the file cannot be written.
    """
    prefix, where = _prefix(config), of_start(config, run, resumed)
    if prefix is None or where is None:
        return
    found = _Known(str(prefix), str(where).removeprefix(f"{prefix}/"))
    if found == _known(run):
        return
    try:
        disk.put(run / ADDRESS_FILE, (json.dumps(asdict(found)) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"The run directory {run} cannot be written: {error.strerror}.") from error


def _prefix(config: DictConfig) -> Address | None:
    given = (config.get("checkpoint") or {}).get("mirror")
    if given is None:
        return None
    if not isinstance(given, str):
        raise ConfigError(in_yaml(f"checkpoint.mirror={given!r} must be an address, such as s3://bucket/prefix."))
    try:
        return address.parse(given)
    except ConfigError as error:
        raise ConfigError(f"checkpoint.mirror: {error}") from error


def _default_path(config: DictConfig, run: Path) -> str:
    """Return the path of a run directory below that of all runs. One that lies elsewhere is known by its name."""
    logs = (config.get("paths") or {}).get("log_dir")
    # Relative to where the command was typed: `hydra.job.chdir=true` changes the directory.
    below = run_path(os.path.normpath(run), os.path.normpath(summary.shell_directory() / logs)) if logs else None
    if below is None and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        # Jobs of several sweeps have equal names, such as `seed=1`.
        sweep = Path(os.path.normpath(summary.shell_directory() / HydraConfig.get().sweep.dir))
        job = run_path(os.path.normpath(run), str(sweep))
        below = f"{sweep.name}/{job}" if job else None
    return below or run.name


def _joined(prefix: Address, path: str) -> Address:
    try:
        return prefix.joined(path)
    except ConfigError as error:
        raise ConfigError(f"checkpoint.mirror: {error} It comes from the name of the run directory.") from error


def _known(run: Path) -> _Known | None:
    path = run / ADDRESS_FILE
    if not os.path.lexists(path):
        return None
    try:
        return records.read(_Known, records.parse(opening.read_bytes(path, _MOST_BYTES)))
    except (OSError, RecordError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): delete it, or restore it.") from error
