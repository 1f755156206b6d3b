"""Checks whether a run logs the metrics that Lightning's callbacks and schedulers wait for; a missing one ends it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn.errors import ConfigError
from cairn.lightning.checks import monitors
from cairn.lightning.checks.logged_names import may_log

log = logging.getLogger(__name__)


@rank_zero_only
def _warn(message: str) -> None:
    log.warning(message)


def check_after_sanity_check(trainer: Trainer, names: Sequence[str]) -> None:
    """Check the metrics of callbacks and schedulers that the sanity check has not logged.

    Args:
        trainer: The trainer.
        names: What was logged.

    Raises:
        ConfigError: A metric will never be logged.
    """
    for what, monitor in _waiting(trainer):
        if monitor in names:
            continue
        if why := monitors.why_never(trainer, monitor, names):
            raise ConfigError(f"{what} waits for {monitor!r}, which {why}")
        if not monitors.may_be_logged(trainer, monitor, names):
            meant = monitors.did_you_mean(monitor, names)
            problem = f"{what} waits for {monitor!r}, which the sanity check has not logged, and no code names"
            logged = f"what is logged: {', '.join(names) or 'nothing'}.{meant}"
            if meant and not may_log(trainer, monitor):
                raise ConfigError(f"{problem}; {logged}")
            _warn(f"{problem}: training ends with an error if it is not logged by then; {logged}")


def check_without_validation(trainer: Trainer) -> None:
    """Warn, before a training without a validation, of metrics that nothing in it seems to log."""
    if monitors.has_validations(trainer):
        return
    for what, monitor in _waiting(trainer):
        if not monitors.is_in_training(trainer, monitor):
            _warn(
                f"{what} waits for {monitor!r}, this fit has no validation, and no code of the training names it: "
                f"training ends with an error if it is not logged."
            )


@contextmanager
def explained(trainer: Trainer) -> Iterator[None]:
    """Replace the error of a callback whose metric was not logged by a sentence.

    Raises:
        ConfigError: A callback has failed because of it.
    """
    try:
        yield
    except (RuntimeError, KeyError) as error:
        logged = sorted(trainer.callback_metrics)
        for callback in trainer.callbacks:
            monitor = getattr(callback, "monitor", None)
            if isinstance(monitor, str) and monitor not in logged and _is_about(error, monitor):
                raise ConfigError(
                    f"{type(callback).__name__} waits for {monitor!r}, which this run does not log; what is logged: "
                    f"{', '.join(logged) or 'nothing'}.{monitors.did_you_mean(monitor, logged)} Change its monitor, or "
                    f"log this metric."
                ) from error
        raise


def _is_about(error: RuntimeError | KeyError, monitor: str) -> bool:
    return error.args[:1] == (monitor,) if isinstance(error, KeyError) else f"`{monitor}`" in str(error)


def _waiting(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """Yield what ends a run that does not log a metric, and the metric."""
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping) and callback.strict and isinstance(callback.monitor, str):
            yield type(callback).__name__, callback.monitor
    for config in trainer.lr_scheduler_configs:
        monitor: Any = config.monitor
        if config.reduce_on_plateau and config.strict and isinstance(monitor, str):
            yield type(config.scheduler).__name__, monitor
