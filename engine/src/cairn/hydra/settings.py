"""Parses the configuration once into frozen settings. Values are checked by the constructors that take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.objects import build_object, errors_at, target_of
from cairn.policy.keep import Best, Latest, Rule
from cairn.policy.when import Auto, BestValidation, Trigger, parse_interval
from cairn.types import Mode
from cairn.units import parse_duration_s, parse_size
from cairn.writing.options import Writing

LONGEST_NAME = 128
"""Characters that W&B allows in the name of a project, run or group."""
_LONGEST_TAG = 64
NOT_IN_A_PROJECT = "/\\#?%:"
"""Characters that W&B refuses in the name of a project."""


@dataclass(frozen=True)
class ArtifactSettings:
    """Which checkpoints W&B gets: the group `checkpoint.artifacts`.

    Raises:
        ValueError: a value is not one of the choices.
    """

    which: Literal["all", "best", "final", "none"]
    every: int
    pruned: Literal["delete", "untag", "keep"]
    queue_bytes: int | None
    wait_s: float

    def __post_init__(self) -> None:
        _check_choice("which", self.which, ("all", "best", "final", "none"))
        _check_choice("pruned", self.pruned, ("delete", "untag", "keep"))
        if not _is_integer(self.every, least=1):
            raise ValueError(f"every={self.every!r} must be an integer from 1.")


@dataclass(frozen=True)
class CheckpointSettings:
    """When to save, what to keep, and how to write: the group `checkpoint`.

    Raises:
        ValueError: a value is not one of the choices, or a trigger needs a monitor and there is none.
    """

    directory: Path
    triggers: Mapping[str, Trigger] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)
    monitor: str | None = None
    mode: Mode = "min"
    writing: Writing = field(default_factory=Writing)
    artifacts: ArtifactSettings | None = None

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, ("min", "max"))

    @property
    def by_score(self) -> str:
        """The name of a trigger that ranks validations by the monitor; empty if there is none."""
        return next((name for name, trigger in self.triggers.items() if isinstance(trigger, BestValidation)), "")


@dataclass(frozen=True)
class TrainerSettings:
    """The group `trainer`: the node that Lightning's Trainer is built from, and the limits that are read here."""

    node: DictConfig
    max_epochs: int | None = None
    max_time_s: float | None = None
    """Training time of the run over all its attempts, in seconds."""


@dataclass(frozen=True)
class Settings:
    """A parsed configuration. Groups that become objects stay nodes until `build` instantiates them."""

    config: DictConfig
    """The whole configuration, resolved: what the run directory, checkpoints and loggers store."""
    task_name: str
    seed: int
    train: bool
    test: bool
    ckpt_path: str | None
    init_weights: str | None
    optimized_metric: str | None
    data: DictConfig
    model: DictConfig
    trainer: TrainerSettings
    checkpoint: CheckpointSettings
    callbacks: Mapping[str, DictConfig]
    loggers: Mapping[str, DictConfig]


def parse(cfg: DictConfig) -> Settings:
    """Parse a resolved configuration and refuse what cannot work.

    Args:
        cfg: as Hydra has composed it, with all interpolations resolved.

    Returns:
        The settings. The triggers and keep rules in them are objects already.

    Raises:
        ConfigError: the message names the key and what it must be.
    """
    if not _is_integer(cfg.seed, least=0) or cfg.seed >= 2**32:
        raise ConfigError(f"seed={cfg.seed} must be an integer from 0 to {2**32 - 1}.")
    settings = Settings(
        config=cfg,
        task_name=cfg.task_name,
        seed=cfg.seed,
        train=bool(cfg.get("train")),
        test=bool(cfg.get("test")),
        ckpt_path=cfg.get("ckpt_path") or None,
        init_weights=cfg.get("init_weights") or None,
        optimized_metric=cfg.get("optimized_metric"),
        data=cfg.data,
        model=cfg.model,
        trainer=_trainer(cfg.trainer),
        checkpoint=_checkpoint(cfg.checkpoint),
        callbacks={name: node for name, node in cfg.get("callbacks", {}).items() if node and "_target_" in node},
        loggers={name: node for name, node in cfg.get("logger", {}).items() if node},
    )
    for name, node in settings.loggers.items():
        _check_logger(f"logger.{name}", node, settings.task_name)
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    """Refuse values that are right on their own and wrong together."""
    if settings.ckpt_path and settings.init_weights:
        raise ConfigError(
            "ckpt_path= starts from the full state and init_weights= from the weights alone: give one of them."
        )
    by_score, trainer = settings.checkpoint.by_score, settings.trainer.node
    if by_score and settings.checkpoint.monitor is None:
        raise ConfigError(f"checkpoint.triggers.{by_score} needs a metric to rank by: checkpoint.monitor=val/loss.")
    if by_score and trainer.get("limit_val_batches") == 0:
        raise ConfigError(
            f"checkpoint.triggers.{by_score} saves after validations, but trainer.limit_val_batches=0 disables them: "
            f"set checkpoint=interval, or validate."
        )
    if trainer.get("overfit_batches") and settings.checkpoint.triggers:
        raise ConfigError("trainer.overfit_batches changes the order of samples: it needs checkpoint=none.")


