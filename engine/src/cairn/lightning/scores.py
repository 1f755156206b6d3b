"""The score of a checkpoint: the monitored metric, if a validation or an epoch has logged it right before.

`trainer.callback_metrics` keeps the value of each metric until it is logged again. Lightning computes another tensor
then, so that another tensor means another value, also if the numbers are equal.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from cairn.lightning.checks import callbacks, monitors
from cairn.lightning.saved import sums


class _Seen:
    """A value, which is kept so that its memory is not used for another one."""

    def __init__(self, value: Any) -> None:
        self.value = value
        # Each read of `callback_metrics` returns a new view of the same tensor.
        self._place: object = id(value)
        if isinstance(value, Tensor):
            version = 0 if value.is_inference() else value._version
            self._place = (value.data_ptr(), version)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Seen) and self._place == other._place


class Scores:
    """Scores of the validations and epochs of a fit.

    Args:
        trainer: The trainer.
        monitor: Name of the metric; None: nothing is ranked.
    """

    def __init__(self, trainer: Trainer, monitor: str | None) -> None:
        self.trainer, self.monitor = trainer, monitor
        self._known = _Seen(None)
        """The value that is not a new one."""
        self._found = self._missed = self._checked = self._warned = False
        """Whether the metric was ever logged, or missed, its name was checked, and a warning was logged."""

    def check(self) -> None:
        """Check the name of the metric in the sanity check, which logs what a validation logs.

        Raises:
            ConfigError: The metric is not logged, and is not one that may be logged later.
        """
        names = self._names()
        callbacks.check_after_sanity_check(self.trainer, names)
        in_doubt = False
        if self.monitor is not None and self.monitor not in names:
            in_doubt = monitors.check_name(self.trainer, self.monitor, names)
        self._checked = not in_doubt

    def validation_begins(self) -> None:
        """Note the value of the last validation."""
        self._known = _Seen(self._value)

    def of_validation(self) -> float | None:
        """Return the score of the validation that has ended; None if it has not logged the metric.

        Raises:
            ConfigError: No validation has logged the metric, and it is probably another one that is meant.
        """
        if self.monitor is None:
            return None
        score = self._new()
        if score is None and not self._found and not self._checked:
            monitors.check_first_validation(self.trainer, self.monitor, self._names())
        self._checked = True
        return score

    def of_epoch(self) -> float | None:
        """Return the score of the epoch that has ended; None if its training has not logged the metric."""
        if self.monitor is None:
            return None
        score = self._new()
        if score is None and not self._found and not self._warned and self._value is not None:
            self._warned = True
            monitors.warn(
                f"monitor={self.monitor!r} was logged for single batches only, which gives no value to rank this "
                f"epoch by: log it with on_epoch=True."
            )
        return score

    def restored(self) -> None:
        """The metrics of the checkpoint are restored: they are not new."""
        self._known = _Seen(self._value)
        self._found = self._found or self._known.value is not None

    def warn_without_any(self) -> None:
        """Warn at the end of a fit that has logged the metric nowhere."""
        if self._missed and not self._found and not self._warned:
            monitors.warn(
                f"monitor={self.monitor!r} was never logged, so no checkpoint is the best one. Log it in "
                f"validation_step. What was logged: {', '.join(sorted(self.trainer.callback_metrics)) or 'nothing'}."
            )

    @property
    def _value(self) -> Any:
        return self.trainer.callback_metrics.get(self.monitor or "")

    def _new(self) -> float | None:
        value, before = self._value, self._known
        self._known = _Seen(value)
        if value is None or self._known == before:
            self._missed = True
            return None
        self._found = True
        return float(value)

    def _names(self) -> list[str]:
        return sorted({*self.trainer.callback_metrics, *sums.names_of_validation(self.trainer)})
