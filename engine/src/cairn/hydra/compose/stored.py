"""Compose the configuration of a run from the run's own files, for when `configs/` has changed too much to compose it.

The stored `config.yaml` is the primary configuration; the files in `configs/` are read only for the groups that the
new command names:

    config.yaml            resolved values                     ┐
    .hydra/config.yaml     interpolations, where they still    ├ before ┐
                           give the stored value               ┘        ├ now
    new overrides          trainer.max_epochs=5, logger=many, +a.b=1 ───┘
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cairn import targets
from cairn.errors import ResumeError, first_line
from cairn.hydra.command import overrides as given
from cairn.hydra.command import resolvers
from cairn.hydra.compose import defaults, interpolation, merge
from cairn.hydra.compose.merge import as_config
from cairn.run import config_file
from cairn.run.directory import RunDirectory, RunRecord

PACKAGED = "pkg://cairn.hydra.configs"
NAME = "cairn_stored"
"""Name of the stored configuration for Hydra, which its error messages contain."""
_ABSENT = object()


class Misnamed(MissingConfigException):
    """A command that names a primary file that does not exist, and that the run was not started with."""


class StoredRun:
    """A run that can be resumed from its directory.

    Args:
        loader: Hydra's loader, which knows where the files of the groups are.
        run: Directory of the run.
        record: Record of the run.
        config_name: Name of the project's primary file, which may not compose.

    Raises:
        Misnamed: The command names a primary file that does not exist, and the run has another one.
    """

    def __init__(self, loader: ConfigLoaderImpl, run: RunDirectory, record: RunRecord, config_name: str | None) -> None:
        _check_name(loader, run, config_name)
        self.run, self.recorded = run, given.recorded(record.overrides)
        self._loader = ConfigLoaderImpl(available(loader))
        self._searchpath = _searchpath(loader, config_name)
        self._stored = targets.with_current_names(run.config())
        self._own = as_config(self._stored)
        self._choices = _choices(run, record)

    def unlinked(self) -> list[str]:
        """Return the keys that keep their stored values because their interpolations are not harmless."""
        flat = merge.flatten(_composed_file(self.run))
        return [name for name, source in flat.items() if isinstance(source, str) and not resolvers.is_harmless(source)]

    @property
    def choices(self) -> dict[str, Any]:
        """Options of the groups that the run was composed from, as far as they are known."""
        return dict(self._choices)

    def compose(self, overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
        """Return the configuration of the run, and the same with the new overrides, neither of them resolved.

        Args:
            overrides: Overrides of the new command. Those that the run has recorded are already part of it.

        Raises:
            ConfigCompositionException: An override cannot be applied to the stored configuration.
        """
        fresh = [override for override in overrides if override not in self.recorded]
        parsed = OverridesParser.create().parse_overrides(fresh)
        groups = [item.key_or_group for item in parsed if self._is_group(item) and not item.is_add()]
        for item in parsed:
            self._check(item)
        own = as_config(defaults.completed(self._stored, [item.key_or_group for item in parsed]))
        own = interpolation.restore(own, _composed_file(self.run))
        if not groups:
            return own, self._load(own, {}, [self._line(item) for item in parsed])
        # A group is replaced as a whole: without its stored values, and with the recorded overrides of its keys.
        rest = {name: node for name, node in _plain(own).items() if name not in {_package(group) for group in groups}}
        below = [item for item in self.recorded if any(item.lstrip("+~").startswith(f"{group}.") for group in groups)]
        old = {group: self._choices.get(group) for group in groups}
        try:
            before = self._load(rest, old, below)
        except Exception:  # the old option does not exist any more, or does not compose
            before = own
        now = self._load(rest, old, [*below, *map(self._line, parsed)])
        # Only what differs between the two options: values that another file has set in the group stay.
        return own, as_changed(own, before, now)

    def hydra(self, config_name: str | None, overrides: Sequence[str]) -> DictConfig:
        """Return Hydra's own configuration for this run, see `hydra_config`.

        Args:
            config_name: Name of the project's primary file.
            overrides: Overrides of Hydra's own keys.
        """
        cfg = hydra_config(self._loader, config_name, overrides, self._searchpath)
        # The working directory decides what relative paths in the stored configuration mean.
        chdir = working_directory(self.run)
        if chdir is not None and not any(item.lstrip("+").startswith("hydra.job.chdir=") for item in overrides):
            cfg.hydra.job.chdir = chdir
        return cfg

    def _load(self, node: Any, groups: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
        entries = ["_self_", *({group: option} for group, option in groups.items())]
        content = {**_plain(node), "defaults": entries, "hydra": {"searchpath": self._searchpath}}
        return load_node(self._loader, content, overrides)

    def _is_group(self, override: Override) -> bool:
        return not isinstance(override.value(), dict) and self._loader.repository.group_exists(override.key_or_group)

    def _check(self, override: Override) -> None:
        """Refuse an option of a group that has no files any more: Hydra would take it for a value."""
        node = OmegaConf.select(self._own, override.key_or_group.replace("/", "."))
        is_option = isinstance(override.value(), str) and isinstance(node, DictConfig) and not override.is_delete()
        if is_option and not self._is_group(override):
            raise ConfigCompositionException(f"Could not find '{override.key_or_group}/{override.value()}'")

    def _line(self, override: Override) -> str:
        """Return the override as it is typed. One that adds a key replaces what a recorded one has added."""
        line = str(override.input_line)
        keys = {item.partition("=")[0].lstrip("+") for item in self.recorded}
        return f"+{line}" if override.is_add() and override.key_or_group in keys else line


def load_node(loader: ConfigLoaderImpl, content: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Compose overrides with a node as the primary configuration, instead of a file."""
    ConfigStore.instance().store(name=NAME, node=dict(content))
    return loader.load_configuration(NAME, list(overrides), RunMode.RUN)


