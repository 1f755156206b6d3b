"""Compares the length of a training with that of its learning-rate schedules: a longer run needs a longer schedule."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn.errors import ConfigError
from cairn.lightning.loops import boundary
from cairn.lightning.settings import learning_rate, parts

_warn = rank_zero_only(logging.getLogger(__name__).warning)

_LENGTHS = (
    "total_steps",
    "T_max",
    "total_iters",
    "num_training_steps",
    "t_total",
    "t_initial",
    "max_iters",
    "max_steps",
    "num_steps",
    "decay_steps",
    "max_epochs",
)
"""Names under which schedulers of torch and of other packages keep the length of their schedule."""
_RAISES, _RISES = "OneCycleLR", "CosineAnnealingLR"
_WARM_UPS = {"LinearLR", "ConstantLR"}
"""Schedulers that mostly begin a training, and do not last until its end."""


def limits(trainer: Trainer) -> dict[str, int | None]:
    """Return how long the training is; -1: no limit, None: unknown."""
    batches, _ = _counted(trainer)
    return {
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "batches": int(batches) if math.isfinite(batches) else None,
    }


def limits_then(ours: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the limits that the training of a checkpoint had, as far as they are known."""
    settings = ours.get("settings", {})
    if "limits" in settings:
        return dict(settings["limits"])
    trainer = ours.get("config", {}).get("trainer", {})  # saved by an earlier version, from a configuration
    return {name: trainer[name] for name in ("max_epochs", "max_steps") if isinstance(trainer.get(name), int)}


def is_longer(trainer: Trainer, ours: Mapping[str, Any]) -> bool:
    """Return whether a limit of the training is higher than when the checkpoint was saved."""
    then, now = limits_then(ours), limits(trainer)
    return any(_end(now[name]) > _end(then[name]) for name in ("max_epochs", "max_steps") if name in then)


def completed_epochs(ours: Mapping[str, Any]) -> int:
    """Return how many epochs a checkpoint has completed."""
    position, batches = ours["position"], limits_then(ours).get("batches")
    over = ours["place"] == "epoch" or (batches is not None and position["batch"] >= batches)
    return int(position["epoch"] + (position["batch"] > 0 and over))


def what_ended(trainer: Trainer, ours: Mapping[str, Any]) -> str:
    """Return the limit that a checkpoint has reached, in a sentence about it; empty: there is more to train."""
    epochs, step = completed_epochs(ours), ours["position"]["step"]
    if epochs >= _end(trainer.max_epochs):
        return f"the checkpoint has completed {epochs} epochs, and max_epochs={trainer.max_epochs}: raise max_epochs"
    if step >= _end(trainer.max_steps):
        return f"the checkpoint has taken {step} steps, and max_steps={trainer.max_steps}: raise max_steps"
    return ""


def steps_taken(trainer: Trainer, ours: Mapping[str, Any], interval: str, frequency: int) -> int | None:
    """Return how many steps a scheduler with this interval would have taken until a checkpoint was saved.

    Args:
        trainer: The trainer.
        ours: Value of the key `cairn` in the checkpoint.
        interval: `step` or `epoch`.
        frequency: Every how many of them the scheduler takes a step.

    Returns:
        The number; None: with manual optimization, only the module knows.
    """
    if not trainer.lightning_module.automatic_optimization:
        return None
    position, epochs = ours["position"], completed_epochs(ours)
    if interval == "epoch":
        return epochs // frequency
    if frequency == 1:
        return int(position["step"])
    num_batches, window = _counted(trainer)
    if not math.isfinite(num_batches):
        return int(position["step"]) // frequency

    def steps(batches: int) -> int:  # Lightning counts the batches of the epoch, and asks at the end of a window
        numbers = range(frequency, batches + 1, frequency)
        return sum(number % window == 0 or number == num_batches for number in numbers)

    return epochs * steps(int(num_batches)) + (steps(position["batch"]) if position["epoch"] == epochs else 0)


