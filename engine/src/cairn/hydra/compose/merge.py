"""Merge the stored configuration of a run with the command that resumes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cairn.errors import ResumeError
from cairn.hydra.command.arguments import literal
from cairn.hydra.compose import defaults

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
"""Keys that a resume cannot change: with another value, the result would differ from an undisturbed run."""
FREE = ("data.num_workers", "data.pin_memory", "data.persistent_workers", "data.cache_dir")
"""Keys below a fixed group that may change, because they do not affect the numbers."""
_GLOBAL_BATCH_SIZE = "data.global_batch_size"
FREE_WITH_GLOBAL_BATCHES = ("data.batch_size", "trainer.devices", "trainer.num_nodes")
"""Keys that may change as well if the global batch size is set: then they do not change the global batches."""
_REPORTED_GROUPS = ("model", "data", "trainer", "checkpoint", "callbacks", "logger")
"""Groups in which an edited YAML file is reported."""
_GROUPS_OF_ANYTHING = ("experiment", "debug")
"""Groups whose options set keys of other groups."""
_PER_PROCESS = ("paths", "hydra")
_ABSENT = object()

Change = tuple[Any, Any]  # old, new


@dataclass(frozen=True)
class Merged:
    """The configuration that a run continues with, and how it differs from the stored one."""

    config: DictConfig
    changed: Mapping[str, Change]
    """Dotted keys with their old and new values."""
    kept: Mapping[str, Change]
    """Fixed keys that would follow a changed key by interpolation, and keep their old values."""
    edited: Mapping[str, Change]
    """Keys that were edited in the YAML files since the run began; the edits do not apply to it."""


def merge(
    own: DictConfig, before: DictConfig, now: DictConfig, overrides: Sequence[str], unread: Sequence[str] = ()
) -> Merged:
    """Apply the difference that the new overrides make to the configuration of the run.

    Both the old and the new overrides are composed from the current YAML files. A key that was edited in the files is
    therefore equal in `before` and `now`, and keeps the stored value:

        own     stored with the run
        before  old overrides + current files    ┐ a key that differs here was changed
        now     new overrides + current files    ┘ by the command

    Args:
        own: The stored configuration.
        before: The old overrides, composed from the current files.
        now: The new overrides, composed from the current files.
        overrides: Keys that the new command sets, and the old one did not set or set to another value.
        unread: Keys that the old command set, but that are not composed here; they are not reported as edited.

    Returns:
        The merged configuration and the differences.

    Raises:
        ResumeError: An override changes a fixed key; the message lists each one with its old and new value.
    """
    changed: dict[str, Change] = {}
    fixed: dict[str, Change] = {}
    stored, old, new = (OmegaConf.to_container(cfg) for cfg in (own, before, now))
    free = _free(OmegaConf.select(own, _GLOBAL_BATCH_SIZE), OmegaConf.select(now, _GLOBAL_BATCH_SIZE))
    config: DictConfig = OmegaConf.create(_merge_node(stored, old, new, "", changed, fixed, free))
    if requested := {key: fixed[key] for key in sorted(fixed) if _is_requested(key, overrides)}:
        hint = (
            f" With {_GLOBAL_BATCH_SIZE}=N it may change, where N is the number of samples on which all processes of "
            f"this run together have trained in a step."
        )
        raise ResumeError(
            f"This command would change {describe(requested)}, which a resumed run must keep. Remove the override, or "
            f"start a new run from the weights: init_weights=FILE."
            + (hint if not requested.keys().isdisjoint(FREE_WITH_GLOBAL_BATCHES) else "")
        )
    was, then = flatten(own), flatten(before)
    edited = {
        key: (was.get(key), value)
        for key, value in then.items()
        if was.get(key, _default(key)) != value
        and key not in {**changed, **fixed}
        and _is_below(key, _REPORTED_GROUPS)
        and not _is_below(key, unread)
    }
    return Merged(config, changed, fixed, edited)


def _free(size_before: int | None, size_now: int | None) -> tuple[str, ...]:
    """Return the keys below fixed groups that may change."""
    if size_now is None:
        return FREE
    # A run that had none goes on with one if that is what its batches had: whether they had is seen when it is resumed.
    return (*FREE, *FREE_WITH_GLOBAL_BATCHES, *((_GLOBAL_BATCH_SIZE,) if size_before is None else ()))


def _merge_node(
    own: Any,
    before: Any,
    now: Any,
    key: str,
    changed: dict[str, Change],
    fixed: dict[str, Change],
    free: Sequence[str],
) -> Any:
    """Return `own` with the differences between `before` and `now`, except under fixed keys; record both kinds."""
    if before == now or _is_below(key, _PER_PROCESS):
        return own
    if all(isinstance(node, dict) for node in (own, before, now)):
        merged = {}
        for name in {**own, **now}:
            stored, old, new = (node.get(name, _ABSENT) for node in (own, before, now))
            merged[name] = _merge_node(stored, old, new, _dotted(key, name), changed, fixed, free)
        return {name: node for name, node in merged.items() if node is not _ABSENT}
    was, will = ({} if node is _ABSENT else flatten(node, key) for node in (own, now))
    change = {leaf: (was.get(leaf), will.get(leaf)) for leaf in {**was, **will} if was.get(leaf) != will.get(leaf)}
    is_fixed = _is_below(key, FIXED) and not _is_below(key, free)
    (fixed if is_fixed else changed).update(change)
    return own if is_fixed else now


def as_config(values: Any) -> DictConfig:
    """Return plain values as a configuration in which a text with `${` is a text, and not an interpolation."""

    def written(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: written(item) for name, item in value.items()}
        if isinstance(value, list):
            return [written(item) for item in value]
        return literal(value) if isinstance(value, str) else value

    config: DictConfig = OmegaConf.create(written(values))
    return config


def follow_moved_paths(own: DictConfig, now: DictConfig) -> DictConfig:
    """Return `own` with its current paths: the run directory, or the whole clone, may have been moved."""
    moved = [(own.paths[name], now.paths[name]) for name in ("output_dir", "root_dir")]

    def follow(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: follow(item) for name, item in value.items()}
        if isinstance(value, list):
            return [follow(item) for item in value]
        for old, new in moved:
            if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
                return new + value.removeprefix(old)
        return value

    return as_config(follow(OmegaConf.to_container(own, resolve=True)))


def fixed_changes(before: DictConfig, now: DictConfig) -> list[str]:
    """Return the fixed keys that differ between two configurations, whose interpolations need not be resolved."""
    old, new = (flatten(OmegaConf.to_container(cfg)) for cfg in (before, now))
    names = [name for name in {**old, **new} if old.get(name, _ABSENT) != new.get(name, _ABSENT)]
    return [name for name in names if _is_below(name, FIXED) and not _is_below(name, FREE)]


def describe(changes: Mapping[str, Change]) -> str:
    """Format changes as `model.lr (0.1 to 0.2), ...`."""
    return ", ".join(f"{key} ({old!r} to {new!r})" for key, (old, new) in changes.items())


def flatten(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a configuration by their dotted keys; an empty node is a leaf."""
    container = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    if not isinstance(container, dict) or not container:
        return {prefix: container}
    flat: dict[str, Any] = {}
    for name, value in container.items():
        flat |= flatten(value, _dotted(prefix, name))
    return flat


def _default(key: str) -> Any:
    """Return the value of a key that a run has not stored: it may be a key of a newer version of the library."""
    return defaults.values().get(key)


def _is_requested(key: str, overrides: Sequence[str]) -> bool:
    keys = [override.replace("/", ".") for override in overrides]  # a group in a group: model/scheduler=other
    return _is_below(key, keys) or any(name in _GROUPS_OF_ANYTHING for name in keys)


def _is_below(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _dotted(key: str, name: Any) -> str:
    return f"{key}.{name!s}" if key else str(name)
