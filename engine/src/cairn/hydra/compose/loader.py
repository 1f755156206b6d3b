"""Hydra's config loader, which resumes a run from its own files where `configs/` cannot be composed any more."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from cairn.errors import ResumeError, first_line
from cairn.hydra.command import overrides as given
from cairn.hydra.command import suggest
from cairn.hydra.command.arguments import literal, unliteral
from cairn.hydra.compose import merge, stored
from cairn.hydra.compose.once import Once
from cairn.hydra.compose.stored import Misnamed, StoredRun
from cairn.run.directory import RunDirectory, RunRecord


@dataclass(frozen=True)
class Fallback:
    """Why a run resumes from its own files."""

    why: str
    """First line of the error that composing `configs/` ended with."""
    without: tuple[str, ...] = ()
    """Recorded overrides that the command has left out: they stay in effect."""

    @classmethod
    def after(cls, error: Exception, record: RunRecord, overrides: Sequence[str]) -> Fallback:
        """Return the fallback of a command with these overrides after an error.

        Args:
            error: What composing `configs/` ended with.
            record: Record of the run.
            overrides: Overrides of the command.
        """
        keys = set(map(given.key, overrides))
        return cls(
            reason(error), tuple(item for item in given.recorded(record.overrides) if given.key(item) not in keys)
        )


_shows = False
_fallbacks: dict[tuple[str, ...], Fallback] = {}


def fallback(overrides: Sequence[str]) -> Fallback | None:
    """Return why the configuration with these overrides comes from the run's own files; None if it does not."""
    return _fallbacks.get(tuple(overrides))