def _trainer(node: DictConfig) -> TrainerSettings:
    for key in ("max_epochs", "min_epochs", "max_steps", "min_steps"):
        value = node.get(key)
        if value is not None and not _is_integer(value):
            raise ConfigError(f"trainer.{key}={value!r} must be an integer.")
    limit = node.get("max_time")
    if limit is None:
        return TrainerSettings(node, node.get("max_epochs"))
    with errors_at("trainer", "max_time"):
        return TrainerSettings(node, node.get("max_epochs"), parse_duration_s(_plain(limit), name="max_time"))


def _checkpoint(group: DictConfig) -> CheckpointSettings:
    if not group.get("dirpath"):
        raise ConfigError(f"checkpoint.dirpath={group.get('dirpath')!r} must be a directory.")
    _check_keys_of_presets(group)
    triggers = _objects("checkpoint.triggers", group.get("triggers"))
    rules = _objects("checkpoint.keep", group.get("keep", {}))
    artifacts = _artifacts(group.artifacts) if "artifacts" in group else None
    with errors_at("checkpoint"):
        writing = Writing(**{item.name: group[item.name] for item in fields(Writing) if item.name in group})
        ranking = {key: group[key] for key in ("monitor", "mode") if key in group}
        return CheckpointSettings(Path(group.dirpath), triggers, rules, writing=writing, artifacts=artifacts, **ranking)


def _check_keys_of_presets(group: DictConfig) -> None:
    """Check the keys that triggers and keep rules take by interpolation, so that a message names the user's own key."""
    if "save_interval" in group:
        with errors_at("checkpoint", "save_interval"):
            parse_interval(group.save_interval)
        # Also for another interval than auto: a resume may choose auto.
        with errors_at("checkpoint", "max_overhead"):
            Auto(group.get("max_overhead", 0.01))
        with errors_at("checkpoint", "mtbf"):
            Auto(0.01, _plain(group.get("mtbf")))
    for key, rule in (("keep_last", Latest), ("save_top_k", Best)):
        if key in group:
            with errors_at("checkpoint", key):
                rule(group[key])


def _artifacts(group: DictConfig) -> ArtifactSettings:
    with errors_at("checkpoint.artifacts", "queue"):
        queue_bytes = None if group.queue is None else parse_size(group.queue)
    with errors_at("checkpoint.artifacts", "wait"):
        wait_s = parse_duration_s(_plain(group.wait), name="wait")
    with errors_at("checkpoint.artifacts"):
        return ArtifactSettings(group.which, group.every, group.pruned, queue_bytes, wait_s)


def _objects(key: str, nodes: Any) -> dict[str, Any]:
    """The objects that the nodes of a group describe; a node that is null is left out."""
    if not isinstance(nodes, DictConfig):
        raise ConfigError(f"{key}={nodes!r} must map names to objects; for none: {{}}.")
    described = {str(name): node for name, node in nodes.items() if node is not None}
    return {name: build_object(f"{key}.{name}", node) for name, node in described.items()}


def _check_logger(key: str, node: DictConfig, task_name: str) -> None:
    """Refuse what W&B's client would refuse after the run has begun."""
    from lightning.pytorch.loggers import WandbLogger  # with torch, which parsing has to do without until here

    target = target_of(key, node)
    if not (isinstance(target, type) and issubclass(target, WandbLogger)):
        return
    project = str(node.get("project") or "")
    # A project that is the task's name is made valid later.
    if project != task_name and (len(project) > LONGEST_NAME or set(NOT_IN_A_PROJECT) & set(project)):
        raise ConfigError(
            f"{key}.project={project!r} must have at most {LONGEST_NAME} characters, and none of "
            f"{' '.join(NOT_IN_A_PROJECT)}, which W&B refuses."
        )
    tags = node.get("tags") or []
    for tag in map(str, [tags] if isinstance(tags, str) else tags):
        if not 0 < len(tag) <= _LONGEST_TAG:
            raise ConfigError(
                f"{key}.tags: {tag!r} must have from 1 to {_LONGEST_TAG} characters: W&B refuses other tags."
            )


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    # By type as well: 1 == True.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name}={value!r} must be {', '.join(map(str, choices[:-1]))} or {choices[-1]}.")


def _is_integer(value: Any, least: int | None = None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
