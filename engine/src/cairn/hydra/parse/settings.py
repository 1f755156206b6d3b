"""Parse the configuration once into frozen settings. Values are checked by the constructors that take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.parse import mirror_settings, tracker_settings, wandb_settings
from cairn.hydra.parse.objects import build_object, errors_at, in_yaml, target_name, target_of
from cairn.policy import patience
from cairn.policy.keep import Best, Latest, Rule
from cairn.policy.patience import Patience
from cairn.policy.when import Auto, BestValidation, Trigger, parse_interval
from cairn.types import AuditMode, ElasticLevel, Mode
from cairn.units import parse_duration_s
from cairn.wandb.settings import WandbSettings
from cairn.writing.options import Writing

_OTHER_GROUPS = {
    "callbacks": "add a callback to the group callbacks: +callbacks.NAME._target_=CLASS",
    "logger": "choose the loggers with the group logger, such as logger=csv or logger=none",
}
"""Arguments of Lightning's Trainer that are built from groups of their own, and what to do instead of setting them."""


@dataclass(frozen=True)
class CheckpointSettings:
    """When to save, what to keep, and how to write: the group `checkpoint`.

    Raises:
        ValueError: `mode` is neither `min` nor `max`.
    """

    directory: Path
    triggers: Mapping[str, Trigger] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)
    monitor: str | None = None
    mode: Mode = "min"
    writing: Writing = field(default_factory=Writing)
    audit: AuditMode = "warn"
    watchdog: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, ("min", "max"))
        _check_choice("audit", self.audit, get_args(AuditMode))

    @property
    def by_score(self) -> str:
        """Name of a trigger that ranks validations by the monitor; empty if there is none."""
        return next((name for name, trigger in self.triggers.items() if isinstance(trigger, BestValidation)), "")


@dataclass(frozen=True)
class TrainerSettings:
    """The group `trainer`: the node that Lightning's Trainer is built from, and the limits that are read here."""

    node: DictConfig
    max_epochs: int | None = None
    max_time_s: float | None = None
    """Training time of the run over all its attempts, in seconds."""
    elastic: ElasticLevel = "samples"


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
    init_weights_strict: bool = True
    """Whether all weights of the file and of the model must fit, or those with the prefix."""
    init_weights_prefix: str | None = None
    """Selects weights of the file by the beginning of their names, or changes that; see `InitWeights`."""
    predict: bool = False


def parse(cfg: DictConfig) -> Settings:
    """Parse and check a resolved configuration.

    Args:
        cfg: The configuration that Hydra has composed, with all interpolations resolved.

    Returns:
        The settings. Their triggers and keep rules are already objects.

    Raises:
        ConfigError: A value is invalid; the message names its key and the valid values.
    """
    if cfg.get("prove") not in (None, False):
        raise ConfigError(
            in_yaml(
                f"prove={cfg.prove} works only as prove=true on the command line of one run, or as cairn prove: here, "
                f"it would train the whole run."
            )
        )
    if not _is_integer(cfg.seed, least=0) or cfg.seed >= 2**32:
        raise ConfigError(in_yaml(f"seed={cfg.seed} must be an integer from 0 to {2**32 - 1}."))
    for key in ("train", "test", "predict"):
        if cfg.get(key) not in (None, True, False):  # such as `no`, which is a text that counts as true
            raise ConfigError(in_yaml(f"{key}={cfg[key]!r} must be true or false."))
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
        callbacks={name: node for name, node in cfg.get("callbacks", {}).items() if node is not None},
        loggers={name: node for name, node in cfg.get("logger", {}).items() if node is not None},
        init_weights_strict=cfg.get("init_weights_strict", True),
        init_weights_prefix=cfg.get("init_weights_prefix") or None,
        predict=bool(cfg.get("predict")),
    )
    for name, node in settings.callbacks.items():
        target_name(f"callbacks.{name}", node)
    tracker_settings.check_addresses(settings.loggers)
    if settings.train:
        tracker_settings.check_installed(settings.loggers)
    for name, node in settings.loggers.items():
        _check_logger(f"logger.{name}", node, settings.task_name)
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    """Refuse combinations of values that are valid on their own."""
    if settings.ckpt_path and settings.init_weights:
        raise ConfigError(
            "ckpt_path= starts from the full state and init_weights= from the weights alone: set only one of them."
        )
    if not isinstance(settings.init_weights_strict, bool):
        raise ConfigError(in_yaml(f"init_weights_strict={settings.init_weights_strict!r} must be true or false."))
    if not isinstance(settings.init_weights_prefix, str | None):
        raise ConfigError(in_yaml(f"init_weights_prefix={settings.init_weights_prefix!r} must be text, such as net."))
    if not settings.init_weights and (not settings.init_weights_strict or settings.init_weights_prefix):
        key = "init_weights_prefix" if settings.init_weights_strict else "init_weights_strict"
        raise ConfigError(f"{key} has no effect without init_weights=FILE.")
    if settings.predict and settings.train and not settings.checkpoint.triggers:
        raise ConfigError("predict=true needs a checkpoint, and checkpoint=none saves none: choose another preset.")
    by_score, trainer = settings.checkpoint.by_score, settings.trainer.node
    if by_score and settings.checkpoint.monitor is None:
        raise ConfigError(f"checkpoint.triggers.{by_score} needs a metric to rank by: checkpoint.monitor=val/loss.")
    is_of_training = str(settings.checkpoint.monitor).startswith("train")  # the engine knows what is logged
    if by_score and trainer.get("limit_val_batches") == 0 and not is_of_training:
        raise ConfigError(
            f"checkpoint.triggers.{by_score} saves after validations, but trainer.limit_val_batches=0 disables them: "
            f"set checkpoint=interval, or raise trainer.limit_val_batches."
        )
    if trainer.get("overfit_batches") and settings.checkpoint.triggers:
        raise ConfigError("trainer.overfit_batches changes the order of samples: it needs checkpoint=none.")


