"""Decides whether optimizers and schedulers can continue from the state of those in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.optim import Optimizer

from cairn.errors import ConfigError
from cairn.lightning.settings import schedules
from cairn.lightning.settings.learning_rate import nested, num_steps


def names(trainer: Trainer) -> dict[str, Any]:
    """Return the names of the classes of the optimizers and schedulers, and when each scheduler takes a step."""
    return {
        "optimizers": [type(optimizer).__name__ for optimizer in trainer.optimizers],
        "schedulers": [_name(config.scheduler) for config in trainer.lr_scheduler_configs],
        "timing": [[config.interval, config.frequency] for config in trainer.lr_scheduler_configs],
    }


def parameters(trainer: Trainer) -> list[list[list[str]]]:
    """Return the names of the parameters in each group of each optimizer; empty for those outside of the model."""
    names = {id(parameter): name for name, parameter in trainer.lightning_module.named_parameters()}
    return [
        [[names.get(id(parameter), "") for parameter in group["params"]] for group in optimizer.param_groups]
        for optimizer in trainer.optimizers
    ]


def check(trainer: Trainer, settings: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> list[str]:
    """Check that optimizers and schedulers can load the state of those of a checkpoint, before they do.

    Args:
        trainer: The trainer.
        settings: What the checkpoint says about the settings.
        checkpoint: The checkpoint.

    Returns:
        Texts about schedulers that are new, gone, of another class, or take their steps at other times than before.

    Raises:
        ConfigError: One of them cannot.
    """
    then = settings.get("classes", {})
    for before, optimizer in zip(then.get("optimizers", []), trainer.optimizers, strict=False):
        kind, old = type(optimizer), getattr(torch.optim, before, None)
        related = old is not None and (issubclass(kind, old) or issubclass(old, kind))  # Adam and AdamW
        if before != kind.__name__ and not related:
            raise _other_class(before, kind.__name__)
    classes, states = then.get("schedulers", []), checkpoint.get("lr_schedulers", [])
    for number, (config, state) in enumerate(zip(trainer.lr_scheduler_configs, states, strict=False)):
        if not _fits(config.scheduler, state):
            before = classes[number] if number < len(classes) else "another scheduler"
            raise _other_class(before, _name(config.scheduler))
    counts = len(then.get("optimizers", [])), len(trainer.optimizers)
    texts = [f"{counts[1]} optimizers ({counts[0]} in the checkpoint)"] if then and counts[0] != counts[1] else []
    lost = classes[len(trainer.lr_scheduler_configs) :]
    texts += [f"without {name}, which the checkpoint has" for name in lost]
    texts += [text for number in range(len(trainer.lr_scheduler_configs)) for text in _moved(trainer, number, then)]
    return texts


def steps_before(trainer: Trainer, number: int, ours: Mapping[str, Any]) -> int:
    """Return how many steps a scheduler of this run would have taken until a checkpoint was saved.

    Args:
        trainer: The trainer; its schedulers have loaded their state.
        number: Index of the scheduler.
        ours: Value of the key `cairn` in the checkpoint.
    """
    then, config = ours.get("settings", {}).get("classes", {}), trainer.lr_scheduler_configs[number]
    counted = num_steps(config.scheduler)
    by_position = schedules.steps_taken(trainer, ours, config.interval, config.frequency)
    # Its own count does not say how many steps it would have taken if it was not there, or took them at other times.
    moved = any(_moved(trainer, number, then, classes=False)) or (not then and not counted)
    if by_position is None or (counted is not None and not moved):
        return counted or 0
    return by_position


def differ(trainer: Trainer, counts: Mapping[int, int], settings: Mapping[str, Any]) -> bool:
    """Return whether a scheduler is new or of another class, or takes its steps at other times, than in a checkpoint.

    Args:
        trainer: The trainer.
        counts: What `steps_before` returned for each scheduler.
        settings: What the checkpoint says about the settings.
    """
    then = settings.get("classes", {})
    if not then:
        return any(
            num_steps(trainer.lr_scheduler_configs[number].scheduler) != count for number, count in counts.items()
        )
    return any(any(_moved(trainer, number, then)) for number in counts)


def check_groups(trainer: Trainer, ours: Mapping[str, Any], states: Sequence[Any], resumes: bool) -> None:
    """Check that optimizers have the parameters whose state a checkpoint holds, before they load it.

    Args:
        trainer: The trainer.
        ours: Value of the key `cairn` in the checkpoint.
        states: States of the optimizers in it.
        resumes: Whether the run is the same.

    Raises:
        ConfigError: An optimizer has others.
    """
    then = ours.get("settings", {}).get("parameters", [])
    known = {*_flat([[name for name, _ in trainer.lightning_module.named_parameters()]])}
    for number, (optimizer, state) in enumerate(zip(trainer.optimizers, states, strict=False)):
        adapts = type(optimizer).load_state_dict is not Optimizer.load_state_dict
        if adapts or optimizer._optimizer_load_state_dict_pre_hooks or "param_groups" not in state:
            continue  # it may load what it does not have
        sizes = [len(group["params"]) for group in state["param_groups"]]
        now = parameters(trainer)[number]
        before = then[number] if number < len(then) and [*map(len, then[number])] == sizes else []
        pairs = zip(_flat(before), _flat(now), strict=False)
        # A name that the model does not have any more was changed in the code.
        if [*map(len, now)] != sizes or any(old != new and old in known for old, new in pairs):
            raise _other_parameters(type(optimizer).__name__, (before, now), sizes, bool(ours.get("config")), resumes)


def _moved(trainer: Trainer, number: int, then: Mapping[str, Any], classes: bool = True) -> Iterator[str]:
    """Yield texts about a scheduler that is new, takes its steps at other times, or is of another class than before."""
    if not then:  # an earlier version saved the checkpoint
        return
    config = trainer.lr_scheduler_configs[number]
    name, before = _name(config.scheduler), then["schedulers"]
    if number >= len(before):
        yield f"{name} (not in the checkpoint)"
        return
    if classes and before[number] != name:
        yield f"{name} in place of {before[number]}"
    if number < len(then.get("timing", [])) and trainer.lightning_module.automatic_optimization:
        for what, old in zip(("interval", "frequency"), then["timing"][number], strict=True):
            if old != (new := getattr(config, what)):
                yield f"{name}: {what}={new} ({old} in the checkpoint)"


def _name(scheduler: Any) -> str:
    inner = ", ".join(_name(part) for part in getattr(scheduler, "_schedulers", []))
    return f"{type(scheduler).__name__}({inner})" if inner else type(scheduler).__name__


def _fits(scheduler: Any, state: Any) -> bool:
    """Return whether a scheduler can load a state: torch looks for these entries without a check."""
    if not isinstance(state, Mapping):
        return True
    for (_, part), (_, saved) in zip(nested(scheduler, ""), _nested_states(state), strict=False):
        if len(getattr(part, "_schedulers", [])) != len(saved.get("_schedulers", [])):
            return False
        if "lr_lambdas" in vars(part) and "lr_lambdas" not in saved:
            return False
    return True


def _nested_states(state: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "", state
    for inner in state.get("_schedulers", []):
        yield from _nested_states(inner)


def _flat(groups: Sequence[Sequence[str]]) -> list[str]:
    # torch.compile and ModelPruning rename parameters in the course of a training.
    return [name.replace("_orig_mod.", "").removesuffix("_orig") for group in groups for name in group]


def _other_class(before: str, now: str) -> ConfigError:
    return ConfigError(
        f"The checkpoint holds the state of {before}, and this run has {now}, which cannot continue from it: choose "
        f"{before} again, or start a new run from the weights alone."
    )


def _other_parameters(
    kind: str, groups: tuple[Sequence[Any], Sequence[Any]], sizes: Sequence[int], in_hydra: bool, resumes: bool
) -> ConfigError:
    before, now = ({*_flat(found)} for found in groups)
    differences = [
        f"{', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''} {where}"
        for names, where in ((now - before, "only in this run"), (before - now, "only in the checkpoint"))
        if names and before
    ]
    if before and before == now and sizes == [*map(len, groups[1])]:
        differences = ["in another order"]
    way = "init_weights=FILE in place of ckpt_path=FILE" if in_hydra else "load its weights, and fit without ckpt_path"
    return ConfigError(
        f"The state of {kind} in the checkpoint is about other parameters: {_sizes(sizes)} there, "
        f"{_sizes([*map(len, groups[1])])} in this run{''.join(f'; {text}' for text in differences)}. "
        f"{'Set that back' if resumes else 'Choose the same parameters and groups'}, or start a new run from the "
        f"weights alone: {way}."
    )


def _sizes(sizes: Sequence[int]) -> str:
    return f"{len(sizes)} group{'s' if len(sizes) != 1 else ''} of {' + '.join(map(str, sizes))}"
