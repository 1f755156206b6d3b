"""`eval=CHECKPOINT`: test a checkpoint of any run, with the model of its run, on its data or on others.

    from the checkpoint   model, seed, trainer.precision, and data unless the command chooses others
    from the command      everything else, and each key of those that is typed

The metrics go into `evaluation.json` in a run directory of their own. Nothing of the other run is changed.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from cairn import targets
from cairn.errors import CheckpointError, ConfigError, ResumeError, SaveError
from cairn.hydra import command_line
from cairn.hydra.command import overrides as given
from cairn.hydra.compose import merge, outside, trusted
from cairn.hydra.run import origin, provenance
from cairn.hydra.run.outcome import Outcome
from cairn.jobs.rendezvous import Rendezvous
from cairn.lightning import versions
from cairn.remote.address import is_address
from cairn.run import directory as runs
from cairn.run import named_checkpoint, summary
from cairn.run.directory import RunDirectory
from cairn.store import disk
from cairn.store.resume import ResumePoint
from cairn.writing import load

log = logging.getLogger(__name__)

KEY = "eval"
FORMAT = 1
"""Version of `evaluation.json`."""
TEST = "test"
"""Stands for the id of a run where no run is tested."""
_CONFIG = ".test.yaml"
"""Configuration of a test in the directory of a run."""
_CONTRARY = ("ckpt_path", "init_weights", "resume")
_CHOOSE_DATA = ("data", "experiment")
_FACTS = "cairn"
"""Key of Cairn's state in a checkpoint; it belongs to the file format."""


