"""What the command line means before Hydra reads it: `.env`, where the project is, and `resume=`.

Imports no torch. `resume=RUN` becomes the overrides that made the run, then the new ones, then its directory: the same
as giving the run's own command again, so that there is one way of going on and not two.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dotenv import load_dotenv
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from cairn.errors import CairnError, ConfigError
from cairn.hydra import job_name
from cairn.runs.directory import RunDirectory, find
from cairn.store import disk
from hydra_plugins import resumable_submitit

ROOT = "PROJECT_ROOT"
_CHILD = "CAIRN_CHILD"
_ONE_RUN = "hydra.mode=RUN"  # an experiment may say MULTIRUN, and going on with its job must not start the sweep anew


def prepare(argv: list[str], root: Path) -> list[str]:
    """Read `.env`, name the project's root to the configs, and return `argv` as Hydra shall see it.

    Exits with one sentence if `resume=` names nothing that can go on.
    """
    load_dotenv(root / ".env")
    job_name.register()
    resumable_submitit.register()
    os.environ.setdefault(ROOT, str(root))
    try:
        return expand_resume([_as_hydra_reads(arg) for arg in argv], root / "configs")
    except CairnError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def expand_resume(argv: list[str], configs: Path) -> list[str]:
    """Replace `resume=RUN` by the run's own overrides and its directory; the new overrides win."""
    named = [arg.removeprefix("resume=") for arg in argv if arg.startswith("resume=")]
    if not named or named[-1] in ("", "null"):
        return argv
    rest = [arg for arg in argv if not arg.startswith("resume=")]
    if {"-m", "--multirun"} & set(rest):
        raise ConfigError("resume= goes on with one run; to go on with a sweep, give the sweep's own command again.")
    run = (
        find(named[-1].strip("'\""), *_task(rest, configs))
        if named[-1] == "latest"
        else find(named[-1].strip("'\""), Path(), "")
    )
    return [*merge(_overrides_of(run), rest), _ONE_RUN, f"hydra.run.dir={_quoted(run.path)}"]


def _as_hydra_reads(arg: str) -> str:
    """A file name may hold what Hydra's grammar gives a meaning."""
    name, equals, value = arg.partition("=")
    is_file = name in ("ckpt_path", "init_weights") and value and value[0] not in "'\"" and value != "null"
    return f"{name}={_quoted(Path(value))}" if equals and is_file else arg


def _quoted(path: Path) -> str:
    """As Hydra's grammar takes any path."""
    return "'" + str(path).replace("'", "\\'") + "'"


def merge(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """The old overrides less those whose key is given anew, then the new ones."""
    keys = {key(override) for override in new}
    return [override for override in old if key(override) not in keys] + list(new)


def key(override: str) -> str:
    """What an override sets: `trainer.max_epochs` of `++trainer.max_epochs=3`."""
    return override.partition("=")[0].lstrip("+~")


def _overrides_of(run: RunDirectory) -> tuple[str, ...]:
    record = run.record()
    return record.overrides if record else ()


def _task(overrides: list[str], configs: Path) -> tuple[Path, str]:
    """Where the runs of the task lie that these overrides mean."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(configs.absolute()), version_base="1.3"):
        cfg = compose("train", [arg for arg in overrides if not arg.startswith("-")])
        return Path(cfg.paths.log_dir), str(cfg.task_name)


class CheckRunDirectory(Callback):
    """Hydra asks it before it makes a run's directory, where it would fail with a traceback."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        _check_directory(Path(config.hydra.run.dir), "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _check_directory(Path(config.hydra.sweep.dir), "hydra.sweep.dir")


def _check_directory(path: Path, key: str) -> None:
    if why := disk.why_unwritable(path):
        print(f"Error: {key}={path} cannot be written: {why}. Choose another, or paths.log_dir=DIR.", file=sys.stderr)
        raise SystemExit(1)


def announce_children(**facts: str | None) -> None:
    """Tell the processes that Lightning's DDP will start what this run is.

    They are started with this command line; composing it again, they would make run directories of their own, and in a
    multirun start the sweep anew. So they take these facts from the environment and never ask Hydra.
    """
    os.environ[_CHILD] = json.dumps(facts)


def is_child() -> bool:
    """Was this process started by the DDP launcher of a run?"""
    return _CHILD in os.environ and os.environ.get("LOCAL_RANK", "0") != "0"


def announced() -> dict[str, str | None]:
    """What the process that started this one has announced."""
    facts: dict[str, str | None] = json.loads(os.environ[_CHILD])
    return facts
