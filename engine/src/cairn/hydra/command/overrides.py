"""Overrides from the command line: their keys, renamed keys, and hints for keys that do not exist here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from cairn.errors import ConfigError
from cairn.hydra.command import resolvers

RENAMED: Mapping[str, str] = {
    "hydra/launcher=resumable_local": "hydra/launcher=submitit_local",
}
"""Keys, and options of groups, that had another name in an earlier version."""

_KEEP_LAST = "checkpoint.keep_last=N keeps the newest N checkpoints"
_INTERVAL = 'checkpoint.save_interval=N saves every N batches ("200st" counts optimizer steps)'
_EPOCHS = 'checkpoint.save_interval="1ep" saves once per epoch ("0.25ep" four times)'
_BEST = "checkpoint.save_top_k=K keeps the K best checkpoints by checkpoint.monitor"
_PRESET = "checkpoint=interval, best-val, combined or none chooses what is saved"
_RESUME = "resume=RUN_DIR resumes a run, and ckpt_path=FILE starts a new run from the full state in a checkpoint"
_PART = "init_weights_strict=false takes those weights of init_weights=FILE that fit"
_NAMES = (
    "checkpoints have fixed names such as epoch_000_batch_000150.ckpt, and checkpoint.dirpath=DIR is their directory"
)
ANSWERS: Mapping[str, str] = {
    **dict.fromkeys(("save_total_limit", "max_ckpts", "max_to_keep", "max_checkpoints", "num_ckpts_keep"), _KEEP_LAST),
    **dict.fromkeys(("save_steps", "every_n_train_steps", "every_n_steps", "save_every_n_steps"), _INTERVAL),
    **dict.fromkeys(("save_freq", "save_every", "checkpoint_interval", "checkpointing_steps"), _INTERVAL),
    **dict.fromkeys(("every_n_epochs", "save_every_n_epochs", "save_on_train_epoch_end", "period"), _EPOCHS),
    "train_time_interval": 'checkpoint.save_interval="10min" saves every ten minutes',
    "save_last": "last.ckpt always points to the newest checkpoint, and checkpoint.keep_last=N keeps the newest N",
    **dict.fromkeys(("save_best", "save_best_only", "load_best_model_at_end"), _BEST),
    "metric_for_best_model": "checkpoint.monitor=METRIC ranks checkpoints",
    "greater_is_better": "checkpoint.mode=max means that higher is better",
    **dict.fromkeys(("save_strategy", "enable_checkpointing", "checkpoint_callback"), _PRESET),
    "save_weights_only": "checkpoints hold the full state, and init_weights=FILE takes the weights alone from one",
    **dict.fromkeys(("strict", "strict_loading", "load_strict"), _PART),
    **dict.fromkeys(("resume_from_checkpoint", "resume_from", "auto_resume"), _RESUME),
    **dict.fromkeys(("filename", "auto_insert_metric_name", "enable_version_counter"), _NAMES),
    **dict.fromkeys(("output_dir", "save_dir"), "paths.log_dir=DIR is the directory of all runs"),
    **dict.fromkeys(("epochs", "num_epochs", "num_train_epochs"), "trainer.max_epochs=N trains for N epochs"),
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches=N does an optimizer step every N batches",
    "max_grad_norm": "trainer.gradient_clip_val=X clips gradients",
    "logging_steps": "trainer.log_every_n_steps=N logs every N optimizer steps",
    **dict.fromkeys(("lr", "learning_rate"), "model.optimizer.lr=X is the learning rate"),
    **dict.fromkeys(
        ("per_device_train_batch_size", "train_batch_size"), "data.batch_size=N is the number of samples per batch"
    ),
}
"""Keys of Lightning's ModelCheckpoint, transformers, orbax, accelerate and Keras, and their equivalents here."""
FILES = ("ckpt_path", "eval", "init_weights")
"""Keys whose values are files, which may have any name."""
_TRUE = ("true", "1", "yes", "on")
_GROUPS = ("checkpoint", "trainer", "data", "model")
"""Groups whose keys are recognized if the group is missing."""
_HOMES: Mapping[str, str] = {
    **dict.fromkeys(("keep_last", "save_interval", "save_top_k"), "checkpoint"),
    **dict.fromkeys(("max_epochs", "max_steps", "max_time"), "trainer"),
    "batch_size": "data",
}
"""Keys that are recognized in a wrong group too, and their group."""


def key(override: str) -> str:
    """Return the key that an override sets: `trainer.max_epochs` for `++trainer.max_epochs=3`."""
    return override.partition("=")[0].lstrip("+~")


def is_prove(override: str) -> bool:
    """Return whether an override sets `prove`."""
    return key(override) == "prove" and "=" in override


def asks_for_proof(argv: Sequence[str]) -> bool:
    """Return whether the last `prove=` on the command line asks for a proof."""
    given = [arg.partition("=")[2].strip("'\"").lower() for arg in argv if is_prove(arg)]
    return bool(given) and given[-1] in _TRUE