def _trainer(node: DictConfig) -> TrainerSettings:
    for key, instead in _OTHER_GROUPS.items():
        if node.get(key) is not None:
            raise ConfigError(f"trainer.{key} would have no effect: {instead}.")
    if node.get("enable_checkpointing") is False:
        raise ConfigError("trainer.enable_checkpointing=false is not supported: use checkpoint=none.")
    for key in ("max_epochs", "min_epochs", "max_steps", "min_steps"):
        value = node.get(key)
        if value is not None and not _is_integer(value):
            raise ConfigError(in_yaml(f"trainer.{key}={value!r} must be an integer."))
    limit, elastic = node.get("max_time"), node.get("elastic", "samples")
    with errors_at("trainer"):
        _check_choice("elastic", elastic, get_args(ElasticLevel))
    if limit is None:
        return TrainerSettings(node, node.get("max_epochs"), elastic=elastic)
    try:
        limit_s = parse_duration_s(_plain(limit), name="trainer.max_time")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return TrainerSettings(node, node.get("max_epochs"), limit_s, elastic)


def _checkpoint(group: DictConfig) -> CheckpointSettings:
    if not group.get("dirpath"):
        raise ConfigError(in_yaml(f"checkpoint.dirpath={group.get('dirpath')!r} must be a directory."))
    _check_keys_of_presets(group)
    triggers = _objects("checkpoint.triggers", group.get("triggers"))
    rules = _objects("checkpoint.keep", group.get("keep", {}))
    wandb_settings.artifacts(group)
    mirror_settings.read(group)
    with errors_at("checkpoint"):
        writing = Writing(**{item.name: group[item.name] for item in fields(Writing) if item.name in group})
        more = {key: group[key] for key in ("monitor", "mode", "audit") if key in group}
        if more.get("audit") is False:  # YAML reads `off` as a boolean
            more["audit"] = "off"
        if "watchdog" in group:
            more["watchdog"] = patience.parse(_plain(group.watchdog))
        return CheckpointSettings(Path(group.dirpath), triggers, rules, writing=writing, **more)


def _check_keys_of_presets(group: DictConfig) -> None:
    """Check the keys that triggers and keep rules interpolate, so that a message names the key that the user set."""
    if "save_interval" in group:
        with errors_at("checkpoint", "save_interval"):
            parse_interval(group.save_interval)
        # Even if the interval is not auto: a resume may change it to auto.
        with errors_at("checkpoint", "max_overhead"):
            Auto(group.get("max_overhead", 0.01))
        with errors_at("checkpoint", "mtbf"):
            Auto(0.01, _plain(group.get("mtbf")))
    for key, rule in (("keep_last", Latest), ("save_top_k", Best)):
        if key in group:
            with errors_at("checkpoint", key):
                rule(group[key])


def _objects(key: str, nodes: Any) -> dict[str, Any]:
    """Build the objects that the nodes of a group describe; skip nodes that are null."""
    if not isinstance(nodes, DictConfig):
        raise ConfigError(in_yaml(f"{key}={nodes!r} must map names to objects; {{}} for none."))
    described = {str(name): node for name, node in nodes.items() if node is not None}
    return {name: build_object(f"{key}.{name}", node) for name, node in described.items()}


def _check_logger(key: str, node: DictConfig, task_name: str) -> None:
    """Refuse values that W&B's client would refuse after the run has started."""
    from lightning.pytorch.loggers import WandbLogger  # imports torch, which parsing avoids until here

    target = target_of(key, node)
    if not (isinstance(target, type) and issubclass(target, WandbLogger)):
        return
    project, tags = str(node.get("project") or ""), node.get("tags") or []
    with errors_at(key):  # a project named after the task is made valid later
        WandbSettings(
            project=None if project == task_name else project,
            tags=[tags] if isinstance(tags, str) else [str(tag) for tag in tags],
        )


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    # The type must be equal too, because 1 == True.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name}={value!r} must be {', '.join(map(str, choices[:-1]))} or {choices[-1]}.")


def _is_integer(value: Any, least: int | None = None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
