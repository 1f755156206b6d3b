"""A run whose bits do not depend on the number of processes: what its loops call around each batch.

global batch k      batches v = 0 ... V - 1, one for each virtual rank; a process has those that follow each other
batch v             generators are seeded by (seed, k, v); metrics and `self.log` collect for v; buffers begin as in
                    all others of k; gradients go into the tree
step                gradients of all processes are added up; buffers follow v = 0; one seed for all processes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from cairn.data.loader import DataLoader
from cairn.data.virtual_ranks import use_virtual_ranks
from cairn.lightning.bits import refused
from cairn.lightning.bits.collected import Collected
from cairn.lightning.bits.evaluation import Evaluation
from cairn.lightning.bits.kept import Kept
from cairn.lightning.bits.tree import Layout
from cairn.lightning.bits.window import Window
from cairn.lightning.loops.dealing import Dealt
from cairn.lightning.saved import placed


class VirtualRanks:
    """The virtual ranks of a trainer.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.kept = Kept(trainer)
        """What the run keeps."""
        self._window: Window | None = None
        self._adopted: list[DataLoader] = []
        self.batch_idx = 0
        """Number of the batch in the epoch, as one process would count it."""
        self.of_global_batch = range(1)
        """Numbers of the batches of its global batch."""
        self._collected: Collected | None = None

    @property
    def is_inside(self) -> bool:
        """Whether a batch is worked on that has others before it in its global batch, and has not logged all yet."""
        is_later = self._window is not None and self._window.number > 0
        return is_later and self._collected is not None and self._collected.results.virtual is not None

    def adopt(self, loader: Any) -> None:
        """Let a loader deal out the same batches on any number of processes."""
        if isinstance(loader, DataLoader):
            use_virtual_ranks(loader, in_turn=self._in_turn)
            self._adopted.append(loader)

    @property
    def _in_turn(self) -> bool:
        # So that a process, which has only some rows of each gradient, can add these up as they come.
        return self.trainer.world_size > 1 and placed.is_sharded(self.trainer.lightning_module)

    def deal(self, dealt: Dealt) -> None:
        """Begin with the training loaders.

        Raises:
            ConfigError: Something would depend on the number of processes.
            ResumeError: The run has another number of virtual ranks.
        """
        trainer = self.trainer
        layout = Layout(dealt.num_virtual_ranks, trainer.global_rank, trainer.world_size, self._in_turn)
        self.kept.begin(layout.num_virtual, dealt.loader.global_batch_size or 0)
        if self._window is not None:
            self._window.release()
        refused.check(trainer, layout.num_virtual)
        self._window = Window(trainer, layout, self.kept.drawing)
        if self._collected is None:
            self.kept.drawing.begin()
            self._collected = Collected(trainer, trainer.fit_loop.epoch_loop._results)

    def release(self) -> None:
        """Leave loaders, module and trainer as they were: they may be used without virtual ranks next."""
        for loader in self._adopted:
            use_virtual_ranks(loader, is_on=False)
        self._adopted.clear()
        if self._window is not None:
            self._window.release()
            self._window = None

    def evaluation(self, results: Any, loaders: Sequence[Any]) -> Evaluation:
        """Begin with the loaders of a validation or a test; arguments and errors are those of `Evaluation`."""
        return Evaluation(self.trainer, results, loaders, self.kept)

    @contextmanager
    def batch(self, number: int, window: int) -> Iterator[None]:
        """Context in which a batch of the training is worked on.

        Args:
            number: Its number among the batches of this process in their global batch.
            window: Number of the global batch in its epoch.
        """
        current, collected = self._current()
        current.begin(number, self.trainer.global_step)
        num_virtual = current.layout.num_virtual
        self.of_global_batch = range(window * num_virtual, (window + 1) * num_virtual)
        self.batch_idx = self.of_global_batch[current.virtual]
        with collected.batch((0, current.virtual), current.counts):
            yield
        current.end()

    def training_step(self) -> AbstractContextManager[None]:
        """Context of `training_step`; see `Window.training_step`."""
        return self._current()[0].training_step()

    def backward(self, backward: Callable[[Tensor], None], loss: Tensor) -> None:
        """Run the backward pass of a batch; after the last one of a global batch, set the gradients of all of them.

        What is logged from then on, up to `step_ended`, counts once: all processes log the same.

        Args:
            backward: Runs it.
            loss: Mean over the samples of the batch, weighted by their number.
        """
        current, collected = self._current()
        current.backward(backward, loss)
        if current.is_last:
            collected.step_begins(counts=current.virtual == current.layout.num_virtual - 1)

    def step_ended(self) -> None:
        """Let what follows in the last batch of a global batch count for it again."""
        if self._collected is not None and self._window is not None:
            self._window.step_ended()
            self._collected.step_ends()

    @contextmanager
    def start_of_step(self) -> Iterator[None]:
        """Context of hooks in the first batch of a global batch, which all processes run: they count once."""
        current, collected = self._current()
        current.start_of_step()
        collected.step_begins(counts=current.virtual == 0)
        yield
        collected.step_ends()

    def batch_logged(self) -> None:
        """Take what a batch has logged; after the last one of a global batch, show the values of all of them."""
        collected = self._collected
        current = self._window
        if collected is None or current is None or collected.results.virtual is None:  # of a validation
            return
        collected.take_latest(current.virtual, current.counts)
        if current.is_last:
            collected.show_latest()

    def epoch_ends(self) -> None:
        """Combine what all virtual ranks have collected, before the hooks at the end of an epoch."""
        if self._collected is not None:
            self._collected.combine()

    def epoch_ended(self) -> None:
        """Compare what these hooks have logged."""
        if self._collected is not None:
            self._collected.results.compare()

    def state(self) -> dict[str, Any]:
        """Return what the virtual ranks of this process have collected in this epoch."""
        return {} if self._collected is None else self._collected.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` has returned on any number of processes."""
        current, collected = self._current()
        collected.load_state(state, current.layout.own)

    def _current(self) -> tuple[Window, Collected]:
        assert self._window is not None
        assert self._collected is not None
        return self._window, self._collected