def is_hydra(override: str) -> bool:
    """Return whether an override sets a key of Hydra's own configuration, from which Hydra builds objects."""
    name = key(override)
    return name == "hydra" or name.startswith(("hydra.", "hydra/")) or "@hydra" in name


def recorded(overrides: Sequence[str], typed: Collection[str] = ()) -> tuple[str, ...]:
    """Return the overrides in a run.json that describe its run.

    A run directory may come from other people. Hydra builds what its own keys name, with all targets allowed, and a
    flag such as `--experimental-rerun` loads a pickle. Neither is ever recorded, so they are dropped; so is a file
    outside of the groups, which could set keys of Hydra. An interpolation that calls a resolver of the project or
    reads an environment variable is dropped as well: the run has stored its value.

    Args:
        overrides: Those in the run.json.
        typed: Overrides of the command. One that was typed again is kept, whatever it is.
    """
    return tuple(item for item in overrides if item in typed or not _is_refused(item))


def _is_refused(override: str) -> bool:
    is_of_hydra = override.startswith("-") or is_hydra(override) or _is_outside(override)
    return is_of_hydra or resolvers.reads_environment(override) or not resolvers.is_harmless(override)


def _is_outside(override: str) -> bool:
    name = key(override)
    return "../" in override.partition("=")[2] and "." not in name and name not in FILES


def merge(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return the old overrides, except those whose key the new ones set again, and then the new ones.

    What an old override has added stays where a new one deletes it: otherwise there is nothing to delete.
    """
    keys = {key(override) for override in new}
    deleted = {key(override) for override in new if override.startswith("~")}
    kept = [item for item in old if key(item) not in keys or (item.startswith("+") and key(item) in deleted)]
    return [*kept, *new]


def renamed(overrides: Sequence[str]) -> list[str]:
    """Replace keys and options of earlier versions, with a warning for each."""
    found = []
    for given in overrides:
        prefix = given[: len(given) - len(given.lstrip("+~"))]
        name, equals, value = given[len(prefix) :].partition("=")
        option = RENAMED.get(f"{name}{equals}{value}")
        today = prefix + (option or f"{RENAMED.get(name, name)}{equals}{value}")
        if today != given:
            print(f"Warning: {given} has been renamed; use {today}.", file=sys.stderr)
        found.append(today)
    return found


def check(
    overrides: Sequence[str], known: Collection[str], compose: Callable[[list[str]], Mapping[str, Any] | None]
) -> None:
    """Refuse keys of other frameworks and keys without their group, if the project has no such key of its own.

    Args:
        overrides: Overrides from the command line.
        known: Groups and keys at the top level of the configuration.
        compose: Composes a configuration from overrides; returns None if that fails. It is called only if there is a
            key to refuse.

    Raises:
        ConfigError: A key is refused; the message names the key to use instead.
    """
    # Deletions are not checked: Hydra reports a key that does not exist.
    given = [item for item in overrides if "=" in item and not item.startswith(("-", "~", "hydra"))]
    suspects = [item for item in given if _is_suspect(key(item), known, adds=item.startswith("+"))]
    if not suspects:
        return
    options = [item for item in given if item not in suspects and "." not in key(item) and "," not in item]
    config = compose(options)
    for item in suspects if config is not None else ():
        name = key(item)
        if not _has(config, name) and (answer := _answer(name, item, config)):
            raise ConfigError(answer)


def _is_suspect(name: str, known: Collection[str], adds: bool) -> bool:
    group, dot, last = name.rpartition(".")
    if not dot:
        return name not in known and not {"/", "@"} & set(name)
    # Elsewhere `+` may add an argument of the user's own class.
    if adds and group not in ("checkpoint", "trainer"):
        return False
    if last in _HOMES:
        return group != _HOMES[last]
    # A key that its own answer recommends is ours: composing for it would only take time.
    return last in ANSWERS and f" {name}=" not in f" {ANSWERS[last]}"


def _answer(name: str, override: str, config: Any) -> str:
    _, dot, last = name.rpartition(".")
    wrong_group = f"{name} does not exist; " if dot else ""
    if not dot or last in _HOMES:
        groups = [group for group in _GROUPS if _has(config, f"{group}.{last}", with_value=True)]
        if groups:
            return f"{wrong_group}{last} is a key of {groups[0]}: {groups[0]}.{last}={override.partition('=')[2]}."
        if last == "save_top_k":
            return f"{wrong_group}{last} is a key of checkpoint=best-val and checkpoint=combined: {_BEST}."
    return f"{name} is a key of another framework: here, {ANSWERS[last]}." if last in ANSWERS else ""


def _has(config: Any, name: str, with_value: bool = False) -> bool:
    """Return whether a key exists; its value may be null.

    Args:
        config: The composed configuration.
        name: Dotted key.
        with_value: Only a key that is not itself a group counts.
    """
    *parents, last = name.split(".")
    for parent in parents:
        config = config.get(parent) if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or last not in config:
        return False
    return not (with_value and isinstance(config[last], Mapping))
