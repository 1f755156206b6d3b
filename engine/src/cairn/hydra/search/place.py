"""WHERE a search is: in a new directory, or in that of the same command, which was killed before its end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from cairn.errors import ConfigError, ResumeError
from cairn.hydra.command.arguments import literal, quoted
from cairn.hydra.command.overrides import key
from cairn.hydra.compose import merge
from cairn.run import config_file, lock, summary
from cairn.search import state
from cairn.search.state import Search
from cairn.store import disk

log = logging.getLogger(__name__)

_DIRECTORY = "hydra.sweep.dir"
_NOT_COMPARED = (
    *("hydra.mode", "hydra.launcher", "hydra/launcher", _DIRECTORY, "hydra.verbose", "hydra.job_logging"),
    *("hydra.sweeper.parallel", "hydra.sweeper.losers"),
)
"""Keys of a command that do not make it another search: it may go on with another launcher."""
_PER_COMMAND = ("hydra", "paths")
"""Keys of a configuration that differ between commands."""


def command(config: DictConfig) -> tuple[str, ...]:
    """Return the overrides that make a search what it is, as they were typed."""
    typed = [str(item) for group in ("task", "hydra") for item in config.hydra.overrides[group]]
    return tuple(item for item in typed if not _is_below(key(item), _NOT_COMPARED))


def _is_below(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith((f"{prefix}.", f"{prefix}@")) for prefix in prefixes)


def choose(config: DictConfig) -> IO[str]:
    """Choose the directory, and put it into the configuration.

    Args:
        config: Configuration of the sweep.

    Returns:
        A locked file: one process at a time works on a search.

    Raises:
        ConfigError: Another process works on it.
    """
    typed = [str(item) for item in config.hydra.overrides.hydra]
    if not any(key(item) == _DIRECTORY for item in typed):
        new = Path(str(config.hydra.sweep.dir)).absolute()
        begun = state.unfinished(new.parent, command(config))
        if begun is not None:
            log.info("This search goes on: %s (a new one: %s=DIR)", summary.relative(begun), _DIRECTORY)
            with suppress(OSError):  # only if it is empty: Hydra has made it for this command
                new.rmdir()
        chosen = literal(str(begun or new))
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweep.dir = chosen
            # Jobs compose their configuration from the overrides of the sweep.
            config.hydra.overrides.hydra = [*typed, f"{_DIRECTORY}={quoted(literal(chosen))}"]
    directory = Path(str(config.hydra.sweep.dir)).absolute()
    try:
        return lock.take(directory, 0.0)
    except ResumeError as error:
        raise ConfigError(
            f"This search is running already, in {directory}: wait for it, or start another one with {_DIRECTORY}=DIR."
        ) from error


def known(directory: Path, new: Search) -> Search:
    """Return the search in a directory, if there is one, or else the new one.

    Args:
        directory: Directory of the search.
        new: The search that the command describes.

    Raises:
        ConfigError: The directory holds another search.
        ResumeError: Its state cannot be read.
    """
    old = state.read(directory)
    if old is None:
        return new
    if different := sorted({*old.command} ^ {*new.command}):
        raise ConfigError(
            f"{directory} holds a search whose command differs in {' '.join(different)}: repeat its command, or start "
            f"another search with {_DIRECTORY}=DIR."
        )
    for name in ("metric", "mode", "sampler", "seed", "eta", "schedule", "rungs", "num_trials", "parameters"):
        then, now = (_plain(getattr(item, name)) for item in (old, new))
        if then != now:
            raise ConfigError(
                f"{directory} holds a search with {name}={then!r}, and with today's configuration it is {now!r}: undo "
                f"that change, or start another search with {_DIRECTORY}=DIR."
            )
    return old


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def save_config(config: DictConfig, is_begun: bool = False) -> None:
    """Write `multirun.yaml`, as Hydra's own sweeper does.

    Args:
        config: Configuration of the sweep.
        is_begun: The search goes on. Keys that were edited since it began are logged, and the file stays as it is.
    """
    file, text = Path(str(config.hydra.sweep.dir)) / "multirun.yaml", OmegaConf.to_yaml(config)
    edited = _edited(file, OmegaConf.to_container(OmegaConf.create(text))) if is_begun else {}
    if not edited:
        disk.put(file, text.encode())
        return
    log.warning("Edited in configs/ since this search began: %s.", merge.describe(edited))
    log.warning(
        "Trials that have begun keep the old values, and cannot be compared with new ones: undo the edit, or start "
        "another search with %s=DIR.",
        _DIRECTORY,
    )


def _edited(file: Path, now: Any) -> dict[str, merge.Change]:
    """Return the keys whose values differ from those in a file, with both; none if it cannot be read."""
    try:
        before = config_file.read_any(file)
    except (OSError, ValueError):
        return {}
    old, new = merge.flatten(before), merge.flatten(now)
    names = [name for name in {**old, **new} if not _is_below(name, _PER_COMMAND)]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}
