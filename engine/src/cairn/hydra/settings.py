"""Checks that span groups, before anything heavy is built, and what a run that goes on takes from its new command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cairn.errors import CairnError, ConfigError, ResumeError
from cairn.hydra.keys import in_config_words
from cairn.policy.keep import parse_size
from cairn.policy.when import Auto, parse_duration_s, parse_interval

FIXED = (
    "model",
    "data",
    "seed",
    "trainer.accumulate_grad_batches",
    "trainer.precision",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "trainer.limit_train_batches",
    "trainer.overfit_batches",
)
"""What makes a run this run: a resume with another value would not be a resume."""
FREE = ("data.num_workers", "data.pin_memory", "data.persistent_workers", "data.cache_dir")
"""What under a fixed group may change: it does not touch the numbers."""
_GROUPS = ("model", "data", "trainer", "checkpoint", "callbacks", "logger")
_WHOLE = ("experiment", "debug")

_PLACES = ("paths", "hydra")
_CHOICES: Mapping[str, Sequence[Any]] = {
    "writer": ("auto", "process", "thread", "sync"),
    "buffers": (1, 2),
    "overlap": (True, False),
    "when_busy": ("skip", "wait"),
}
_ARTIFACTS: Mapping[str, Sequence[Any]] = {
    "which": ("all", "best", "final", "none"),
    "pruned": ("delete", "untag", "keep"),
}
LONGEST_NAME = 128
"""Of a W&B project, run or group, in characters."""
_LONGEST_TAG = 64
NOT_IN_A_PROJECT = "/\\#?%:"
"""What W&B takes in no project's name."""
_ABSENT = object()

Flat = dict[str, Any]
Change = tuple[Any, Any]  # old, new


@dataclass(frozen=True)
class Merged:
    """The configuration to go on with."""

    config: DictConfig
    changed: Mapping[str, Change]
    """Key to old and new value."""
    kept: Mapping[str, Change]
    """Fixed keys that follow a changed one by interpolation and stay as they were."""
    edited: Mapping[str, Change]
    """Keys that the YAML files have changed since the run began, which has no effect on it."""
    own: bool = True
    """The run was there before; False: it begins now."""


def check(cfg: DictConfig) -> None:
    """Refuse what can be seen to be wrong from the configuration alone.

    Raises:
        ConfigError: with what is wrong and what would be right.
    """
    if cfg.get("ckpt_path") and cfg.get("init_weights"):
        raise ConfigError(
            "ckpt_path= starts from the full state and init_weights= from the weights alone: give one of them."
        )
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed={cfg.seed} must be an integer from 0 to {2**32 - 1}.")
    _check_checkpoint(cfg.checkpoint)
    for name, node in cfg.get("logger", {}).items():
        if node is not None and str(node.get("_target_")).endswith("WandbLogger"):
            _check_wandb(f"logger.{name}", node, cfg.get("task_name"))
    _check_limits(cfg)
    if cfg.trainer.get("overfit_batches") and cfg.checkpoint.triggers:
        raise ConfigError("trainer.overfit_batches takes the order of samples away, so that it needs checkpoint=none.")
    if cfg.trainer.get("max_time") is not None:
        _sentence(parse_duration_s, OmegaConf.to_object(cfg.trainer)["max_time"])  # type: ignore[call-overload, index]


