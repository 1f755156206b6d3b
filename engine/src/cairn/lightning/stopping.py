"""What stops a fit: signals that are caught while it runs, or a function of the caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from cairn.errors import ConfigError
from cairn.jobs.signals import Interrupts
from cairn.lightning import requeue
from cairn.lightning.loops.calls import Stopped


class Stopping(Protocol):
    """Asked at every boundary; learns when training begins and ends."""

    def reason(self, until_committed_s: float) -> str | None:
        """Return why the run must stop now; None: it continues."""
        ...

    def prepare(self) -> None:
        """A fit is set up: Lightning has not installed its handlers yet."""
        ...

    def begin(self) -> None:
        """Training begins."""
        ...

    def end(self) -> str | None:
        """Training has ended, and is saved. Return a reason that came after the last boundary."""
        ...

    def ending(self) -> None:
        """Training ends by an error, or was stopped: no boundary will come; what is under way is saved now."""
        ...

    def failed(self, error: BaseException, trainer: Trainer) -> None:
        """Training has ended by this error, and is saved."""
        ...

    def hung(self, trainer: Trainer) -> None:
        """Training hangs, and this process is about to exit: requeue its job. Called in another thread."""
        ...


class BySignals:
    """Catches the stop signals while a fit runs, and puts back the handlers from before."""

    def __init__(self) -> None:
        self._interrupts = Interrupts()

    def reason(self, until_committed_s: float) -> str | None:
        """Return the name of the first signal."""
        return self._interrupts.name

    def prepare(self) -> None:
        """Remember the handlers of the user's own code, which are called as well."""
        self._interrupts = Interrupts()
        self._interrupts.remember_own()

    def begin(self) -> None:
        """Install the handlers: after Lightning has installed its own, for it puts back what it found before them."""
        self._interrupts.training = True
        self._interrupts.install()

    def end(self) -> str | None:
        """Put back the handlers from before."""
        self._interrupts.remove()
        return self._interrupts.name

    def ending(self) -> None:
        """From now on, only Ctrl-C disturbs."""
        self._interrupts.training, self._interrupts.stopping = False, True

    def failed(self, error: BaseException, trainer: Trainer) -> None:
        """Say what a signal has done; requeue the job if the handlers that we replaced would have."""
        if isinstance(error, Stopped) and trainer.is_global_zero:
            saved = f"{error.saved.name} is saved" if error.saved else "no checkpoint was asked for"
            rank_zero_info(f"{error.reason}: the run stops; {saved}.")
            requeue.as_before(trainer, error.reason, self._interrupts)
        self._interrupts.remove()

    def hung(self, trainer: Trainer) -> None:
        """Requeue the job if it would be requeued after a signal."""
        requeue.after_hang(trainer, self._interrupts)


class ByFunction:
    """Asks a function of the caller, who catches signals himself.

    Args:
        stop: Gets the seconds until a save would be committed; returns the name of a signal, or None.
    """

    def __init__(self, stop: Callable[[float], str | None]) -> None:
        self._stop = stop

    def reason(self, until_committed_s: float) -> str | None:
        """Return what the function returns.

        Raises:
            ConfigError: It returns something else than a name.
        """
        name = self._stop(until_committed_s)
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigError(f"stop returned {name!r}: it must return the name of a signal, or None to go on.")
        return name

    def prepare(self) -> None:
        """Do nothing."""

    def begin(self) -> None:
        """Do nothing."""

    def end(self) -> str | None:
        """The caller knows of later signals."""
        return None

    def ending(self) -> None:
        """Do nothing."""

    def failed(self, error: BaseException, trainer: Trainer) -> None:
        """Do nothing."""

    def hung(self, trainer: Trainer) -> None:
        """Do nothing: the caller requeues the job."""
