"""Prepare the command line for Hydra: `.env`, the project's root, `--help`, aliases, and `resume=`.

This module does not import torch. `resume=RUN` is replaced by the overrides of the run, the new overrides, and the
directory of the run. So there is only one way to resume: the command of the run is repeated.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from dotenv import load_dotenv
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from cairn.errors import CairnError, ConfigError
from cairn.hydra import help_screen, job_name, overrides, plugins
from cairn.hydra.overrides import key as key
from cairn.hydra.overrides import merge as merge
from cairn.runs.directory import RunDirectory, find, newest
from cairn.store import disk
from cairn.store.catalog import Catalog

ROOT = "PROJECT_ROOT"
_CHILD = "CAIRN_CHILD"
_ONE_RUN = "hydra.mode=RUN"  # an experiment may set MULTIRUN; resuming one of its jobs must not start the sweep again
_LATEST = ("latest", "last")
_OTHER_CONFIG = ("--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd")


def prepare(argv: list[str], root: Path) -> list[str]:
    """Read `.env`, pass the project's root to the configs, and return `argv` in the form that Hydra reads.

    Args:
        argv: Command-line arguments.
        root: Directory of the project.

    Returns:
        The arguments for Hydra.

    Raises:
        SystemExit: Code 0 after `--help`; code 1 after an error message about an argument.
    """
    load_dotenv(root / ".env")
    job_name.register()
    plugins.register()
    os.environ.setdefault(ROOT, str(root))
    configs = root / "configs"
    is_ours = not any(arg.startswith(_OTHER_CONFIG) for arg in argv)
    if is_ours and {"--help", "-h"} & set(argv) and (screen := help_screen.of(configs, _given(argv))):
        print(screen)
        raise SystemExit(0)
    try:
        argv = overrides.renamed([_as_hydra_reads(arg) for arg in argv])
        if is_ours:
            overrides.check(_given(argv), _known(configs), lambda given: _try_to_compose(given, configs))
        return overrides.renamed(expand_resume(argv, configs))
    except CairnError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def expand_resume(argv: list[str], configs: Path) -> list[str]:
    """Replace `resume=RUN` by the overrides and the directory of the run; new overrides have precedence.

    Args:
        argv: Command-line arguments; only the last `resume=` counts.
        configs: Directory of the project's configuration, which `latest` and `auto` need.

    Returns:
        The arguments without `resume=`.

    Raises:
        ConfigError: `resume=` is combined with a sweep.
        ResumeError: There is no such run.
    """
    named = [arg.removeprefix("resume=") for arg in argv if arg.startswith("resume=")]
    if not named or named[-1] in ("", "null"):
        return argv
    rest = [arg for arg in argv if not arg.startswith("resume=")]
    if {"-m", "--multirun"} & set(rest):
        raise ConfigError("resume= continues one run. To continue a sweep, repeat the command of the sweep.")
    run = _named_run(named[-1].strip("'\""), rest, configs)
    if run is None:
        return rest
    return [*merge(_overrides_of(run), rest), _ONE_RUN, f"hydra.run.dir={_quoted(run.path)}"]


def _named_run(name: str, rest: list[str], configs: Path) -> RunDirectory | None:
    """Return the run that `resume=` names; None if `auto` finds no run to continue."""
    if name in _LATEST:
        return find("latest", *_task(rest, configs))
    if name != "auto":
        return find(name, Path(), "")
    log_dir, task_name = _task(rest, configs)
    run = newest(log_dir / task_name)
    if run is not None and _can_continue(run):
        print(f"resume=auto: continuing {run.path}", file=sys.stderr)
        return run
    print(f"resume=auto: no run of task {task_name!r} to continue, starting a new one", file=sys.stderr)
    return None


def _can_continue(run: RunDirectory) -> bool:
    record = run.record()
    return record is not None and record.status != "finished" and bool(Catalog(run.checkpoints()).committed())


def _as_hydra_reads(arg: str) -> str:
    """Quote a file name: it may contain characters that are special in Hydra's grammar."""
    name, equals, value = arg.partition("=")
    is_file = name in ("ckpt_path", "init_weights") and value and value[0] not in "'\"" and value != "null"
    return f"{name}={_quoted(Path(value))}" if equals and is_file else arg


def _quoted(path: Path) -> str:
    """Quote a path for Hydra's grammar, whatever characters it contains."""
    return "'" + str(path).replace("'", "\\'") + "'"


def _overrides_of(run: RunDirectory) -> tuple[str, ...]:
    record = run.record()
    return record.overrides if record else ()


def _task(given: list[str], configs: Path) -> tuple[Path, str]:
    """Return the directory of all runs and the task name that result from these overrides."""
    cfg = _compose(_given(given), configs)
    return Path(cfg.paths.log_dir), str(cfg.task_name)


def _compose(given: Sequence[str], configs: Path) -> DictConfig:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(configs.absolute()), version_base="1.3"):
        return compose("train", list(given))


def _try_to_compose(given: Sequence[str], configs: Path) -> Any:
    """Return a plain configuration; None if it cannot be composed, which Hydra reports later in more detail."""
    try:
        return OmegaConf.to_container(_compose(given, configs))
    except Exception:
        return None


def _given(argv: Sequence[str]) -> list[str]:
    """Return the overrides among the arguments, without `resume=`. `job` in `--cfg job` is not an override."""
    return [arg for arg in argv if ("=" in arg or arg.startswith("~")) and not arg.startswith(("-", "resume="))]


def _known(configs: Path) -> set[str]:
    """Return the keys and groups at the top level of the configuration without composing it."""
    try:
        keys = set(yaml.safe_load((configs / "train.yaml").read_text()))
    except (OSError, ValueError, TypeError, yaml.YAMLError):  # Hydra reports this error
        keys = set()
    return keys | {path.name for path in configs.glob("*/")} | {"hydra", "paths"}


class CheckRunDirectory(Callback):
    """Checks directories and launcher before Hydra creates them: Hydra itself would fail with a traceback."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the directory of a run."""
        _check_directory(Path(config.hydra.run.dir), "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the launcher and the directory of a sweep."""
        if str(config.hydra.launcher.get("_target_")).startswith(plugins.LAUNCHERS) and not plugins.is_installed():
            _refuse("this hydra/launcher needs more packages. Install them: pip install 'cairn-checkpoint[slurm]'.")
        _check_directory(Path(config.hydra.sweep.dir), "hydra.sweep.dir")


def _check_directory(path: Path, key: str) -> None:
    if why := disk.why_unwritable(path):
        _refuse(f"{key}={path} cannot be written: {why}. Choose another directory, or set paths.log_dir=DIR.")


def _refuse(message: str) -> None:
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(1)


def announce_children(**facts: str | None) -> None:
    """Pass the facts of this run to the processes that Lightning's DDP starts.

    These processes get the same command line. Composing it again would create more run directories, or start a sweep
    again. Instead, they read the facts from the environment and bypass Hydra.
    """
    os.environ[_CHILD] = json.dumps(facts)


def is_child() -> bool:
    """Whether the DDP launcher of a run has started this process."""
    return _CHILD in os.environ and os.environ.get("LOCAL_RANK", "0") != "0"


def announced() -> dict[str, str | None]:
    """Return the facts that the parent process has announced."""
    facts: dict[str, str | None] = json.loads(os.environ[_CHILD])
    return facts