def hydra_config(
    loader: ConfigLoaderImpl,
    config_name: str | None,
    overrides: Sequence[str],
    searchpath: Sequence[str] = (PACKAGED,),
) -> DictConfig:
    """Return Hydra's own configuration: the project's if it can be composed, else the packaged one.

    It never comes from a run directory, which may come from other people: Hydra builds what it names.

    Args:
        loader: Loader of the files.
        config_name: Name of the project's primary file.
        overrides: Overrides of Hydra's own keys.
        searchpath: Where Hydra looks for groups if the primary file cannot be used.
    """
    try:
        return loader.load_configuration(config_name, list(overrides), RunMode.RUN)
    except Exception:
        return packaged(loader, overrides, searchpath)


def packaged(loader: ConfigLoaderImpl, overrides: Sequence[str], searchpath: Sequence[str] = (PACKAGED,)) -> DictConfig:
    """Compose the library's own configuration of paths and Hydra, without the project's files."""
    content = {"defaults": ["cairn", "_self_"], "task_name": "train", "hydra": {"searchpath": list(searchpath)}}
    return load_node(ConfigLoaderImpl(available(loader)), content, overrides)


def sweep_job(folder: Path) -> DictConfig:
    """Return the configuration that the jobs of a sweep share, from the `multirun.yaml` in its directory.

    Raises:
        ResumeError: The file cannot be read.
    """
    file = folder / "multirun.yaml"
    try:
        plain = config_file.read_any(file)
    except (OSError, ValueError) as error:
        raise ResumeError(f"{file} cannot be read: {first_line(error)}.") from error
    if not isinstance(plain, dict):
        raise ResumeError(f"{file} cannot be read: it is not a configuration.")
    return OmegaConf.create(interpolation.without_environment(interpolation.without_calls(plain)))


