"""Prepare the command line for Hydra: `.env`, the project's root, `--help`, aliases, and `resume=`.

This module does not import torch. `resume=RUN` is replaced by the overrides of the run, the new overrides, and the
directory of the run. So there is only one way to resume: the command of the run is repeated.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from dotenv import load_dotenv
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cairn import extras, whitelist
from cairn.errors import CairnError, ConfigError
from cairn.hydra.command import checks, help_screen, mirrored_run, overrides
from cairn.hydra.command.arguments import Arguments, existing, file, run_dir, unliteral, unquoted
from cairn.hydra.command.overrides import key as key
from cairn.hydra.command.overrides import merge as merge
from cairn.hydra.compose import stored
from cairn.hydra.compose.source import Source
from cairn.hydra.search import plugins as search_plugins
from cairn.hydra.sweep import job_name, plugins
from cairn.jobs.run_name import run_name
from cairn.remote.address import is_address
from cairn.run.directory import RunDirectory, find, newest
from cairn.run.files_before import FilesBefore
from cairn.store.catalog import Catalog

ROOT = "PROJECT_ROOT"
_CHILD = "CAIRN_CHILD"
_ONE_RUN = "hydra.mode=RUN"  # an experiment may set MULTIRUN; resuming one of its jobs must not start the sweep again
_TRUST = "trust_targets="
_repeated: tuple[str, ...] = ()
_LATEST = ("latest", "last")
_OTHER_CONFIG = ("--config-", "-cn", "-cp", "-cd")


def prepare(argv: list[str], root: Path, config_path: str = "configs", config_name: str = "train") -> list[str]:
    """Read `.env`, pass the project's root to the configs, and return `argv` in the form that Hydra reads.

    Args:
        argv: Command-line arguments.
        root: Directory of the project.
        config_path: Directory of the YAML files, relative to `root`.
        config_name: Name of the primary file.

    Returns:
        The arguments for Hydra: flags, then overrides.

    Raises:
        SystemExit: Code 0 after `--help`; code 1 after an error message about an argument.
    """
    load_dotenv(root / ".env")
    job_name.register()
    plugins.register()
    search_plugins.register()
    os.environ.setdefault(ROOT, str(root))
    given = Arguments.split(argv)
    configs = root / config_path
    is_ours = not any(flag.startswith(_OTHER_CONFIG) for flag in given.flags)
    if (
        is_ours
        and given.has("--help", "-h")
        and (screen := help_screen.of(configs, _given(given.overrides), config_name))
    ):
        print(screen)
        raise SystemExit(0)
    try:
        given = _without_trust(given)
        typed = {key(item): unquoted(item.partition("=")[2]) for item in given.overrides}
        if why := mirrored_run.why_refused(typed.get):
            raise ConfigError(why)
        found = overrides.renamed([_as_hydra_reads(item) for item in given.overrides])
        if is_ours:
            source = Source(configs, config_name)
            overrides.check(_given(found), known(source), lambda some: try_to_compose(some, source))
        full = Arguments.split(expand_resume([*given.flags, *found], configs, config_name, root))
        if not any(item.startswith("hydra.run.dir=") for item in full.overrides):
            run_name()  # else Hydra reports why there is none, with a traceback
        return [*full.flags, *overrides.renamed(full.overrides)]
    except CairnError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def expand_resume(argv: list[str], configs: Path, config_name: str = "train", root: Path | None = None) -> list[str]:
    """Replace `resume=RUN` by the overrides and the directory of the run; new overrides have precedence.

    Args:
        argv: Command-line arguments; only the last `resume=` counts.
        configs: Directory of the project's configuration, which `latest` and `auto` need.
        config_name: Name of the primary file.
        root: Directory of train.py; None: the one that contains `configs`.

    Returns:
        The arguments without `resume=`.

    Raises:
        ConfigError: `resume=` is combined with a sweep, or with a directory of files that does not exist.
        ResumeError: There is no such run.
    """
    given = Arguments.split(argv)
    named = [typed.partition("=")[2] for typed in given.overrides if _is_resume(typed)]
    if not named or named[-1] in ("", "null"):
        return argv
    rest = [item for item in argv if not _is_resume(item)]
    if given.has("-m", "--multirun"):
        raise ConfigError("resume= resumes one run. To resume a sweep, repeat the command of the sweep.")
    run = _named_run(named[-1], rest, Source.of(given, configs, config_name, root or configs.parent))
    if run is None:
        return rest
    _check_config_path(given, root or configs.parent)
    global _repeated
    _repeated = tuple(item for item in _overrides_of(run) if item not in rest)
    own = [*_primary_file(run, given, configs, config_name), *merge(_overrides_of(run), rest)]
    return [*own, _ONE_RUN, *_working_directory(run, rest), run_dir(run.path)]


def repeated() -> tuple[str, ...]:
    """Return the overrides of this process's command that `resume=` has taken from the run directory."""
    return _repeated


