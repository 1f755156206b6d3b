"""What the loops of a fit call at boundaries and at the start of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from torch import Tensor

from cairn.jobs.signals import Interruption
from cairn.types import Saved

Place = Literal["batch", "epoch"]
"""Kind of a boundary: after a batch inside an epoch, or after the end of an epoch."""


class EpochStart(Protocol):
    """The object that the loops call at the start of an epoch."""

    def epoch_begins(self) -> None:
        """The hooks at the start of an epoch are about to run."""
        ...

    def epoch_begun(self) -> None:
        """The hooks at the start of an epoch have run."""
        ...

    def epoch_begins_again(self) -> None:
        """A resume continues inside an epoch: run the hooks at its start again."""
        ...

    def now(self) -> dict[str, Any]:
        """Return the generators and the number of steps."""
        ...

    def as_at(self, state: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Context in which the generators and the number of steps are those that `now` has returned before."""
        ...


class Engine(Protocol):
    """The object that the loops call."""

    @property
    def restart(self) -> EpochStart:
        """Called at the start of each epoch."""
        ...

    def batch_done(self, num_samples: int, of_all_ranks: bool = False) -> None:
        """A batch of this many samples was trained on; its validation, if one is due, is still to come.

        Args:
            num_samples: In the batch of this rank, and as many in those of the others.
            of_all_ranks: The number is that of all ranks together.
        """
        ...

    def at_boundary(self, place: Place, ends: bool) -> None:
        """Handle a boundary. May raise an exception to stop the run.

        Args:
            place: After a batch, or after an epoch.
            ends: Whether the run ends here.
        """
        ...

    def restore(self, ends: Callable[[], bool]) -> None:
        """Restore what Lightning does not restore, with the random number generators last. May stop the run then.

        Args:
            ends: Returns whether the run ends where its checkpoint is.
        """
        ...

    def built(self) -> None:
        """Note that optimizers are built and have their state: no hook that a resume skips has run."""
        ...

    def ended(self) -> None:
        """Undo what must not outlive the training: it has ended, in whatever way. Must not raise."""
        ...

    def stopped(self, reason: str) -> None:
        """Note that the run was stopped at a boundary, after which `fit` returns normally.

        Args:
            reason: See `Stopped`.
        """
        ...


class Evaluation(Protocol):
    """What the loop over the batches of a validation or a test calls."""

    batch_idx: int

    def batch(self, loader: int, number: int) -> AbstractContextManager[None]: ...

    def combine(self) -> None: ...

    def ends(self) -> None: ...


class VirtualRanks(Protocol):
    """What the loops call around each batch of a run whose bits do not depend on the number of processes.

    See `cairn.lightning.bits.virtual_ranks`.
    """

    @property
    def is_inside(self) -> bool: ...

    def adopt(self, loader: Any) -> None: ...

    def deal(self, dealt: Any) -> None: ...

    batch_idx: int
    of_global_batch: range

    def batch(self, number: int, window: int) -> AbstractContextManager[None]: ...

    def training_step(self) -> AbstractContextManager[None]: ...

    def backward(self, backward: Callable[[Tensor], None], loss: Tensor) -> None: ...

    def start_of_step(self) -> AbstractContextManager[None]: ...

    def step_ended(self) -> None: ...

    def batch_logged(self) -> None: ...

    def epoch_ends(self) -> None: ...

    def epoch_ended(self) -> None: ...

    def evaluation(self, results: Any, loaders: Sequence[Any]) -> Evaluation: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class Stopped(Interruption):
    """Training was asked to stop, and stands at a boundary. If not caught, it ends the process with its exit code.

    Attributes:
        reason: Name of a signal, `max_time`, or `job_time_limit`.
        saved: The newest committed checkpoint; None if there is none, and on ranks other than 0.
    """

    def __init__(self, reason: str, saved: Saved | None, rank: int = 0) -> None:
        super().__init__(reason)
        self.saved = saved
        # If another rank fails, Lightning's launcher kills the main process, which may still be writing.
        if rank > 0:
            self.code = 0
