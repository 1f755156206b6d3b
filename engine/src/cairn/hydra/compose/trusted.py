"""Which targets of a stored configuration may be built: those on the whitelist, and those that the owner has written.

A run directory may come from other people: its `config.yaml` and the overrides in its `run.json` are theirs. The YAML
files of the project, and what is typed now, are the owner's; what they name is the owner's own code, as it is in a new
run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from cairn import opening, targets, whitelist
from cairn.errors import ConfigError
from cairn.hydra.compose import loader, stored

_IN_YAML = re.compile(r"""_target_["']?\s*:\s*["']?([\w.]+)""")
_DOTTED = re.compile(r"\w+(?:\.\w+)+")
_FILE = "file://"


def new_run(config: DictConfig) -> None:
    """Trust all targets of a configuration that was composed from the files of the project."""
    targets.trust_own(whitelist.named_in(OmegaConf.to_container(config)))


def check(config: DictConfig, where: str, overrides: Sequence[str], repeated: Sequence[str]) -> None:
    """Refuse the targets of a stored configuration that only the run directory or the checkpoint names.

    Args:
        config: The configuration that the run resumes with.
        where: Where it was stored, for the message.
        overrides: Overrides of the run that is about to start.
        repeated: Those among them that `resume=` has taken from the run directory.

    Raises:
        ConfigError: There are such targets; the message lists them.
    """
    found = dict.fromkeys(whitelist.named_in(OmegaConf.to_container(config)))
    odd = [name for name in found if whitelist.why_not_listed(name)]
    own_overrides = typed(overrides, repeated) if odd else []
    unknown = odd
    for written in (_written, _composed):  # composing takes longer, and finds what an interpolation gives
        if unknown:
            own = {targets.current_name(name) for name in written(own_overrides)}
            unknown = [name for name in unknown if targets.current_name(name) not in own]
    targets.trust_own(name for name in odd if name not in unknown)
    if unknown:
        them = "it" if len(unknown) == 1 else "them"
        raise ConfigError(
            f"{where} names {', '.join(map(ascii, unknown))} as _target_, which could run any code, and "
            f"neither the files of this project nor this command name {them}. If you know where it comes "
            f"from: trust_targets={','.join(unknown)}"
        )


def typed(overrides: Sequence[str], repeated: Sequence[str]) -> list[str]:
    """Return the overrides that the command itself gives.

    Args:
        overrides: Overrides of the run that is about to start.
        repeated: Those among them that `resume=` has taken from the run directory.
    """
    fallback = loader.fallback(overrides)
    of_run = {*repeated, *(fallback.without if fallback else ())}
    return [item for item in overrides if item not in of_run]


def composed(overrides: Sequence[str]) -> Any:
    """Return what the files of the project give with these overrides, as plain values; None: they do not compose.

    Args:
        overrides: Overrides that the owner of the project answers for.
    """
    hydra: Any = GlobalHydra.instance().config_loader()
    try:
        name = HydraConfig.get().job.config_name
        config = ConfigLoaderImpl.load_configuration(hydra, name, list(overrides), RunMode.RUN)
        with open_dict(config):
            config.pop("hydra")
        return OmegaConf.to_container(config, resolve=True)
    except Exception:  # the files do not compose any more
        return None


def _composed(own_overrides: Sequence[str]) -> Iterator[str]:
    """Yield the targets of the configuration that the files of the project and the command give, without the run."""
    yield from whitelist.named_in(composed(own_overrides))


def _written(own_overrides: Sequence[str]) -> Iterator[str]:
    """Yield the targets that the files of the project and the command name, without composing anything."""
    for override in own_overrides:
        yield from _DOTTED.findall(override)
    for node in _nodes(ConfigStore.instance().repo):
        yield from whitelist.named_in(node)
    hydra: Any = GlobalHydra.instance().config_loader()
    for source in hydra.get_sources():
        folder = source.path.removeprefix(_FILE)
        if source.scheme() == _FILE.removesuffix("://") and os.path.isdir(folder):
            for file in _yaml_files(folder):
                yield from _IN_YAML.findall(file)


def _nodes(repository: Any) -> Iterator[Any]:
    """Yield the registered configurations, without the stored one, which is registered to be composed."""
    for name, item in repository.items():
        if isinstance(item, dict):
            yield from _nodes(item)
        elif name != f"{stored.NAME}.yaml":
            yield OmegaConf.to_container(item.node)


def _yaml_files(folder: str) -> Iterator[str]:
    """Yield the texts of the YAML files below a folder, but not of run directories, which may lie in it."""
    for path, folders, files in os.walk(folder):
        if path != folder and {"run.json", "multirun.yaml"} & set(files):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".") and name != "site-packages"]
        for name in files:
            if name.endswith((".yaml", ".yml")):
                try:
                    yield opening.read_text(Path(path, name))
                except (OSError, ValueError):  # Hydra reports it where it is needed
                    continue