class Loader(Once):
    """Loads from `configs/`; if that fails and the run directory holds a run, from the files of the run.

    A job of a sweep unpickles it by its name and composes its configuration again.
    """

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose a configuration; the arguments are those of Hydra."""
        load = super().load_configuration
        try:
            if _shows and (run := self._run(config_name, overrides)) is not None:
                return self._of_run(*run, config_name, overrides)
            return load(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        except Exception as error:
            try:
                if run_mode == RunMode.MULTIRUN and (sweep := _of_sweep(self, config_name, overrides)) is not None:
                    return sweep
                run = self._run(config_name, overrides) if run_mode == RunMode.RUN and not _shows else None
                if run is None:
                    raise error
                return self._fall_back(*run, config_name, overrides, error)
            except HydraException as refusal:
                suggest.add(refusal, overrides, lambda given: load(config_name, given, run_mode, from_shell, False))
                raise refusal from refusal.__cause__

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Compose the configuration of a job; the arguments are those of Hydra."""
        try:
            return super().load_sweep_config(master_config, sweep_overrides)
        except Exception as error:
            folder = _job_directory(master_config, sweep_overrides)
            record = record_in(folder)
            if folder is None or record is None:
                raise
            overrides = [*OmegaConf.to_container(master_config.hydra.overrides.hydra), *sweep_overrides]  # type: ignore[misc]
            cfg = self._fall_back(folder, record, master_config.hydra.job.config_name, overrides, error)
            OmegaConf.copy_cache(from_config=master_config, to_config=cfg)
            with read_write(cfg.hydra):
                cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir = map(_run_dir, (str(folder.parent), folder.name))
            return cfg

    def compute_defaults_list(self, config_name: str | None, overrides: list[str], run_mode: RunMode) -> Any:
        """Return the files that `--info` lists; the arguments are those of Hydra."""
        try:
            return super().compute_defaults_list(config_name, overrides, run_mode)
        except Exception as error:
            if (run := self._run(config_name, overrides)) is None:
                raise
            raise SystemExit(
                f"Error: {run[0]} has no defaults list, because configs/ does not compose its overrides any more "
                f"({reason(error)}). Its config.yaml is the whole configuration."
            ) from error

    def _fall_back(
        self, folder: Path, record: RunRecord, config_name: str | None, overrides: Sequence[str], error: Exception
    ) -> DictConfig:
        """Compose from the files of a run after `error`, and remember it for the start of the run."""
        try:
            cfg = self._of_run(folder, record, config_name, overrides)
        except Exception as refusal:
            is_misnamed = isinstance(refusal, Misnamed)
            if is_misnamed or (why := self._why_not(config_name, given.recorded(record.overrides))) is None:
                raise error from None  # an override of the new command is wrong, and nothing else
            raise ConfigCompositionException(
                f"{folder} resumes from its own config.yaml, because configs/ does not compose its overrides any more "
                f"({why}). This command cannot be applied to that configuration: {full(refusal)}"
            ) from refusal
        _fallbacks[tuple(cfg.hydra.overrides.task)] = Fallback.after(error, record, overrides)
        return cfg

    def _of_run(self, folder: Path, record: RunRecord, config_name: str | None, overrides: Sequence[str]) -> DictConfig:
        hydra, task = _divided(overrides)
        run = StoredRun(self, RunDirectory(folder), record, config_name)
        cfg = run.hydra(config_name, hydra)
        try:
            before, now = run.compose(task)
        except HydraException as refusal:
            suggest.add(refusal, task, lambda given: run.compose(given)[1])
            raise refusal from refusal.__cause__
        if _shows and (refused := merge.fixed_changes(before, now)):
            print(f"A resume refuses to change {', '.join(refused)}; shown is what was typed.", file=sys.stderr)
        cfg = _joined(cfg, now, given.merge(given.recorded(record.overrides), task), run.choices)
        with read_write(cfg):
            cfg.hydra.run.dir = _run_dir(str(folder))
        return cfg

    def _why_not(self, config_name: str | None, overrides: Sequence[str]) -> str | None:
        try:
            super().load_configuration(config_name, list(overrides), RunMode.RUN)
            return None
        except Exception as error:
            return reason(error)

    def _run(self, config_name: str | None, overrides: Sequence[str]) -> tuple[Path, RunRecord] | None:
        """Return the run directory that the command names, if it holds a run; its group options may not exist."""
        for folder, is_guess in self._directories(config_name, overrides, "run"):
            record = record_in(folder)
            if record is not None and (not is_guess or _has_options(folder, record, overrides)):
                return folder, record
        return None

    def _directories(self, config_name: str | None, overrides: Sequence[str], kind: str) -> Iterator[tuple[Path, bool]]:
        """Yield directories that a command may mean, and whether only their task name is guessed."""
        kept = [item for item in overrides if given.key(item).startswith(("hydra.", "paths.")) or _is_task(item)]
        for compose in (self._primary, lambda _, kept: stored.packaged(self, kept)):
            try:
                cfg = compose(config_name, kept)
                named = Path(unliteral(cfg.hydra[kind].dir)).absolute()
                yield named, False
                logs = Path(cfg.paths.log_dir)
                # The task name may have come from an option that does not exist any more.
                tasks = [] if any(map(_is_task, kept)) or not logs.is_dir() else sorted(logs.iterdir())
                for folder in tasks:
                    cfg.task_name = folder.name
                    path = Path(unliteral(cfg.hydra[kind].dir)).absolute()
                    yield path, path != named
            except Exception:  # the next way may work
                continue

    def _primary(self, config_name: str | None, overrides: Sequence[str]) -> DictConfig:
        return super().load_configuration(config_name, list(overrides), RunMode.RUN)


@contextmanager
def installed(shows: bool = False) -> Iterator[None]:
    """Context in which Hydra loads with `Loader`.

    Args:
        shows: The command only prints the configuration (`--cfg`): that of a run is the stored one.
    """
    global _shows
    _shows = shows
    with mock.patch("hydra._internal.hydra.ConfigLoaderImpl", Loader):
        yield


def reason(error: BaseException) -> str:
    """Return the first line of an error of Hydra, which may only be a wrapper around another one."""
    return first_line(error if str(error).strip() or error.__cause__ is None else error.__cause__)