def working_directory(run: RunDirectory) -> bool | None:
    """Return whether a run works in its own directory (`hydra.job.chdir`); None if that is not known."""
    chdir = _of_hydra(run, "job", "chdir")
    return chdir if isinstance(chdir, bool) else None


def config_name(run: RunDirectory) -> str | None:
    """Return the name of the primary file that a run was composed from; None if it is not known."""
    name = _of_hydra(run, "job", "config_name")
    return name if isinstance(name, str) else None


def _check_name(loader: ConfigLoaderImpl, run: RunDirectory, name: str | None) -> None:
    """Refuse a misspelt `--config-name`. One that the run was started with may be gone, as all of `configs/` may."""
    own, repository = config_name(run), loader.repository
    has_files = any(source.provider == "main" and source.available() for source in loader.get_sources())
    if name is None or own is None or _stem(name) == _stem(own) or not has_files or repository.config_exists(name):
        return
    raise Misnamed(f"{name!r} does not exist, and the run was started with {own!r}.", name)


def _stem(name: str) -> str:
    return name.removesuffix(".yaml")


def as_changed(own: DictConfig, before: DictConfig, now: DictConfig) -> DictConfig:
    """Return `own` with the differences between two configurations, none of them resolved."""

    def change(value: Any, old: Any, new: Any) -> Any:
        if old == new:
            return value
        if new is _ABSENT and isinstance(value, dict) and isinstance(old, dict):  # a deleted group
            return {name: node for name, node in value.items() if name not in old} or _ABSENT
        if not all(isinstance(item, dict) for item in (value, old, new)):
            return new
        found = {name: change(*(node.get(name, _ABSENT) for node in (value, old, new))) for name in {**value, **new}}
        return {name: node for name, node in found.items() if node is not _ABSENT}

    plain = [{name: node for name, node in _plain(cfg).items() if name != "hydra"} for cfg in (own, before, now)]
    return OmegaConf.create({**change(*plain), "hydra": now.hydra})


def _plain(node: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(node) if OmegaConf.is_config(node) else dict(node)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _composed_file(run: RunDirectory) -> Any:
    """Return the configuration as Hydra composed it at the last start, with its interpolations."""
    found = _read(run.path / ".hydra" / "config.yaml")
    return found if isinstance(found, dict) else {}


def _of_hydra(run: RunDirectory, *keys: str) -> Any:
    """Return a value of Hydra's own configuration as it is written: an interpolation is not resolved."""
    found = _read(run.path / ".hydra" / "hydra.yaml")
    for key in ("hydra", *keys):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _read(path: Path) -> Any:
    """Return the plain values in a file; None if it is missing or damaged, because everything in it is optional."""
    try:
        return config_file.read_any(path)
    except (OSError, ValueError):
        return None


def _choices(run: RunDirectory, record: RunRecord) -> dict[str, Any]:
    given = _read(run.path / ".hydra" / "overrides.yaml")
    if not isinstance(given, list) or tuple(given) != record.overrides:  # those of a command that was refused
        return {}
    found = _of_hydra(run, "runtime", "choices")
    if not isinstance(found, dict):
        return {}
    return {str(group): option for group, option in found.items() if not str(group).startswith("hydra/")}


def _package(group: str) -> str:
    return group.replace("/", ".")


def available(loader: ConfigLoaderImpl) -> Any:
    """Return the search path without the project's directory if that does not exist any more."""
    path = copy.deepcopy(loader.config_search_path)
    missing = {source.provider for source in loader.get_sources() if not source.available()}
    path.get_path()[:] = [item for item in path.get_path() if item.provider not in missing]
    return path


def _searchpath(loader: ConfigLoaderImpl, config_name: str | None) -> list[str]:
    try:
        primary: Any = loader.repository.load_config(str(config_name))
        found = OmegaConf.select(primary.config, "hydra.searchpath")
        return [str(item) for item in found] if found else [PACKAGED]
    except Exception:  # the file is missing, or is not YAML
        return [PACKAGED]
