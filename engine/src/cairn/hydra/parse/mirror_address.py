"""The address of a run's mirror: `checkpoint.mirror`, then the path of its directory below `paths.log_dir`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from cairn.errors import ConfigError
from cairn.hydra.parse.objects import in_yaml
from cairn.remote import address
from cairn.remote.address import Address, run_path


def of_run(config: DictConfig, run: Path) -> Address | None:
    """Return the address of the mirror of a run; None: it has none.

    Args:
        config: The configuration of the run.
        run: Its run directory.

    Raises:
        ConfigError: `checkpoint.mirror` is not an address.
    """
    prefix = (config.get("checkpoint") or {}).get("mirror")
    if prefix is None:
        return None
    if not isinstance(prefix, str):
        raise ConfigError(in_yaml(f"checkpoint.mirror={prefix!r} must be an address, such as s3://bucket/prefix."))
    logs = str((config.get("paths") or {}).get("log_dir") or "")
    try:
        return address.parse(prefix).joined(run_path(str(run), logs) or run.name)
    except ConfigError as error:
        raise ConfigError(f"checkpoint.mirror: {error}") from error