def _check_checkpoint(group: DictConfig) -> None:
    if "dirpath" in group and not group.dirpath:
        raise ConfigError(f"checkpoint.dirpath={group.dirpath!r} must be a directory.")
    for key in ("triggers", "keep"):
        if key in group and not isinstance(group[key], DictConfig):
            raise ConfigError(f"checkpoint.{key}={group.get(key)!r} must name each of them; for none: {{}}.")
    if group.mode not in ("min", "max"):
        raise ConfigError(f"checkpoint.mode={group.mode!r} must be min (the lower the better) or max.")
    best = [name for name, node in group.triggers.items() if _is_best(node)]
    if best and group.monitor is None:
        raise ConfigError(f"checkpoint.triggers.{best[0]} needs a metric to rank by: checkpoint.monitor=val/loss.")
    if "save_interval" in group:
        _sentence(parse_interval, group.save_interval)
        # Whatever the interval is now: a run that goes on may choose auto.
        _sentence(Auto, group.get("max_overhead", 0.01), group.get("mtbf"))
    most = group.get("max_failed_saves", 3)
    if not isinstance(most, int) or (most < 1 and most != -1):
        raise ConfigError(f"checkpoint.max_failed_saves={most!r} must be a number from 1, or -1 to never stop.")
    _check_choices(group, "checkpoint", _CHOICES)
    if "artifacts" in group:
        _check_artifacts(group.artifacts)
    for key in ("keep_last", "save_top_k"):
        if key in group and not (isinstance(group[key], int) and group[key] >= -1):
            raise ConfigError(f"checkpoint.{key}={group[key]!r} must be a number from 0, or -1 for all.")


def _check_choices(group: DictConfig, name: str, choices: Mapping[str, Sequence[Any]]) -> None:
    for key, values in choices.items():
        if key in group and not any(type(group[key]) is type(value) and group[key] == value for value in values):
            raise ConfigError(
                f"{name}.{key}={group[key]!r} must be {', '.join(map(str, values[:-1]))} or {values[-1]}."
            )


def _check_artifacts(group: DictConfig) -> None:
    _check_choices(group, "checkpoint.artifacts", _ARTIFACTS)
    if isinstance(group.every, bool) or not isinstance(group.every, int) or group.every < 1:
        raise ConfigError(f"checkpoint.artifacts.every={group.every!r} must be a whole number from 1.")
    _sentence(parse_duration_s, group.wait, "checkpoint.artifacts.wait")
    if group.queue is not None:
        try:
            parse_size(group.queue)
        except ValueError as error:
            raise ConfigError(f"checkpoint.artifacts.queue: {error}") from error


def _check_wandb(key: str, node: DictConfig, task_name: str | None) -> None:
    """What W&B's client would refuse when the run has begun; a project that is the task's name is made fit later."""
    project = str(node.get("project") or "")
    if project != task_name and (len(project) > LONGEST_NAME or set(NOT_IN_A_PROJECT) & set(project)):
        raise ConfigError(
            f"{key}.project={project!r} must have at most {LONGEST_NAME} characters, and none of "
            f"{' '.join(NOT_IN_A_PROJECT)}: W&B takes no other."
        )
    tags = node.get("tags") or []
    for tag in [tags] if isinstance(tags, str) else tags:
        if not 0 < len(str(tag)) <= _LONGEST_TAG:
            raise ConfigError(
                f"{key}.tags: {str(tag)!r} must have from 1 to {_LONGEST_TAG} characters: W&B takes no other tag."
            )


def _check_limits(cfg: DictConfig) -> None:
    for key in ("max_epochs", "min_epochs", "max_steps", "min_steps"):
        value = cfg.trainer.get(key)
        if value is not None and not isinstance(value, int):
            raise ConfigError(f"trainer.{key}={value!r} must be a whole number.")
    by_score = [name for name, node in cfg.checkpoint.triggers.items() if _is_best(node)]
    if by_score and cfg.trainer.get("limit_val_batches") == 0:
        raise ConfigError(
            f"checkpoint.triggers.{by_score[0]} saves after validations, and trainer.limit_val_batches=0 leaves none: "
            f"choose checkpoint=interval, or validate."
        )


def _is_best(trigger: DictConfig) -> bool:
    return str(trigger.get("_target_")).endswith("BestValidation")


def _sentence(parse: Any, *values: Any) -> None:
    try:
        parse(*values)
    except CairnError as error:
        raise ConfigError(in_config_words(error)) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


