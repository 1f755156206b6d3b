"""Checks before the first batch whether a run will log the metric that ranks its checkpoints."""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Iterator, Sequence
from types import CodeType, FunctionType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn
from torchmetrics import MetricCollection

from cairn.errors import ConfigError
from cairn.lightning.checks.logged_names import may_log
from cairn.lightning.policy import Policy
from cairn.lightning.saved import sums
from cairn.policy.when import BestValidation

log = logging.getLogger(__name__)

_LIBRARIES = ("lightning", "pytorch_lightning", "torch", "torchmetrics", "builtins", "cairn", "abc", "typing")
_LOGS_NOTHING = re.compile("configure_|prepare_data")
_OUT_OF_TRAINING = re.compile("(on_)?(val|test|predict|sanity)|configure_|__init__|setup|prepare_data")
_OUT_OF_VALIDATION = re.compile("(on_)?(train|test|predict|before|after)|configure_|__init__|setup|prepare_data")
"""Names of methods that do not log what is asked for; other methods may be called by any of them."""
_LOADER = re.compile(r"/dataloader_idx_\d+$")
_FORK = re.compile("_(epoch|step)$")
_SUFFIX = re.compile(r"(/dataloader_idx_\d+|_epoch|_step)$")
"""What Lightning adds to the name in `self.log`."""


@rank_zero_only
def warn(message: str) -> None:
    """Log a warning about `monitor`, once for all processes."""
    log.warning(message, extra={"parameter": "monitor"})


def check_name(trainer: Trainer, monitor: str, names: Sequence[str]) -> bool:
    """Check a metric that the sanity check has not logged.

    Args:
        trainer: The trainer.
        monitor: The metric.
        names: What was logged.

    Returns:
        Whether another metric is probably meant: the first validation shows it.

    Raises:
        ConfigError: The metric is another one, or no code logs it.
    """
    _refuse_never(trainer, monitor, names)
    is_named, meant = may_be_logged(trainer, monitor, names), did_you_mean(monitor, names)
    if not is_named and not may_log(trainer, monitor):
        raise ConfigError(
            f"monitor={monitor!r} is not logged by a validation of this model; what is logged: "
            f"{', '.join(names) or 'nothing'}.{meant} No code of the model and its callbacks can log it.",
            parameter="monitor",
        )
    meant = "" if is_named else meant
    warn(
        f"monitor={monitor!r} is not logged by the sanity check: checkpoints are ranked only after a validation, or an "
        f"epoch, that logs it.{meant}"
    )
    return bool(meant)


def check_first_validation(trainer: Trainer, monitor: str, names: Sequence[str]) -> None:
    """Check a metric that the first validation of a run without a sanity check has not logged.

    Raises:
        ConfigError: A metric with a similar name was logged.
    """
    _refuse_never(trainer, monitor, names)
    meant = "" if may_be_logged(trainer, monitor, names) else did_you_mean(monitor, names)
    what = f"monitor={monitor!r} is not logged by a validation of this model; what is logged: "
    logged = f"{', '.join(names) or 'nothing'}."
    if meant:
        raise ConfigError(
            f"{what}{logged}{meant} A metric that only some validations log is ranked if the others log NaN.",
            parameter="monitor",
        )
    warn(f"{what}{logged} Checkpoints are ranked only after a validation, or an epoch, that logs it.")


def check_due(trainer: Trainer, policy: Policy) -> None:
    """Check that there will be a score to save for.

    Args:
        trainer: The trainer, at the start of the training.
        policy: The policy of the run.

    Raises:
        ConfigError: A trigger waits for validations, and none will take place.
    """
    monitor = policy.monitor
    best = [name for name, trigger in policy.triggers.items() if isinstance(trigger, BestValidation)]
    if not best or monitor is None:
        return
    if why := _why_of_a_batch(trainer, monitor):
        raise ConfigError(f"monitor={monitor!r} {why}", parameter="monitor")
    if _is_of_training(trainer, monitor):
        return
    if not has_validations(trainer):
        raise ConfigError(
            f"monitor={monitor!r} needs a validation, and this fit has none: pass a validation loader that is not "
            f"empty, and a model with a validation_step; or leave monitor out.",
            parameter="monitor",
        )
    if _first_validation(trainer) > _num_batches(trainer):
        message = (
            f"monitor={monitor!r} needs a validation, and none takes place before the end of this fit "
            f"(max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}): lower val_check_interval, which is "
            f"{trainer.val_check_interval}, or check_val_every_n_epoch, which is {trainer.check_val_every_n_epoch}."
        )
        if any(trigger.lasting for name, trigger in policy.triggers.items() if name not in best):
            warn(message)  # a short trial of a longer run: it is saved all the same
        else:
            raise ConfigError(message, parameter="monitor")