def _without_trust(given: Arguments) -> Arguments:
    """Remove `trust_targets=NAMES`, which is about this command and no part of a configuration."""
    trusts = [item for item in given.overrides if item.lstrip("+").startswith(_TRUST)]
    for item in trusts:
        whitelist.trust(item.partition("=")[2])
    return replace(given, overrides=tuple(item for item in given.overrides if item not in trusts))


def _check_config_path(given: Arguments, root: Path) -> None:
    """Refuse a misspelt `--config-path`: without its files, a run would resume from its own ones."""
    path = given.value("--config-path")
    if path is not None and "://" not in path and not (root / path).is_dir():
        raise ConfigError(f"--config-path {path}: {root / path} does not exist. Leave it out, or correct it.")


def _is_resume(override: str) -> bool:
    return override.lstrip("+").startswith("resume=")


def _named_run(typed: str, rest: list[str], source: Source) -> RunDirectory | None:
    """Return the run that `resume=` names; None if `auto` finds no run to resume."""
    name = unquoted(typed)
    if name in _LATEST:
        return find("latest", *source.task(_given(rest)))
    if is_address(name):
        return mirrored_run.brought(name, source.logs(_given(rest)))
    if name != "auto":
        path = existing(typed)
        return find(str(path.absolute() if str(path) in _LATEST else path), Path(), "")
    log_dir, task_name = source.task(_given(rest))
    run = newest(log_dir / task_name)
    if run is not None and _can_continue(run):
        print(f"resume=auto: resuming {run.path}", file=sys.stderr)
        return run
    print(f"resume=auto: no run of task {task_name!r} to resume, starting a new one", file=sys.stderr)
    return None


def _can_continue(run: RunDirectory) -> bool:
    record, catalog = run.record(), Catalog(run.checkpoints())
    if record is None or record.status == "finished":
        return False
    # One of a later version is refused by the resume, rather than passed over.
    return catalog.newest() is not None or any(item.newer for item in catalog.rejected())


def _as_hydra_reads(item: str) -> str:
    """Quote a file name: it may contain characters that are special in Hydra's grammar."""
    return file(item) if key(item) in overrides.FILES and "=" in item else item


def _overrides_of(run: RunDirectory) -> tuple[str, ...]:
    record = run.record()
    return overrides.recorded(record.overrides) if record else ()


def _primary_file(run: RunDirectory, given: Arguments, configs: Path, config_name: str) -> list[str]:
    """Return the flag that chooses the primary file that the run was composed from, if that is not the usual one."""
    name = stored.config_name(run) or config_name
    is_file = ".." not in Path(name).parts and (configs / f"{name.removesuffix('.yaml')}.yaml").is_file()
    is_given = given.value("--config-name") or given.value("--config-path")
    return [f"--config-name={name}"] if name != config_name and is_file and not is_given else []


def _working_directory(run: RunDirectory, rest: Sequence[str]) -> list[str]:
    """Return the override that lets relative paths of the run mean what they meant before, if it is needed."""
    chdir = stored.working_directory(run)
    return [f"hydra.job.chdir={str(chdir).lower()}"] if chdir and "hydra.job.chdir" not in map(key, rest) else []


