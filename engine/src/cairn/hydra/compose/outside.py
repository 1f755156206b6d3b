"""Where a stored configuration would write outside of its run directory: only where the owner has said so.

The `config.yaml` of a run directory from other people may name any directory. What the files of the project or the
command give for the same key is the owner's; anything else is refused by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.command import overrides as given
from cairn.hydra.command.arguments import literal, quoted
from cairn.hydra.compose import trusted
from cairn.store.catalog import Catalog

_DIRECTORY = re.compile(
    r"(?:.*_)?(?:dir|dirname|dirpath|directory|folder|logdir|save_path|base_url|tracking_uri|server_url|space_id)"
)
"""Names of arguments that say where something is written, or which server it is sent to."""
_PLAIN = re.compile(r"[\w./:@-]+", re.ASCII)
_FILE = "filename"
"""Relative to a directory that another argument names, if it does not lead out of it."""
_HYDRA_COMPOSES = ("hydra", "paths")
_DATA = "data."
"""Most directories below this group are read: one that is there already is not asked about."""
_CHECKPOINTS = "checkpoint.dirpath"
_STORES, _MOST_LEVELS = ("mlflow", "trackio"), 4


def check(config: DictConfig, run: Path, run_id: str, overrides: Sequence[str], repeated: Sequence[str]) -> None:
    """Refuse directories outside of a run that only the run directory names.

    Args:
        config: The configuration that the run resumes with.
        run: The run directory.
        run_id: Id of the run.
        overrides: Overrides of the run that is about to start.
        repeated: Those among them that `resume=` has taken from the run directory.

    Raises:
        ConfigError: There are such directories; the message lists them.
    """
    found = {
        key: value
        for key, value in _written(OmegaConf.to_container(config, resolve=True), "")
        if not _is_below(value, run) and not _is_known(key, value, run_id) and not _is_store(key, value, run)
    }
    if not found:
        return
    typed = trusted.typed(overrides, repeated)
    keys = set(map(given.key, typed))
    own = dict(_written(_own(typed, overrides), ""))
    unknown = {key: value for key, value in found.items() if key not in keys and not _is_own(value, own.get(key), run)}
    if unknown:
        named = " ".join(f"++{ascii(key)[1:-1]}={_typed(value)}" for key, value in unknown.items())
        raise ConfigError(
            f"This run would write outside of its directory {run}: its config.yaml names other places, and neither the "
            f"files of this project nor this command name them. If they are right, repeat them in this command; if "
            f"not, name better ones: {named}"
        )


def _typed(value: str) -> str:
    """Return a value as it can be typed in an override."""
    return value if _PLAIN.fullmatch(value) else ascii(quoted(literal(value)))[1:-1]


def _written(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the keys of a plain configuration that say where something is written, with their values."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if key or name not in _HYDRA_COMPOSES:
                yield from _written(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _written(value, f"{key}.{number}")
    elif isinstance(node, str):
        name = key.rpartition(".")[2]
        leads_out = os.path.isabs(node) or ".." in Path(node).parts
        if _DIRECTORY.fullmatch(name) or (name == _FILE and leads_out):
            yield key, node


def _is_below(value: str, folder: Path) -> bool:
    """Return whether a directory lies below another one, also behind links and if its user expands `~` and `$NAME`."""
    if "://" in value:
        return False
    try:
        real = [Path(os.path.realpath(path)) for path in (value, os.path.expanduser(os.path.expandvars(value)))]
        return all(path.is_relative_to(os.path.realpath(folder)) for path in real)
    except (OSError, ValueError):  # a name that no file can have
        return False


def _absolute(value: str) -> str:
    return value if "://" in value else os.path.abspath(value)


def _is_known(key: str, value: str, run_id: str) -> bool:
    """Return whether the directory is one that this run has used before, or is only read."""
    if key == _CHECKPOINTS:
        try:
            newest = Catalog(Path(value)).newest()
        except (OSError, ValueError):
            return False
        return newest is not None and newest.run == run_id
    return key.startswith(_DATA) and os.path.isdir(_absolute(value))


def _is_store(key: str, value: str, run: Path) -> bool:
    """Return whether a directory is that of a tracker which the runs of one directory of logs share.

    A run is two or three levels below that directory, which belongs to the owner of this run, not to who has made it.
    """
    if not key.endswith(".store_dir") or "://" in value:
        return False
    place = Path(os.path.realpath(_absolute(value).rpartition(os.sep)[0] or os.sep))
    logs = Path(os.path.realpath(run)).parents[:_MOST_LEVELS]
    return os.path.basename(_absolute(value)) in _STORES and place in logs


def _is_own(value: str, own: str | None, run: Path) -> bool:
    """Return whether the project gives this value; inside of the run, it may have become a link."""
    is_link = Path(_absolute(value)).is_relative_to(run)
    return own is not None and _absolute(own) == _absolute(value) and not is_link


def _own(typed: Sequence[str], overrides: Sequence[str]) -> Any:
    """Return what the project gives with the options of the run, which are its own files, but without its values."""
    hydra: Any = GlobalHydra.instance().config_loader()
    options = [
        item
        for item in overrides
        if item not in typed and hydra.repository.group_exists(given.key(item).partition("@")[0])
    ]
    return trusted.composed([*options, *typed]) or trusted.composed(typed) or {}