def has_validations(trainer: Trainer) -> bool:
    """Whether a fit validates at all."""
    return bool(trainer.enable_validation and (not trainer.num_val_batches or any(trainer.num_val_batches)))


def why_never(trainer: Trainer, monitor: str, names: Sequence[str]) -> str:
    """Return why a metric that the sanity check has not logged will never be logged; empty if it may be.

    Args:
        trainer: The trainer.
        monitor: The metric.
        names: What was logged.
    """
    if several := [name for name in names if name.startswith(f"{monitor}/dataloader_idx_")]:
        return f"is logged for each of several validation loaders, under a name of its own: choose {_or(several)}."
    if monitor in sums.names_of_steps(trainer) and not is_in_training(trainer, monitor):
        return "is logged with on_epoch=False, so that a validation as a whole has no value: log it with on_epoch=True."
    if is_written_out(trainer, monitor):  # the code itself makes this name
        return ""
    if found := _LOADER.search(monitor):
        base, number = monitor[: found.start()], int(found[0].rpartition("_")[2])
        others = [name for name in names if name == base or name.startswith(f"{base}/dataloader_idx_")]
        if others and (base in names or number >= len(trainer.num_sanity_val_batches)):
            return f"does not exist: the validation loaders log {', '.join(others)}. Choose {_or(others)}."
    base = _FORK.sub("", monitor)
    if base != monitor and base in names and not is_in_training(trainer, base):
        others = [name for name in names if name in (base, f"{base}_epoch")]
        return f"is not a value of a whole validation: choose {_or(others)}."
    return ""


def _why_of_a_batch(trainer: Trainer, monitor: str) -> str:
    """Return why a metric of a single batch is not a score; empty if it is another metric."""
    base = monitor.removesuffix("_step")
    if base == monitor or is_written_out(trainer, monitor) or not is_in_training(trainer, base):
        return ""
    return f"is the value of a single batch, which does not rank an epoch: choose {base + '_epoch'!r}."


def _refuse_never(trainer: Trainer, monitor: str, names: Sequence[str]) -> None:
    if why := why_never(trainer, monitor, names) or _why_of_a_batch(trainer, monitor):
        raise ConfigError(f"monitor={monitor!r} {why}", parameter="monitor")


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)


def _first_validation(trainer: Trainer) -> float:
    """Return after how many batches of the run the first validation takes place; 0 if it is unknown."""
    interval, every = trainer.val_check_batch, trainer.check_val_every_n_epoch
    if interval is None:  # by time
        return 0
    if every is None:
        return interval if math.isfinite(interval) else 0
    batches = trainer.num_training_batches
    if not math.isfinite(batches):
        return math.inf if every > _end(trainer.max_epochs) else 0
    return (every - 1) * batches + min(interval, batches)


def _num_batches(trainer: Trainer) -> float:
    """Return at most how many batches the run has, from its beginning."""
    batches, epochs, steps = trainer.num_training_batches, _end(trainer.max_epochs), _end(trainer.max_steps)
    return min(epochs * batches if epochs else 0, steps * trainer.accumulate_grad_batches)


def _end(limit: int | None) -> float:
    return math.inf if limit is None or limit < 0 else limit