def try_to_compose(given: Sequence[str], source: Source) -> Any:
    """Return a plain configuration; None if it cannot be composed, which Hydra reports later in more detail."""
    try:
        return OmegaConf.to_container(source.compose(given))
    except Exception:
        return None


def _given(argv: Sequence[str]) -> list[str]:
    """Return the overrides among the arguments, without `resume=`. `job` in `--cfg job` is not an override."""
    return [arg for arg in argv if ("=" in arg or arg.startswith("~")) and not arg.startswith(("-", "resume="))]


def known(source: Source) -> set[str]:
    """Return the keys and groups at the top level of the configuration without composing it."""
    try:
        keys = set(yaml.safe_load((source.configs / f"{source.name.removesuffix('.yaml')}.yaml").read_text()))
    except (OSError, ValueError, TypeError, yaml.YAMLError):  # Hydra reports this error
        keys = set()
    return keys | {path.name for path in source.configs.glob("*/")} | {"eval", "hydra", "paths", "pause_at", "predict"}


class CheckRunDirectory(Callback):
    """Checks directories and launcher before Hydra creates them: Hydra itself would fail with a traceback."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the directory of a run, and remember what Hydra is about to write there, see `put_back`."""
        global _written_by_hydra
        if why := mirrored_run.why_refused(partial(OmegaConf.select, config, throw_on_resolution_failure=False)):
            checks.refuse(why)
        checks.no_secrets(config)
        run = RunDirectory(Path(unliteral(str(config.hydra.run.dir))))
        checks.directory(Path(config.hydra.run.dir), "hydra.run.dir")
        # Hydra opens these by their names. A link would let it write to the file behind it.
        checks.files([*run.path.glob("*.log"), *run.path.glob(".hydra/*")], [run.path / ".hydra"])
        if config.hydra.output_subdir is not None and run.record_file.is_file():
            folder = run.path / str(config.hydra.output_subdir)
            _written_by_hydra = FilesBefore([folder / name for name in ("config.yaml", "hydra.yaml", "overrides.yaml")])

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remove a directory that Hydra has made only because `${` is part of the name of the run directory."""
        made, run = Path(str(config.hydra.run.dir)), Path(config.hydra.runtime.output_dir)
        if unliteral(str(made)) == str(made) or config.hydra.mode == RunMode.MULTIRUN:
            return
        if config.hydra.job.chdir:
            os.chdir(run)
        while "\\${" in str(made) and made.is_dir() and not any(made.iterdir()):
            made.rmdir()
            made = made.parent

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the launcher and the directory of a sweep."""
        if str(config.hydra.launcher.get("_target_")).startswith(plugins.LAUNCHERS) and not plugins.is_installed():
            checks.refuse(f"this hydra/launcher needs more packages: {extras.how_to_install('slurm')}")
        if varied := job_name.varied_in_vain(config):
            checks.refuse(
                f"{varied}: the jobs of a sweep cannot differ in this key, because it is not part of their names. "
                f"Give it one value."
            )
        checks.no_secrets(config)
        sweep = Path(config.hydra.sweep.dir)
        checks.directory(sweep, "hydra.sweep.dir")
        checks.files([sweep / "multirun.yaml"], [])


_written_by_hydra: FilesBefore | None = None
"""Hydra's files in the directory of a run that is resumed, as they were before; None: this is another start."""


def put_back() -> None:
    """Put back the files that Hydra has written for a start that was refused."""
    if _written_by_hydra is not None:
        _written_by_hydra.put_back()


def announce_children(**facts: str | None) -> None:
    """Pass the facts of this run to the processes that Lightning's DDP starts.

    These processes get the same command line. Composing it again would create more run directories, or start a sweep
    again. Instead, they read the facts from the environment and bypass Hydra.
    """
    os.environ[_CHILD] = json.dumps({"main": os.getpid(), "facts": facts})


def is_child() -> bool:
    """Whether the DDP launcher of a run has started this process."""
    return _CHILD in os.environ and os.environ.get("LOCAL_RANK", "0") != "0"


def announced() -> tuple[int, dict[str, str | None]]:
    """Return the process that has announced the facts, and the facts."""
    found = json.loads(os.environ[_CHILD])
    return found["main"], found["facts"]