def configured(cfg: DictConfig, directory: RunDirectory, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration that tests the checkpoint that `eval` names; unchanged if it names none.

    Args:
        cfg: The configuration that Hydra has composed.
        directory: Run directory of the evaluation.
        overrides: Overrides from the command line.

    Raises:
        CairnError: The checkpoint cannot be used, or the command contradicts it.
    """
    if not cfg.get(KEY):
        return cfg
    keys = [given.key(item) for item in overrides]
    _check(cfg, directory, keys)
    path = _find(str(cfg[KEY]), cfg, directory)
    stored = _stored(path, str(cfg[KEY]))
    found = copy.deepcopy(cfg)
    with open_dict(found):
        if "seed" not in keys and stored.get("seed") is not None:
            found.seed = stored["seed"]  # it may decide which samples are those of the test
        precision = (stored.get("trainer") or {}).get("precision")
        if "trainer.precision" not in keys and precision is not None:
            found.trainer.precision = precision
        now = merge.as_config(OmegaConf.to_container(found, resolve=True))
        own = _moved(merge.as_config(targets.with_current_names(stored)), now)
        for group in ("model", "data"):
            if group == "model" or not any(_chooses(key) for key in keys):
                found[group] = _with_typed(own, now, group, keys)
        found.train, found.test, found.ckpt_path = False, cfg.get("test", True), str(path)
        if OmegaConf.select(found, "checkpoint.mirror") is not None:
            found.checkpoint.mirror = None  # a test uploads nothing, and must not wait for a store
    trusted.check(found, f"The configuration in {path}", overrides, command_line.repeated())
    outside.check(found, directory.path, "", overrides, command_line.repeated())
    return found


def _check(cfg: DictConfig, directory: RunDirectory, keys: Sequence[str]) -> None:
    """Refuse what contradicts an evaluation."""
    for key in _CONTRARY:
        if cfg.get(key) or key in keys:
            raise ConfigError(f"{KEY}= names the checkpoint to test: leave out {key}=.")
    if not cfg.get("test") and not cfg.get("predict"):
        raise ConfigError(f"{KEY}= with test=false does nothing: set predict=true, or leave out test=false.")
    if "train" in keys and cfg.train:
        raise ConfigError(f"{KEY}= trains nothing: leave out train=true, or start a new run with ckpt_path=FILE.")
    if any(key == "model" or key.startswith("model@") for key in keys):
        raise ConfigError(
            f"{KEY}= takes the model of the checkpoint: leave out model=. To test its weights in another model: "
            f"train=false init_weights=FILE model=OPTION."
        )
    if directory.record() is not None:
        raise ConfigError(
            f"{KEY}= needs a directory of its own, and {directory.path} holds a run: leave out hydra.run.dir, or name "
            f"another one."
        )


def _find(named: str, cfg: DictConfig, directory: RunDirectory) -> Path:
    if named == "latest":
        folder = Path(cfg.paths.log_dir) / cfg.task_name
        if (run := runs.newest(folder)) is None:
            raise ResumeError(f"{KEY}=latest: there is no run of the task {cfg.task_name!r} in {folder}.")
        named = str(run.path)
    elif not is_address(named):
        local = origin.local_file(named, directory.path)
        named = str(local if local.exists() else summary.shell_directory() / local)
    return named_checkpoint.find(named, directory.path / "start").path


def _stored(path: Path, named: str) -> Mapping[str, Any]:
    """Return the configuration that a checkpoint holds."""
    ours = load.load(path).get(_FACTS)
    config = ours.get("config") if isinstance(ours, Mapping) else None
    if isinstance(config, Mapping) and isinstance(config.get("model"), Mapping):
        return config
    raise ConfigError(
        f"{KEY}={named}: {path.name} does not hold the configuration of a model, which a run of train.py stores. Name "
        f"its model: train=false ckpt_path=FILE model=OPTION."
    )


def _facts(path: Path) -> Mapping[str, Any]:
    """Return what a checkpoint of Cairn says about its run; of another file nothing."""
    try:
        ours = load.load(path, verify=False).get(_FACTS)
    except CheckpointError:
        return {}
    return ours if isinstance(ours, Mapping) else {}


def _moved(own: DictConfig, now: DictConfig) -> DictConfig:
    """Return the stored configuration with the paths of this clone."""
    paths = own.get("paths")
    is_complete = isinstance(paths, DictConfig) and {"output_dir", "root_dir"} <= paths.keys()
    return merge.follow_moved_paths(own, now) if is_complete else own


def _chooses(key: str) -> bool:
    """Whether an override chooses other data than those of the run."""
    return key in _CHOOSE_DATA or key.startswith("data@")


def _with_typed(own: DictConfig, now: DictConfig, group: str, keys: Sequence[str]) -> Any:
    """Return a group as the checkpoint holds it, with the values below it that the command sets."""
    if not isinstance(own.get(group), DictConfig):
        raise ConfigError(f"{KEY}=: the checkpoint does not say which data it was trained with: choose data=OPTION.")
    for key in keys:
        if key.startswith(f"{group}."):
            parent, _, leaf = key.rpartition(".")
            if (typed := OmegaConf.select(now, parent)) is not None and leaf in typed:
                OmegaConf.update(own, key, typed[leaf], force_add=True)
            elif (node := OmegaConf.select(own, parent)) is not None:  # `~data.key` has deleted it
                node.pop(leaf, None)
    return own[group]


def announce(directory: RunDirectory, config: DictConfig, run: str, plan: ResumePoint, notice: Rendezvous) -> None:
    """Let the other processes of a test take part.

    Args:
        directory: The directory: that of the run which is tested, or one that no run owns.
        config: The resolved configuration.
        run: Id of the run; empty: there is none.
        plan: What is tested.
        notice: Channel to the processes that were started together with this one.
    """
    disk.make_directory(directory.path)
    # The configuration of a run stays that of its training.
    file = directory.path / _CONFIG if run else directory.config_file
    disk.put(file, OmegaConf.to_yaml(config, resolve=True).encode())
    facts = {"config": str(file), "run": run or TEST, "start": str(plan.path) if plan.path else None}
    command_line.announce_children(**facts)
    notice.announce(facts)


def record(directory: RunDirectory, config: DictConfig, plan: ResumePoint, outcome: Outcome) -> None:
    """Write the metrics of a test, and which checkpoint they belong to, into a directory that no run owns.

    Args:
        directory: The directory.
        config: The resolved configuration.
        plan: What was tested.
        outcome: How the test ended.
    """
    named = config.get(KEY) or config.get("ckpt_path") or config.get("init_weights")
    if outcome.status != "tested" or named is None or directory.record() is not None:
        return
    path = plan.path or origin.local_file(named, directory.path)
    found = named_checkpoint.find(str(path), directory.path)
    saved, ours = found.saved, _facts(found.path)
    content = {
        "format": FORMAT,
        "checkpoint": {
            "named": named,
            "path": str(found.path),
            "run": ours.get("run", ""),
            "position": ours.get("position"),
            "digest": saved.digest if saved else "",
            "monitor": saved.monitor if saved else None,
            "score": saved.score if saved else None,
        },
        # JSON has no NaN and no infinity.
        "metrics": {name: x if math.isfinite(x) else str(x) for name, x in (outcome.test or {}).items()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance.origin(config.seed),
        **versions.installed(),
        **{group: OmegaConf.to_container(config[group], resolve=True) for group in ("data", "model")},
    }
    try:
        disk.put(directory.path / runs.EVALUATION_FILE, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        raise SaveError(
            f"{directory.path / runs.EVALUATION_FILE} cannot be written: {error.strerror or error}."
        ) from error
    log.info("Metrics and checkpoint: %s", summary.relative(directory.path / runs.EVALUATION_FILE))