def did_you_mean(monitor: str, names: Sequence[str]) -> str:
    """Return a question with the names that are like `monitor`; empty if there are none."""
    same_letters = [name for name in names if _letters(name) == _letters(monitor)]
    bare = {_LOADER.sub("", name) for name in names}
    near = same_letters or difflib.get_close_matches(monitor, [*names, *bare], n=3, cutoff=0.8)
    meant = [name for name in names if name in near or _LOADER.sub("", name) in near]
    return f" Did you mean {' or '.join(map(repr, meant))}?" if meant else ""


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def may_be_logged(trainer: Trainer, monitor: str, names: Sequence[str]) -> bool:
    """Whether the code of the project names the metric, which may then be logged at other times."""
    is_misspelt = any(_letters(name) == _letters(monitor) for name in names)
    # `train/kl` if the code contains `train/` and a validation logs `val/kl`: the rest may come from a dict.
    rests = {name[found.end() :] for name in names for found in re.finditer(r"[/_.-]", name)}
    texts = _all_texts(trainer, _LOGS_NOTHING) | rests
    return not is_misspelt and (_is_in_code(trainer, monitor, _LOGS_NOTHING) or _consists_of(monitor, texts))


def is_in_training(trainer: Trainer, monitor: str) -> bool:
    """Whether the code that trains names the metric."""
    return _is_in_code(trainer, monitor, _OUT_OF_TRAINING)


def _is_of_training(trainer: Trainer, monitor: str) -> bool:
    """Whether the code that trains names the metric, and the code that validates does not."""
    return is_in_training(trainer, monitor) and not _is_in_code(trainer, monitor, _OUT_OF_VALIDATION)


def is_written_out(trainer: Trainer, monitor: str) -> bool:
    """Whether the code of the project names the metric without what Lightning may add to its name."""
    return _consists_of(monitor, _all_texts(trainer, _LOGS_NOTHING))


def _is_in_code(trainer: Trainer, monitor: str, skipped: re.Pattern[str]) -> bool:
    """Whether a name is made of the strings in the methods of the model and of the callbacks, without those skipped."""
    texts = _all_texts(trainer, skipped)
    names = {monitor, _SUFFIX.sub("", monitor), _SUFFIX.sub("", _SUFFIX.sub("", monitor))}
    return any(_consists_of(name, texts) for name in names)


def _all_texts(trainer: Trainer, skipped: re.Pattern[str]) -> set[str]:
    texts = {*_texts(trainer.lightning_module, skipped)}
    for callback in trainer.callbacks:
        texts |= {*_texts(callback, skipped)}
    return texts


def _consists_of(name: str, texts: set[str]) -> bool:
    """Whether a name is made of pieces, as by an f-string: `train` and `/loss`, or `top` and a number."""
    reached = {0}
    for start in range(len(name)):
        if start in reached:
            ends = range(start + 1, len(name) + 1)
            reached |= {end for end in ends if name[start:end] in texts or name[start:end].isdigit()}
    return len(name) in reached


def _texts(owner: Any, skipped: re.Pattern[str]) -> Iterator[str]:
    """Yield the strings in the code of an object's own classes, without those that are too short to say anything."""
    parts = owner.modules() if isinstance(owner, nn.Module) else [owner]
    kinds = {kind for part in parts for kind in type(part).__mro__}
    for kind in kinds:
        if kind.__module__.partition(".")[0] in _LIBRARIES:
            continue
        for name, value in vars(kind).items():
            function = getattr(value, "__func__", getattr(value, "fget", value))
            function = getattr(function, "__wrapped__", function)
            if isinstance(function, FunctionType) and not skipped.match(name):
                yield from _constants(function.__code__)
    if isinstance(owner, LightningModule):
        yield from (value for key, value in vars(owner).items() if isinstance(value, str) and key != "monitor")
        for part in owner.modules():
            if isinstance(part, MetricCollection):
                yield from (str(name) for name in part.keys(keep_base=False))


def _constants(code: CodeType) -> Iterator[str]:
    stack: list[Any] = [*code.co_consts]
    while stack:
        value = stack.pop()
        if isinstance(value, CodeType):
            stack.extend(value.co_consts)
        elif isinstance(value, tuple):
            stack.extend(value)
        elif isinstance(value, str) and (len(value) > 1 or not value.isalnum()):
            yield value