def merge(own: DictConfig, before: DictConfig, now: DictConfig, overrides: Sequence[str]) -> Merged:
    """What the run goes on with: its own configuration, and the difference that the new overrides make.

    Args:
        own: what the run went by so far.
        before: its old overrides, composed from the YAML files as they are today.
        now: its new overrides, composed likewise. What changed in the files alone is in both, and so has no effect.
        overrides: keys that the new command sets and the old one did not, or set otherwise.

    Raises:
        ResumeError: a new override changes what makes the run this run; each such key with old and new value.
    """
    changed: dict[str, Change] = {}
    fixed: dict[str, Change] = {}
    mine, old, new = (OmegaConf.to_container(cfg) for cfg in (own, before, now))
    config: DictConfig = OmegaConf.create(_go_on(mine, old, new, "", changed, fixed))
    if asked := {k: fixed[k] for k in sorted(fixed) if _is_asked(k, overrides)}:
        raise ResumeError(
            f"A run that goes on must stay what it was, and this would change {tell(asked)}. Leave it out, or start a "
            f"new run from the weights: init_weights=FILE."
        )
    was, then = flatten(own), flatten(before)
    apart = {k: (was.get(k), then[k]) for k in then if was.get(k) != then[k] and k not in {**changed, **fixed}}
    return Merged(config, changed, fixed, {k: change for k, change in apart.items() if _under(k, _GROUPS)})


def _go_on(own: Any, before: Any, now: Any, k: str, changed: dict[str, Change], fixed: dict[str, Change]) -> Any:
    """`own` with what differs between `before` and `now`, except under fixed keys; notes both kinds."""
    if before == now or _under(k, _PLACES):
        return own
    if all(isinstance(node, dict) for node in (own, before, now)):
        parts = {}
        for name in {**own, **now}:
            mine, old, new = (node.get(name, _ABSENT) for node in (own, before, now))
            parts[name] = _go_on(mine, old, new, _join(k, name), changed, fixed)
        return {name: part for name, part in parts.items() if part is not _ABSENT}
    was, will = ({} if node is _ABSENT else flatten(node, k) for node in (own, now))
    change = {key: (was.get(key), will.get(key)) for key in {**was, **will} if was.get(key) != will.get(key)}
    is_fixed = _under(k, FIXED) and not _under(k, FREE)
    (fixed if is_fixed else changed).update(change)
    return own if is_fixed else now


def _join(k: str, name: Any) -> str:
    return f"{k}.{name!s}" if k else str(name)


def moved(own: DictConfig, now: DictConfig) -> DictConfig:
    """A run's own configuration with its paths as they are today: a run directory, or a whole clone, may be moved."""
    places = [(own.paths[name], now.paths[name]) for name in ("output_dir", "root_dir")]

    def follow(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: follow(item) for name, item in value.items()}
        if isinstance(value, list):
            return [follow(item) for item in value]
        for old, new in places:
            if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
                return new + value.removeprefix(old)
        return value

    return OmegaConf.create(follow(OmegaConf.to_container(own)))


def tell(pairs: Mapping[str, Change]) -> str:
    """`model.lr (0.1 to 0.2), ...`"""
    return ", ".join(f"{k} ({old!r} to {new!r})" for k, (old, new) in pairs.items())


def flatten(cfg: Any, prefix: str = "") -> Flat:
    """The leaves of a configuration by their dotted keys; an empty node is a leaf."""
    container = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    if not isinstance(container, dict) or not container:
        return {prefix: container}
    flat: Flat = {}
    for name, value in container.items():
        flat |= flatten(value, _join(prefix, name))
    return flat


def _is_asked(k: str, overrides: Sequence[str]) -> bool:
    keys = [override.replace("/", ".") for override in overrides]  # a group in a group: model/scheduler=other
    return _under(k, keys) or any(name in _WHOLE for name in keys)


def _under(k: str, prefixes: Sequence[str]) -> bool:
    return any(k == prefix or k.startswith(f"{prefix}.") for prefix in prefixes)
