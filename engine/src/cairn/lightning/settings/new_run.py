"""A new run that starts from the full state of another one: its own configuration decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import nn

from cairn.errors import first_line
from cairn.lightning.settings import classes, learning_rate, parts
from cairn.lightning.settings.buffers import Buffers
from cairn.lightning.settings.learning_rate import Schedule, TooManySteps
from cairn.lightning.settings.parts import Part

_OPTIONS = {"lr", "initial_lr", "weight_decay", "betas", "eps", "momentum"}
"""Options that optimizers of any package have."""
Changes = Mapping[str, tuple[Any, Any]]
Record = Mapping[str, Mapping[str, Any]]
"""Settings of each part of a kind, by its key, as a checkpoint has them; empty if an earlier version saved it."""


def accumulation(trainer: Trainer) -> int:
    """Return over how many batches this epoch accumulates gradients."""
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            return int(callback.get_accumulate_grad_batches(trainer.current_epoch))
    return trainer.accumulate_grad_batches


def changed_metrics(
    metrics: Sequence[Part], then: Record | None, state: Mapping[str, Any], buffers: Buffers
) -> dict[str, list[str]]:
    """Return the metrics that are configured in another way than before, with a text for each change.

    Args:
        metrics: The metrics of the module.
        then: Their settings in the checkpoint; None: an earlier version saved it.
        state: Saved state of the metrics, see `sums.metrics`.
        buffers: The buffers of the module, which are followed already.
    """
    found = {}
    for part in metrics:
        before = (then or {}).get(part.key, {})
        if then is None:
            plain = state.get(part.key, {}).get("plain", {})
            before = {name: plain[name] for name in part.arguments if name in plain}
        found[part.key] = part.changed(before)
    texts = {key: parts.describe(changed) for key, changed in found.items() if changed}
    for key, more in buffers.metrics.items():
        texts.setdefault(key, []).extend(more)
    return texts


def adjusted_state(
    module: LightningModule,
    state: Mapping[str, Any],
    reset: Mapping[str, Any],
    then: Mapping[str, Any],
    first_batch: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the state of a rank without what the module does not have, and with the modes of this run.

    Args:
        module: The module.
        state: What a checkpoint holds for this rank.
        reset: Metrics that start empty: sums under other settings cannot go on.
        then: What the checkpoint says about the settings.
        first_batch: Exceptions at the first batch of this run, see `parts.exceptions`.
    """
    names = dict(module.named_modules())
    entries = state["logged"]["entries"].items()
    logged = {key: entry for key, entry in entries if entry["is_tensor"] or entry["metric_attribute"] in names}
    return {
        **state,
        "modes": modes(module, state["modes"], then.get("first_batch"), first_batch),
        "metrics": {key: value for key, value in state["metrics"].items() if key in names and key not in reset},
        "logged": {**state["logged"], "entries": logged},
        "buffers": {key: value for key, value in state["buffers"].items() if key.rpartition(".")[0] in names},
    }


