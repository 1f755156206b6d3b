"""Facts of a boundary: everything that a resume could get wrong, as JSON values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Trainer

from cairn.lightning.loops import boundary
from cairn.lightning.saved import unsaved
from cairn.testing import path
from cairn.testing.attributes import Roles, attributes
from cairn.testing.digest import digest, flat, shown

Facts = dict[str, dict[str, Any]]
"""Facts by kind and name."""


def at_start(trainer: Trainer) -> Facts:
    """Return the facts before a batch: what differs here was lost by the resume, and has had no effect yet."""
    return {"attribute": attributes(trainer)[0], "generator": _generators()}


def at_boundary(trainer: Trainer) -> tuple[Facts, Roles, list[str]]:
    """Return the facts after a batch, the roles of the owners of attributes, and the attributes that were sampled."""
    model = trainer.lightning_module
    found, roles, sampled = attributes(trainer)
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    schedulers = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    metrics = {**trainer.callback_metrics, **trainer.logged_metrics}
    modes = {f"{name or type(model).__name__} training": part.training for name, part in model.named_modules()}
    frozen = {f"{name} requires_grad": item.requires_grad for name, item in model.named_parameters()}
    facts: Facts = {
        "attribute": found,
        "callback": dict(flat(boundary.callback_states(trainer))),
        "mode": {**modes, **frozen},
        "tensor": {name: digest(value) for name, value in [*model.named_parameters(), *model.named_buffers()]},
        "optimizer": _numbered(optimizers),
        "scheduler": _numbered(schedulers),
        "metric": {name: shown(value) for name, value in metrics.items()},
        "loop": {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "should_stop": trainer.should_stop,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
        },
        "generator": _generators(),
    }
    return facts, roles, sampled


def hidden(trainer: Trainer, names: Iterable[str]) -> list[str]:
    """Return the attributes among these names that no expression reads, such as the variables of a function."""
    model = trainer.lightning_module
    owners: dict[str, Any] = {type(model).__name__: model}
    owners |= {f"{type(model).__name__}.{name}": part for name, part in model.named_modules() if name}
    owners |= {type(item).__name__: item for item in [trainer.datamodule, *reversed(trainer.callbacks)]}
    found = []
    for name in names:
        # Only nested names can be unreadable; the longest owner is the nearest module.
        owner = max((owner for owner in owners if name.startswith(f"{owner}.")), key=len, default="")
        if owner and not path.is_readable(owners[owner], name.removeprefix(f"{owner}.")):
            found.append(name)
    return found


def loaders(trainer: Trainer) -> list[dict[str, Any]]:
    """Return what is known about the training loaders, from which a cure is chosen."""
    found = []
    for loader in boundary.train_loaders(trainer):
        kind, dataset = type(loader), getattr(loader, "dataset", None)
        found.append(
            {
                "class": kind.__name__,
                "package": kind.__module__.partition(".")[0],
                "is_ours": any(base.__module__.startswith("cairn.") for base in kind.__mro__),
                "has_state": hasattr(loader, "state_dict"),
                "workers": getattr(loader, "num_workers", 0),
                "dataset": type(dataset).__name__,
            }
        )
    return found


def _generators() -> dict[str, Any]:
    return {name: digest(value) for name, value in unsaved.rng_state().items()}


def _numbered(states: list[Any]) -> dict[str, Any]:
    return {f"{number}.{key}": value for number, item in enumerate(states) for key, value in flat(item)}