def full(error: BaseException) -> str:
    """Return the message of an error of Hydra about the stored configuration, in the words of the user."""
    text = str(error).strip() or str(error.__cause__ or type(error).__name__)
    return text.replace(f"'{stored.NAME}'", "config.yaml")


def _joined(hydra: DictConfig, job: DictConfig, task: Sequence[str], choices: dict[str, Any]) -> DictConfig:
    """Return the configuration in the form that Hydra composes: the keys of the job, and `hydra`."""
    chosen = {group: option for group, option in job.hydra.runtime.choices.items() if not group.startswith("hydra/")}
    cfg = copy.deepcopy(hydra)
    with read_write(cfg), open_dict(cfg), open_dict(job):
        for name in [name for name in cfg if name != "hydra"]:
            del cfg[name]
        del job["hydra"]
        cfg.merge_with(job)
        cfg.hydra.overrides.task = list(task)
        cfg.hydra.runtime.choices.update({**choices, **chosen})
    OmegaConf.set_struct(cfg, True)
    return cfg


def _run_dir(text: str) -> str:
    return literal(literal(text))  # Hydra resolves it twice


def _of_sweep(loader: Loader, config_name: str | None, overrides: Sequence[str]) -> DictConfig | None:
    """Compose a sweep that is repeated from its own multirun.yaml; None if its directory has none.

    Its jobs are composed one by one later: those that have started from the files of their runs.
    """
    folders = loader._directories(config_name, overrides, "sweep")
    if (folder := next((path for path, _ in folders if (path / "multirun.yaml").is_file()), None)) is None:
        return None
    hydra, task = _divided(overrides)
    job = stored.sweep_job(folder)
    cfg = _joined(stored.hydra_config(ConfigLoaderImpl(stored.available(loader)), config_name, hydra), job, task, {})
    with read_write(cfg):
        cfg.hydra.sweep.dir = _run_dir(str(folder))
    return cfg


def _divided(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the overrides of Hydra's own keys, and the others."""
    hydra: list[str] = []
    task: list[str] = []
    for item in OverridesParser.create().parse_overrides(list(overrides)):
        (hydra if item.is_hydra_override() else task).append(str(item.input_line))
    return hydra, task


def _job_directory(master: DictConfig, overrides: Sequence[str]) -> Path | None:
    """Return the directory of a job of a sweep; None if it needs more than the overrides of the job."""
    try:
        cfg = copy.deepcopy(master)
        names = cfg.hydra.job.config.override_dirname
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        with read_write(cfg), open_dict(cfg):
            cfg.hydra.overrides.task = list(overrides)
            cfg.hydra.job.override_dirname = get_overrides_dirname(
                [item for item in parsed if not item.is_hydra_override()],
                list(names.exclude_keys),
                names.item_sep,
                names.kv_sep,
            )
        return Path(cfg.hydra.sweep.dir, str(cfg.hydra.sweep.subdir)).absolute()
    except Exception:
        return None


def record_in(folder: Path | None) -> RunRecord | None:
    """Return the record of the run in a directory; None if it has none, or a damaged one."""
    with suppress(Exception):  # damaged: resuming it is refused later
        return RunDirectory(folder).record() if folder is not None else None
    return None


def _has_options(folder: Path, record: RunRecord, overrides: Sequence[str]) -> bool:
    """Return whether a run was started with the options of groups that a command names."""
    try:
        stored_keys = RunDirectory(folder).config()
    except ResumeError:
        return False
    named = [item for item in overrides if "=" in item and "." not in given.key(item) and not _is_task(item)]
    # A key at the top has a stored value; a group is a mapping, or has set keys of others, as an experiment does.
    options = [item for item in named if isinstance(stored_keys.get(given.key(item), {}), dict)]
    return all(item in record.overrides for item in options)


def _is_task(override: str) -> bool:
    return given.key(override) == "task_name"