def modes(module: nn.Module, saved: Mapping[str, Any], then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Any:
    """Return which parameters are frozen, and which modules are in training mode.

    What the new configuration changes counts; the rest is state, such as a backbone that was unfrozen in training.

    Args:
        module: The module.
        saved: Modes in the checkpoint, see `unsaved.modes`.
        then: Exceptions at the first batch of the earlier run, see `parts.exceptions`; None: unknown.
        now: Exceptions at the first batch of this run.
    """
    then_of = {kind: {*names} for kind, names in (then or {}).items()}
    now_of = {kind: {*names} for kind, names in now.items()}
    was_frozen = {*saved["frozen"]}

    def keeps(name: str, kind: str) -> bool:
        return then is not None and (name in then_of[kind]) == (name in now_of[kind])

    names = [name for name, _ in module.named_parameters()]
    frozen = [name for name in names if name in (was_frozen if keeps(name, "frozen") else now_of["frozen"])]
    training = {}
    for name, _ in module.named_modules():
        own = name not in now_of["eval"]
        training[name] = saved["training"].get(name, own) if keeps(name, "eval") else own
    return {"training": training, "frozen": frozen}


def configure(
    trainer: Trainer,
    groups: Sequence[Part],
    schedulers: Sequence[Part],
    ours: Mapping[str, Any],
    schedules: Sequence[Schedule],
) -> tuple[list[str], list[str]]:
    """Give the optimizers and schedulers, which have loaded their state, the settings of this run.

    Args:
        trainer: The trainer.
        groups: The parameter groups.
        schedulers: The schedulers.
        ours: Value of the key `cairn` in the checkpoint.
        schedules: The schedulers of each optimizer, as they were built.

    Returns:
        Texts of the changes, and of the schedules that cannot follow them.
    """
    followed: list[str] = []
    kept: list[str] = []
    then = ours.get("settings", {})
    for number, schedule in enumerate(schedules):
        indices = [n for n, c in enumerate(trainer.lr_scheduler_configs) if c.scheduler in schedule.schedulers]
        scheduled = {str(n): trainer.lr_scheduler_configs[n].scheduler for n in indices}
        own_groups = [part for part in groups if part.key.partition(".")[0] == str(number)]
        own_schedulers = [part for part in schedulers if part.key.partition(" ")[0].partition(".")[0] in scheduled]
        changes = [_changes_of_group(part, then.get("optimizers"), scheduled) for part in own_groups]
        more = [_changes_of_scheduler(part, then.get("schedulers")) for part in own_schedulers]
        counts = {index: classes.steps_before(trainer, index, ours) for index in indices}
        for part, changed in zip(own_groups, changes, strict=True):
            followed += _set(part, changed, but="lr" if scheduled else "")
        for part, changed in zip(own_schedulers, more, strict=True):
            followed += _set(part, changed)
        if scheduled and (any([*changes, *more]) or classes.differ(trainer, counts, then)):
            ratios = [learning_rate.ratio(part.plain(), c) for part, c in zip(own_groups, changes, strict=True)]
            where, why_not = _move(trainer, schedule, counts, ratios)
            followed, kept = followed + where, kept + why_not
    return followed, kept


def _move(
    trainer: Trainer, schedule: Schedule, counts: Mapping[int, int], ratios: Sequence[float]
) -> tuple[list[str], list[str]]:
    """Let a schedule be where it would be. Returns a text if it is, and one if it cannot."""
    configs, listed = trainer.lr_scheduler_configs, ", ".join(type(item).__name__ for item in schedule.schedulers)
    on_metric = [index for index in counts if configs[index].reduce_on_plateau]
    if on_metric:
        schedule.scale(ratios)
        return [], [f"the progress of {listed}, one of a metric"] if len(on_metric) < len(counts) else []
    try:
        schedule.move_to([*counts.values()])
    except TooManySteps as error:
        schedule.scale(ratios)
        return [], [f"the progress of {listed} ({error})"]
    except Exception as error:  # of another package, or with fewer steps in all than were taken
        schedule.scale(ratios)
        return [], [f"the progress of {listed} ({type(error).__name__}: {first_line(error)})"]
    numbers = ", ".join(map(str, counts.values()))
    return [f"the learning rate is where {listed} would be after {numbers} steps of the schedule"], []


def _changes_of_group(part: Part, then: Record | None, scheduled: Mapping[str, Any]) -> Changes:
    if then is not None:
        record = then.get(part.key, {})
        changed = part.changed(record)
        if "initial_lr" in record and not scheduled:  # the schedule that has set the rate is gone
            changed |= part.changed({"lr": part.loaded().get("lr")})
        return changed
    before = part.loaded()
    if not part.kind.__module__.startswith("torch."):  # other optimizers count steps in their groups, too
        before = {name: value for name, value in before.items() if name in _OPTIONS}
    if scheduled:  # the loaded rate is that of a step in the schedule; `initial_lr` is the configured one
        before.pop("lr", None)
    if any(getattr(scheduler, "cycle_momentum", False) for scheduler in scheduled.values()):
        before = {name: value for name, value in before.items() if name not in ("momentum", "betas")}
    return part.changed(before)


def _changes_of_scheduler(part: Part, then: Record | None) -> Changes:
    if then is not None:
        return part.changed(then.get(part.key, {}))
    # Which attributes of another package's scheduler are settings is unknown.
    return part.changed(part.loaded()) if part.kind.__module__.startswith("torch.") else {}


def _set(part: Part, changed: Changes, but: str = "") -> list[str]:
    for name in part.made:
        if (name in changed and name != but) or name not in part.values():
            part.set(name)
    return [f"{part.name}: {text}" for text in parts.describe(changed)]