def check(trainer: Trainer, ours: Mapping[str, Any], resumes: bool) -> None:
    """Warn about a schedule that ends before the training.

    Args:
        trainer: The trainer; its schedulers have their state.
        ours: Value of the key `cairn` in the checkpoint that it goes on from.
        resumes: Whether the run is the same as that of the checkpoint.

    Raises:
        ConfigError: A schedule would raise an error at its end, and the training is known to reach it.
    """
    if not trainer.lightning_module.automatic_optimization or (resumes and not is_longer(trainer, ours)):
        return
    for config in trainer.lr_scheduler_configs:
        left = _num_left(trainer, ours, config.interval)
        now = learning_rate.num_steps(config.scheduler) or 0
        final = now + left // max(1, config.frequency) if math.isfinite(left) else math.inf
        for scheduler, name, start, end in _ends(config.scheduler):
            kind = type(scheduler).__name__
            if end < final and (now <= end or kind == _RAISES) and not (kind in _WARM_UPS and now < end):
                _say(kind, name, (start, end, final), config.interval, ours.get("config", {}), resumes)


def _say(
    kind: str, name: str, times: tuple[int, int, float], interval: str, config: Mapping[str, Any], resumes: bool
) -> None:
    start, end, final = times
    unit, key = "steps" if interval == "step" else "epochs", key_of(config, name) or f"{name} of the {kind}"
    length, needed = ("has no limit", "") if math.isinf(final) else (f"has {final:g}", f": set it to {final - start:g}")
    then = {_RAISES: "it raises an error", _RISES: "the learning rate rises again"}
    cure = f"{key} decides{needed}."
    if resumes:
        cure = (
            f"A resumed run keeps its schedule. For a longer one, start a new run from the checkpoint with ckpt_path; "
            f"there, {key} decides."
        )
    message = (
        f"{kind} ends after {end} {unit}, and the training {length}: from then on, "
        f"{then.get(kind, 'the learning rate stays at its last value')}. {cure}"
    )
    if kind == _RAISES and math.isfinite(final):  # early stopping or `max_time` may end a training without a limit
        raise ConfigError(message)
    _warn(message)


def key_of(config: Any, name: str, path: str = "") -> str:
    """Return the dotted key of a configuration that ends in `name`, if there is one below `model`; else nothing."""
    if not path:
        return key_of(config.get("model", {}), name, "model") if isinstance(config, Mapping) else ""
    if not isinstance(config, Mapping):
        return ""
    if name in config:
        return f"{path}.{name}"
    return next(filter(None, (key_of(value, name, f"{path}.{key}") for key, value in config.items())), "")


def _ends(scheduler: Any, start: int = 0) -> Iterator[tuple[Any, str, int, int]]:
    """Yield the ends of a schedule: the scheduler, the name of the setting that decides, and its start and end."""
    inner = getattr(scheduler, "_schedulers", [])
    if milestones := getattr(scheduler, "_milestones", []):
        yield from _ends(inner[-1], start + milestones[-1])  # SequentialLR: the last one has the end
        return
    for other in inner:
        yield from _ends(other, start)
    functions = map(parts.function_settings, dict.fromkeys(getattr(scheduler, "lr_lambdas", [])))
    for values in (vars(scheduler), *functions):
        name = next((name for name in _LENGTHS if isinstance(values.get(name), int)), None)
        if name is not None:
            yield scheduler, name, start, start + values[name]
            return


def _num_left(trainer: Trainer, ours: Mapping[str, Any], interval: str) -> float:
    """Return how many epochs or optimizer steps are left."""
    position, epochs_done = ours["position"], completed_epochs(ours)
    batches, window = _counted(trainer)
    epochs = _end(trainer.max_epochs) - epochs_done
    steps = _end(trainer.max_steps) - position["step"]
    if not math.isfinite(batches):
        return steps if interval == "step" else epochs
    per_epoch = math.ceil(batches / window)
    done = math.ceil(position["batch"] / window) if position["epoch"] == epochs_done else 0
    steps = min(steps, epochs * per_epoch - done)
    return max(0, steps if interval == "step" else min(epochs, math.ceil((steps + done) / max(1, per_epoch))))


def _counted(trainer: Trainer) -> tuple[float, int]:
    """Return the batches of an epoch, and those between two steps, as positions count them."""
    unit = boundary.per_window(trainer)
    return trainer.num_training_batches // unit, trainer.accumulate_grad_batches // unit


def _end(limit: int | None) -> float:
    return math.inf if limit is None or limit < 0 else limit
